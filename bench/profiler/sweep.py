"""The truth about a simulated engine's knee: every rate, many seeds, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shoal.domain.profile import StepModel
from shoal.profiler.jobs import Trace, make_trace
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.specs import Settings
from shoal.sim.engine import Engine, EngineLimits

SEEDS = tuple(range(1, 10))
STEP = 0.02  # between the rates of the sweep
_SHARES = np.arange(0.1, 1.3, STEP)


@dataclass(frozen=True, slots=True)
class Sweep:
    """`knees` are those of each seed alone, `knee` the highest rate that most seeds serve; requests per second."""

    knee: float
    knees: tuple[float, ...]
    saturation: float


def sweep(steps: StepModel, limits: EngineLimits, settings: Settings, seeds: Sequence[int] = SEEDS) -> Sweep:
    """Play every rate with every seed for the horizon of the settings."""
    source = parse_lengths(settings.lengths)
    most = 400_000
    traces = [make_trace(source, seed=seed, longest=settings.longest, requests=most // 8) for seed in seeds]
    saturation = _saturation(steps, limits, traces[0])
    rates = _SHARES * saturation
    served = np.array([[_serves(steps, limits, settings, trace, rate) for rate in rates] for trace in traces])
    most_serve = served.mean(axis=0) > 0.5
    return Sweep(
        knee=_last_before_failure(rates, most_serve),
        knees=tuple(_last_before_failure(rates, one) for one in served),
        saturation=saturation,
    )


def _last_before_failure(
    rates: np.ndarray[tuple[int], np.dtype[np.float64]], served: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> float:
    failing = np.flatnonzero(~served)
    last = (failing[0] if len(failing) else len(rates)) - 1
    return float(rates[last]) * (1 + STEP / 2) if last >= 0 else 0.0


def _saturation(steps: StepModel, limits: EngineLimits, trace: Trace) -> float:
    count = 3000
    ends = np.sort(_play(steps, limits, np.zeros(count), trace)[1])
    first, last = int(0.2 * count), int(0.8 * count)
    return float((last - first) / (ends[last] - ends[first]))


def _serves(steps: StepModel, limits: EngineLimits, settings: Settings, trace: Trace, rate: float) -> bool:
    seconds = settings.warm_up + settings.horizon
    part = trace.up_to(rate, seconds)
    firsts, ends = _play(steps, limits, part.arrivals, part)
    counted = part.arrivals >= settings.warm_up
    objective = settings.objective
    ttft, outputs = (firsts - part.arrivals) * 1000, part.outputs[: len(firsts)]
    gaps = np.where(outputs > 1, (ends - firsts) * 1000 / np.maximum(outputs - 1, 1), 0.0)
    allowed = objective.allowed * counted.sum()
    late_first = int((ttft[counted] > (objective.ttft_ms or math.inf)).sum())
    late_gap = int((gaps[counted] > (objective.itl_ms or math.inf)).sum())
    return bool(max(late_first, late_gap) <= allowed)


def _play(
    steps: StepModel, limits: EngineLimits, arrivals: np.ndarray[tuple[int], np.dtype[np.float64]], trace: Trace
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Instants of first and last tokens, by request."""
    engine, sequences = Engine(steps, limits), []
    for at, prompt, output in zip(arrivals.tolist(), trace.prompts.tolist(), trace.outputs.tolist(), strict=False):
        engine.advance(at)
        sequences.append(engine.submit(prompt, output, at))
    while engine.wake_at is not None:
        engine.advance(engine.wake_at)
    firsts = np.array([sequence.first_token_at for sequence in sequences], dtype=np.float64)
    return firsts, np.array([sequence.finished_at for sequence in sequences], dtype=np.float64)
