"""The engine against 2,000 requests at once on real vLLM: throughput, gaps, TTFT, preemptions."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.sim_validation.spread import summarise
from shoal.domain.profile import StepModel
from shoal.sim.engine import Engine, EngineLimits, Report
from shoal.sim.measure import ttft_ms
from shoal.sim.mem_gap import CHUNK_FIXED, CHUNK_VARIABLE, Run, fit_steps, read_runs, scale_to_variable_lengths
from shoal.sim.traffic import Traffic

DATA = Path(__file__).parent / "data" / "mem_gap_runs.json"
REQUESTS = 2000
LONGEST = 2048  # max_model_len of those runs


@dataclass(frozen=True, slots=True)
class Real:
    """One published run, with the fields the importer does not need. Milliseconds."""

    run: Run
    name: str
    ttft_ms: float
    p99_gap_ms: float


@dataclass(frozen=True, slots=True)
class Played:
    """The same on the simulated engine."""

    request_rate: float
    gap_ms: float
    p99_gap_ms: float
    ttft_ms: float
    preemptions: int


def read_real() -> list[Real]:
    """Runs whose lengths and KV cache are known."""
    found = []
    for item, run in zip(json.loads(DATA.read_text()), read_runs(DATA), strict=True):
        if run.kv_blocks is not None:
            found.append(Real(run, "/".join(item["dir"].split("/")[1:]), item["mean_ttft"], item["p99_itl"]))
    return found


def play(run: Run, steps: StepModel, requests: int) -> Played:
    """Send everything at once, as the clients did."""
    chunk = CHUNK_FIXED if run.fixed_lengths else CHUNK_VARIABLE
    assert run.kv_blocks is not None
    engine = Engine(steps, EngineLimits(run.max_num_seqs, max(chunk, run.max_num_seqs), run.kv_blocks))
    sequences = [engine.submit(prompt, output, 0.0) for prompt, output in _lengths(run, requests)]
    reports: list[Report] = []
    while engine.wake_at is not None:
        reports += engine.advance(engine.wake_at)
    gaps = sorted((gap, times) for report in reports for gap, times in report.gaps)
    count = sum(times for _, times in gaps)
    return Played(
        request_rate=requests / reports[-1].at,
        gap_ms=1000 * sum(gap * times for gap, times in gaps) / count,
        p99_gap_ms=1000 * _weighted_quantile(gaps, 0.99 * count),
        ttft_ms=statistics.fmean(ttft for s in sequences if (ttft := ttft_ms(s)) is not None),
        preemptions=engine.preemptions,
    )


def validate(requests: int = REQUESTS) -> dict[str, Any]:
    """Per model: errors with step times fitted to all runs, and to those of other output lengths only."""
    by_model: dict[str, list[Real]] = defaultdict(list)
    for real in read_real():
        by_model[real.run.model].append(real)
    return {model: _validate_model(reals, requests) for model, reals in by_model.items()}


def _validate_model(reals: Sequence[Real], requests: int) -> dict[str, Any]:
    fixed = [real for real in reals if real.run.fixed_lengths]
    variable = [real for real in reals if not real.run.fixed_lengths]
    fit = fit_steps(real.run for real in fixed)
    own = [(real, play(real.run, fit.steps, requests)) for real in fixed]
    held_out = [(real, play(real.run, steps, requests)) for real, steps in _fitted_elsewhere(fixed)]
    stretched = scale_to_variable_lengths(fit.steps, [real.run for real in variable])
    plain = [(real, play(real.run, fit.steps, requests)) for real in variable]
    scaled = [(real, play(real.run, stretched, requests)) for real in variable]
    return {
        "fixed": _errors(own),
        "fixedHeldOut": _errors(held_out),
        "shareGPTUnscaled": _errors(plain),
        "shareGPT": _errors(scaled),
        "runs": [_row(real, played) for real, played in own + scaled],
    }


def _fitted_elsewhere(fixed: Sequence[Real]) -> Iterator[tuple[Real, StepModel]]:
    """Each run with step times from the runs of all other output lengths."""
    lengths = sorted({round(real.run.output_tokens) for real in fixed})
    for length in lengths:
        others = fit_steps(real.run for real in fixed if round(real.run.output_tokens) != length)
        for real in fixed:
            if round(real.run.output_tokens) == length:
                yield real, others.steps


def _errors(pairs: Sequence[tuple[Real, Played]]) -> dict[str, Any]:
    steady = [(real, played) for real, played in pairs if real.run.is_steady]
    full = [(real, played) for real, played in pairs if not real.run.is_steady]
    errors = {
        "throughput": [(r.name, p.request_rate / r.run.request_rate - 1) for r, p in pairs],
        "throughputWhenKVIsFull": [(r.name, p.request_rate / r.run.request_rate - 1) for r, p in full],
        "meanGap": [(r.name, p.gap_ms / r.run.gap_ms - 1) for r, p in pairs],
        "p99Gap": [(r.name, p.p99_gap_ms / r.p99_gap_ms - 1) for r, p in steady],
        "meanTTFT": [(r.name, p.ttft_ms / r.ttft_ms - 1) for r, p in pairs],
    }
    agree = sum((real.run.preemptions > 0) == (played.preemptions > 0) for real, played in pairs)
    return {
        **{name: summarise(values).to_dict() for name, values in errors.items() if values},
        "preemptionAgrees": f"{agree} of {len(pairs)}",
    }


def _row(real: Real, played: Played) -> dict[str, Any]:
    return {
        "run": real.name,
        "requestsPerSecond": [real.run.request_rate, round(played.request_rate, 4)],
        "meanGapMs": [real.run.gap_ms, round(played.gap_ms, 3)],
        "p99GapMs": [real.p99_gap_ms, round(played.p99_gap_ms, 3)],
        "meanTTFTMs": [real.ttft_ms, round(played.ttft_ms, 1)],
        "preemptions": [real.run.preemptions, played.preemptions],
    }


def _lengths(run: Run, requests: int) -> Iterator[tuple[int, int]]:
    if run.fixed_lengths:
        yield from [(round(run.input_tokens), round(run.output_tokens))] * requests
        return
    traffic = Traffic(((1e9, 1.0),), run.input_tokens, run.output_tokens, seed=1, longest=LONGEST)
    for _, arrival in zip(range(requests), traffic.arrivals(), strict=False):
        yield arrival.prompt_tokens, arrival.output_tokens


def _weighted_quantile(ordered: Sequence[tuple[float, int]], rank: float) -> float:
    seen = 0
    for value, times in ordered:
        seen += times
        if seen >= rank:
            return value
    return ordered[-1][0]
