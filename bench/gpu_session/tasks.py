"""What a job does beside measuring a profile: another length mix, a sweep of rates, the clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.gpu_session.clock import Setting, fit_clock, measure_clock
from shoal.profiler.clients import Clients
from shoal.profiler.errors import ProfilerError
from shoal.profiler.gpus import GpuSampler
from shoal.profiler.journal import Journal
from shoal.profiler.knee import find_bracket, next_rate, overload_of
from shoal.profiler.lengths import LengthSource, parse_lengths
from shoal.profiler.measure import Report, Target, run_step
from shoal.profiler.points import Point
from shoal.profiler.specs import Kind, Settings, Spec

FIRST_SHARE: Final = 0.9  # of the saturation: where the search at another mix begins
SWEEP: Final = (1.0, 0.94, 1.06, 0.88)  # of the knee, the nearest first
USUAL_MIX: Final = "gamma:512,128"

Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Work:
    """Servers to load, how, and the journal that keeps what came of it."""

    target: Target
    settings: Settings
    journal: Journal
    clients: Clients
    report: Report

    def step(self, name: str, rate: float, gpus: GpuSampler) -> Point | None:
        """One open-loop window; None when the budget does not allow it."""
        settings = self.settings
        spec = Spec(
            name, Kind.OPEN, settings.horizon, settings.warm_up, settings.seed, settings.lengths, float(f"{rate:.6g}")
        )
        if self.journal.spent_seconds + spec.expected_seconds > settings.budget_seconds:
            return None
        point = run_step(self.target, settings, spec, self.clients, gpus)
        self.journal.add(point)
        self.report(spec, point, settings.budget_seconds - self.journal.spent_seconds)
        return point


def measure_mix(work: Work, saturation: float) -> bool:
    """Saturation at another mix, then its knee from 0.9 of that on. False: the budget ended the search.

    `saturation`: what is likely, requests/s.
    """
    with GpuSampler(work.target.gpus) as gpus:
        over = work.step("overload", 1.3 * saturation, gpus)
        rate = FIRST_SHARE * over.throughput if over else None
        while rate is not None:
            if work.step("search", rate, gpus) is None:
                return False
            rate = next_rate(work.journal.points, work.settings.objective, work.settings.tolerance)
    return over is not None


def likely_saturation(known: float, at: str, lengths: str) -> float:
    """Saturation at `lengths` from a known one at the mix `at`, roughly: only where a search begins."""
    return known * weight(parse_lengths(at)) / weight(parse_lengths(lengths))


def saturation_of(points: Sequence[Point]) -> float:
    """What a job found. Raises ProfilerError."""
    over = overload_of(points)
    if over is None:
        raise ProfilerError("the first job found no saturation: nothing to begin from")
    return over.throughput


def measure_sweep(work: Work, points: Sequence[Point]) -> bool:
    """Windows at fixed shares of the knee that a search found in `points`. Raises ProfilerError when there is none."""
    bracket = find_bracket(points, work.settings.objective)
    if bracket is None or bracket.knee is None:
        raise ProfilerError("the search found no knee: nothing to sweep around")
    with GpuSampler(work.target.gpus) as gpus:
        return all(work.step("sweep", share * bracket.knee, gpus) is not None for share in SWEEP)


def weight(lengths: LengthSource) -> float:
    """Work of a request, roughly: an output token costs about four of the prompt."""
    return lengths.input_mean + 4 * lengths.output_mean


def write_clock(path: Path, url: str, gpu: int, say: Say) -> None:
    """Measure the clock's influence; one line of JSON for each setting, written as it comes."""
    by_prompt: dict[int, list[Setting]] = {}
    with path.open("a", encoding="utf-8") as file:
        for setting in measure_clock(url, gpu):
            file.write(json.dumps(setting.to_json()) + "\n")
            file.flush()
            by_prompt.setdefault(setting.prompt, []).append(setting)
            say(
                f"{setting.prompt} tokens, pause {setting.pause_ms} ms: {setting.time_ms:.1f} ms,",
                f"{setting.clock:.0f} MHz",
            )
    for settings in by_prompt.values():
        say("law:", fit_clock(settings))
