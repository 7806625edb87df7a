"""Measures a simulated engine as a profiler measures a real one: overloaded once, then open loop at several rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.domain.profile import LengthMix, Quantiles, RatePoint, StepModel
from shoal.sim.batch import Sequence as EngineSequence
from shoal.sim.engine import Engine, EngineLimits
from shoal.sim.quantiles import make_quantiles
from shoal.sim.traffic import Arrival, Traffic

WARM_UP = 0.1  # share of the requests that are not counted at the beginning
SHARES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)  # of the overload rate


@dataclass(frozen=True, slots=True)
class Effort:
    """How many requests each measurement takes."""

    overload: int = 2000
    point: int = 3000


def measure_overload(
    steps: StepModel, limits: EngineLimits, lengths: LengthMix, *, seed: int, longest: int, requests: int
) -> float:
    """Requests per second that end while the queue is never empty."""
    arrivals = _arrivals(lengths, 1.0, seed, longest, requests)
    sequences = _run(steps, limits, (Arrival(0.0, a.prompt_tokens, a.output_tokens) for a in arrivals))
    ends = sorted(sequence.finished_at or 0.0 for sequence in sequences)
    first, last = int(0.2 * len(ends)), int(0.8 * len(ends))
    return (last - first) / (ends[last] - ends[first])


def measure_point(
    steps: StepModel, limits: EngineLimits, lengths: LengthMix, rate: float, *, seed: int, longest: int, requests: int
) -> RatePoint:
    """Latencies at a rate."""
    sequences = _run(steps, limits, _arrivals(lengths, rate, seed, longest, requests))
    counted = sequences[int(WARM_UP * len(sequences)) :]
    return RatePoint(rate, ttft=_quantiles(map(ttft_ms, counted)), itl=_quantiles(map(mean_gap_ms, counted)))


def measure_points(
    steps: StepModel,
    limits: EngineLimits,
    lengths: LengthMix,
    overload_rate: float,
    *,
    seed: int,
    longest: int,
    requests: int,
    shares: Sequence[float] = SHARES,
) -> tuple[RatePoint, ...]:
    """Latencies at shares of the overload rate: the same requests, closer together, so that latencies rise with it."""
    return tuple(
        measure_point(steps, limits, lengths, share * overload_rate, seed=seed, longest=longest, requests=requests)
        for share in shares
    )


def ttft_ms(sequence: EngineSequence) -> float | None:
    """Time to first token; None: it never came."""
    return None if sequence.first_token_at is None else (sequence.first_token_at - sequence.arrived_at) * 1000


def mean_gap_ms(sequence: EngineSequence) -> float | None:
    """Mean gap between the tokens of one answer; None: it has no gap."""
    if sequence.first_token_at is None or sequence.finished_at is None or sequence.generated < 2:
        return None
    return (sequence.finished_at - sequence.first_token_at) * 1000 / (sequence.generated - 1)


def _arrivals(lengths: LengthMix, rate: float, seed: int, longest: int, requests: int) -> list[Arrival]:
    seconds = 2 * requests / rate + 10
    traffic = Traffic(((seconds, rate),), lengths.input_mean, lengths.output_mean, seed, longest)
    return [arrival for _, arrival in zip(range(requests), traffic.arrivals(), strict=False)]


def _run(steps: StepModel, limits: EngineLimits, arrivals: Iterable[Arrival]) -> list[EngineSequence]:
    engine, sequences = Engine(steps, limits), []
    for arrival in arrivals:
        engine.advance(arrival.at)
        sequences.append(engine.submit(arrival.prompt_tokens, arrival.output_tokens, arrival.at))
    while engine.wake_at is not None:
        engine.advance(engine.wake_at)
    return sequences


def _quantiles(values: Iterable[float | None]) -> Quantiles:
    quantiles = make_quantiles(value for value in values if value is not None)
    assert quantiles is not None
    return quantiles
