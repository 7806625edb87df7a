"""Replays a step of the profiler on simulated engines: the same arrivals, lengths and engines as the real one had."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shoal.domain.profile import StepModel
from shoal.profiler.jobs import Job
from shoal.profiler.measure import Target, make_job
from shoal.profiler.specs import Settings, Spec
from shoal.sim.batch import Sequence
from shoal.sim.engine import Engine, EngineLimits
from shoal.sim.front_end import FrontEnd

Floats = NDArray[np.float64]
BLOCK_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a step. Rates per second of all engines together, latencies in ms of requests counted as real ones.

    `output_rate` counts every token of the window, as the engines' counters do.
    """

    output_rate: float
    ttft: Floats
    itl: Floats
    running: float

    def of(self, kind: str, name: str) -> float | None:
        """Mean, p50, p95 or p99 of TTFT or ITL; None when no request had one."""
        values: Floats = getattr(self, kind)
        if not len(values):
            return None
        return float(values.mean() if name == "mean" else np.quantile(values, float(name[1:]) / 100))


@dataclass(slots=True)
class _Fleet:
    engines: list[Engine]
    window: tuple[float, float]
    front_end: FrontEnd | None
    random: Random = field(default_factory=lambda: Random(1))
    delays: dict[Sequence, float] = field(default_factory=dict)  # ms, of first tokens
    tokens: float = 0.0
    busy: float = 0.0  # sequence-seconds in the window

    def submit(self, number: int, prompt: int, output: int, now: float) -> Sequence:
        """A request reaches an engine."""
        engine = self.engines[number]
        share = self.random.random()
        delay = self.front_end.delay_ms(len(engine.running), engine.step_seconds, share) if self.front_end else 0.0
        request = engine.submit(prompt, output, now)
        self.delays[request] = delay
        return request

    def advance(self, number: int, now: float) -> list[Sequence]:
        """What ended until now."""
        ended: list[Sequence] = []
        for report in self.engines[number].advance(now):
            share = _overlap(report.at - report.seconds, report.at, self.window)
            self.tokens += report.output_tokens * share
            self.busy += sum(gap * count for gap, count in report.gaps) * share
            ended += report.ended
        return ended


def _overlap(begin: float, end: float, window: tuple[float, float]) -> float:
    """Share of begin..end that lies in the window."""
    inside = min(end, window[1]) - max(begin, window[0])
    return max(0.0, inside) / (end - begin) if end > begin else 0.0


def play(
    steps: StepModel, limits: EngineLimits, settings: Settings, spec: Spec, front_end: FrontEnd | None = None
) -> Played:
    """One open- or closed-loop step. Without a front end, first tokens are the engine's alone."""
    job = make_job(Target(tuple(f"http://engine-{n}" for n in range(settings.engines)), "m"), settings, spec)
    window = (spec.warm_up, spec.warm_up + spec.seconds)
    engines = [Engine(steps, limits, longest_stride=64, schedules_ahead=True) for _ in range(settings.engines)]
    fleet = _Fleet(engines, window, front_end)
    requests = _open(fleet, job) if job.due is not None else _closed(fleet, job)
    return _summarise(fleet, job, requests)


def _open(fleet: _Fleet, job: Job) -> list[Sequence]:
    assert job.due is not None
    requests = []
    for due, prompt, output, target in zip(job.due, job.prompts, job.outputs, job.targets, strict=True):
        fleet.advance(int(target), float(due))
        requests.append(fleet.submit(int(target), int(prompt), int(output), float(due)))
    for number in range(len(fleet.engines)):
        fleet.advance(number, job.give_up)
    return requests


def _closed(fleet: _Fleet, job: Job) -> list[Sequence]:
    """Each connection sends its next request when the last one has ended."""
    todo = iter(zip(job.prompts, job.outputs, strict=True))
    requests = [request for number in job.targets if (request := _send(fleet, int(number), todo, 0.0)) is not None]
    wakes = [(wake, number) for number, engine in enumerate(fleet.engines) if (wake := engine.wake_at) is not None]
    heapq.heapify(wakes)
    while wakes:
        now, number = heapq.heappop(wakes)
        if now > job.give_up:
            break
        for _ in fleet.advance(number, now):
            if now < job.send_until and (request := _send(fleet, number, todo, now)) is not None:
                requests.append(request)
        if (wake := fleet.engines[number].wake_at) is not None:
            heapq.heappush(wakes, (wake, number))
    return requests


def _send(fleet: _Fleet, number: int, todo: Iterator[tuple[np.int64, np.int64]], now: float) -> Sequence | None:
    pair = next(todo, None)
    return None if pair is None else fleet.submit(number, int(pair[0]), int(pair[1]), now)


def _summarise(fleet: _Fleet, job: Job, requests: list[Sequence]) -> Played:
    since, until = fleet.window
    seconds = until - since
    is_open = job.due is not None
    counted = [
        request
        for request in requests
        if request.finished_at is not None and since <= (request.arrived_at if is_open else request.finished_at) < until
    ]
    ttft = [(r.first_token_at - r.arrived_at) * 1000 + fleet.delays[r] for r in counted if r.first_token_at is not None]
    itl = [
        (r.finished_at - r.first_token_at) * 1000 / (r.output_tokens - 1)
        for r in counted
        if r.output_tokens > 1 and r.finished_at is not None and r.first_token_at is not None
    ]
    return Played(fleet.tokens / seconds, np.array(ttft), np.array(itl), fleet.busy / seconds)
