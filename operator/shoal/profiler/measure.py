"""Measures one configuration: step after step, until there is nothing more to learn or the budget is spent."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shoal.profiler.agenda import BURST_REQUESTS, next_step
from shoal.profiler.clients import LEAD_SECONDS, Clients
from shoal.profiler.errors import ProfilerError
from shoal.profiler.gpus import GpuSampler
from shoal.profiler.jobs import Floats, Job, Progress, Trace, make_trace
from shoal.profiler.journal import Journal
from shoal.profiler.points import Point, summarise
from shoal.profiler.server import EngineSampler, get, wait_until_idle
from shoal.profiler.specs import DRAIN_SECONDS, Kind, Objective, Settings, Spec
from shoal.profiler.versions import tool_version

HOPELESS_SECONDS = 10.0  # a first token that is waited for so long: the server is beyond its knee, SLO or not
MOST_TRACE = 400_000
WARM_LIMIT_SECONDS = 60.0

Report = Callable[[Spec, Point | None, float], None]
"""Told each step before it (without a point) and after; the last number is the seconds still expected."""


@dataclass(frozen=True, slots=True)
class Target:
    """Servers that share the load. `name` is what requests call the model."""

    urls: tuple[str, ...]
    name: str
    gpus: tuple[int, ...] | None = None


def measure(
    target: Target, settings: Settings, journal: Journal, clients: Clients, report: Report, *, deadline: float = 0.0
) -> bool:
    """Take all steps that are missing in the journal. True: complete; False: out of budget.

    `deadline` (time.monotonic; 0: none) ends it as the budget does. Raises ProfilerError when the server fails.
    """
    with GpuSampler(target.gpus) as gpus:
        journal.note(gpu=dataclasses.asdict(gpus.facts()), tool=f"shoal profile {tool_version()}")
        _warm(target, settings, clients)
        while (spec := next_step(settings, journal.points)) is not None:
            left = settings.budget_seconds - journal.spent_seconds
            if deadline:
                left = min(left, deadline - time.monotonic())
            if spec.kind is not Kind.BURST and spec.expected_seconds > left:
                journal.note(stopped=_describe_end(spec, settings, journal, left))
                return False
            report(spec, None, left)
            point = run_step(target, settings, spec, clients, gpus)
            journal.add(point)
            report(spec, point, settings.budget_seconds - journal.spent_seconds)
            _check(target, point)
    journal.note(stopped="")
    return True


def _describe_end(spec: Spec, settings: Settings, journal: Journal, left: float) -> str:
    spent, budget = journal.spent_seconds, settings.budget_seconds
    short = f"{spent:.0f} of {budget:.0f} s spent" if spent + left >= budget - 1 else "the deadline comes first"
    return f"out of budget before step {spec.key} (takes some {spec.expected_seconds:.0f} s; {short})"


def run_step(target: Target, settings: Settings, spec: Spec, clients: Clients, gpus: GpuSampler) -> Point:
    """One step."""
    job = make_job(target, settings, spec)
    wait_until_idle(target.urls)
    watcher = Watcher(settings.objective, spec, job)
    epoch, began = time.time(), time.monotonic()
    with EngineSampler(target.urls) as engine:
        records = clients.run(job, watcher.watch)
        ended = time.monotonic()
        took = ended - began - LEAD_SECONDS
    skipped = spec.connections if spec.kind is Kind.CLOSED else 0  # cut short, see _make_requests
    until = began + LEAD_SECONDS + spec.warm_up + spec.seconds if spec.kind is not Kind.BURST else ended
    point = summarise(
        spec,
        records,
        settings.objective,
        began=epoch,
        took=took,
        planned=planned_requests(job, spec),
        stopped=watcher.stopped,
        most_lag_ms=settings.most_lag_ms,
        drawn=(job.prompts[skipped:], job.outputs[skipped:]),
    )
    window = (began + LEAD_SECONDS + spec.warm_up, max(min(until, ended), began + 1.0))
    use = gpus.between(*window)
    return dataclasses.replace(point, engine=_engine_use(engine, window), gpu=dataclasses.asdict(use))


def _check(target: Target, point: Point) -> None:
    """Raises ProfilerError when the server is gone, or answers nothing."""
    if (point.answered or point.finished_rate) and point.failed <= 0.5 * (point.answered + point.failed):
        return
    first = point.errors[0] if point.errors else "no answer at all"
    for url in target.urls:
        if get(url, "/v1/models", optional=True) is None:
            raise ProfilerError(
                f"{url} no longer answers ({first}): look at the server's log; the points so far are kept"
            )
    if point.failed:
        raise ProfilerError(
            f"{point.failed} of {point.answered + point.failed} requests failed in step {point.spec.key} ({first}); "
            "the points so far are kept"
        )
    if not point.stopped:
        option = "--probe" if point.spec.kind is Kind.CLOSED else "--horizon"
        raise ProfilerError(
            f"no request was answered within {point.spec.warm_up + point.spec.seconds:.3g} s in step {point.spec.key}: "
            f"the server is too slow for so short a step (use a longer {option}), or hangs"
        )


def _warm(target: Target, settings: Settings, clients: Clients) -> None:
    """First requests compile and capture: they are not measured."""
    connections = 4 * len(target.urls)
    prompts = np.full(connections * 4, min(256, settings.longest // 2), dtype=np.int64)
    job = Job(
        urls=_completions(target),
        model=target.name,
        due=None,
        prompts=prompts,
        outputs=np.full(len(prompts), min(8, settings.longest // 4), dtype=np.int64),
        targets=_spread(connections, len(target.urls)),
        began=0.0,
        send_until=1.5,
        give_up=WARM_LIMIT_SECONDS,
        seed=0,
        connections=connections,
    )
    records = clients.run(job)
    if not (records.ended == 1).any():
        reason = records.errors[0] if records.errors else f"no answer within {WARM_LIMIT_SECONDS:.0f} s"
        raise ProfilerError(f"the server answers no request: {reason}")


class Watcher:
    """Ends a step whose fate is certain: more requests of the window are late than the objective allows in all."""

    def __init__(self, objective: Objective, spec: Spec, job: Job) -> None:
        self.stopped = False
        planned = planned_requests(job, spec) or 0
        self._late = objective.allowed * planned if objective.is_set else None
        self._spec = spec
        self._failed = max(20.0, 0.2 * planned)

    def watch(self, progress: Progress, elapsed: float) -> bool:
        """Whether to end it now."""
        if self._spec.kind is not Kind.OPEN or self._spec.name == "overload":
            return progress.failed > self._failed and progress.answered == 0
        late = self._late is not None and max(progress.late_first, progress.late_gap) + progress.failed > self._late
        hopeless = progress.oldest > HOPELESS_SECONDS and elapsed > self._spec.warm_up
        self.stopped = late or hopeless or progress.failed > self._failed
        return self.stopped


def planned_requests(job: Job, spec: Spec) -> int | None:
    """Requests due in the window; None where that is not fixed beforehand."""
    if spec.kind is not Kind.OPEN or job.due is None:
        return None
    return int(((job.due >= spec.warm_up) & (job.due < spec.warm_up + spec.seconds)).sum())


def make_job(target: Target, settings: Settings, spec: Spec) -> Job:
    """The requests of one step."""
    window_end = spec.warm_up + spec.seconds
    trace, due = _make_requests(settings, spec)
    over = spec.name == "overload" or spec.kind is Kind.CLOSED
    targets = (
        _spread(spec.connections, len(target.urls))
        if spec.kind is Kind.CLOSED
        else np.random.default_rng([spec.seed, 3]).integers(0, len(target.urls), len(trace.prompts))
    )
    objective = settings.objective if spec.kind is Kind.OPEN else Objective()
    return Job(
        urls=_completions(target),
        model=target.name,
        due=due,
        prompts=trace.prompts,
        outputs=trace.outputs,
        targets=targets.astype(np.int64),
        began=0.0,
        send_until=window_end,
        give_up=window_end + (0.2 if over else DRAIN_SECONDS),
        seed=spec.seed,
        connections=spec.connections if spec.kind is Kind.CLOSED else 0,
        window=(spec.warm_up, window_end),
        ttft_ms=objective.ttft_ms,
        itl_ms=objective.itl_ms,
    )


def _make_requests(settings: Settings, spec: Spec) -> tuple[Trace, Floats | None]:
    source = spec.source
    if spec.kind is Kind.OPEN:
        assert spec.rate is not None
        count = int(min(spec.rate * (spec.warm_up + spec.seconds) * 1.5 + 200, MOST_TRACE))
        trace = make_trace(source, seed=spec.seed, longest=settings.longest, requests=count)
        trace = trace.up_to(spec.rate, spec.warm_up + spec.seconds)
        return trace, trace.arrivals
    if spec.kind is Kind.BURST:
        trace = make_trace(source, seed=spec.seed, longest=settings.longest, requests=BURST_REQUESTS)
        return trace, np.zeros(BURST_REQUESTS)
    trace = make_trace(source, seed=spec.seed, longest=settings.longest, requests=max(4096, 4 * spec.connections))
    # The first request of each connection is cut short at random: else all would end, and begin anew, together.
    left = np.random.default_rng([spec.seed, 4]).uniform(0.05, 1.0, spec.connections)
    outputs = trace.outputs.copy()
    outputs[: spec.connections] = np.maximum(1, np.ceil(outputs[: spec.connections] * left))
    return Trace(trace.arrivals, trace.prompts, outputs), None


def _completions(target: Target) -> tuple[str, ...]:
    return tuple(f"{url}/v1/completions" for url in target.urls)


def _spread(count: int, servers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(count, dtype=np.int64) // max(1, -(-count // servers))


def _engine_use(engine: EngineSampler, window: tuple[float, float]) -> dict[str, float]:
    samples = engine.between(*window)
    if len(samples) < 2:
        return {}
    first, last = samples[0], samples[-1]
    return {
        "running": round(statistics.mean(sample.running for sample in samples), 2),
        "runningMost": max(sample.running for sample in samples),
        "waiting": round(statistics.mean(sample.waiting for sample in samples), 2),
        "waitingLast": last.waiting,
        "kvUsageMost": round(max(sample.kv_usage for sample in samples), 4),
        "preemptions": last.preemptions - first.preemptions,
        "outputRate": round((last.tokens - first.tokens) / max(last.at - first.at, 1e-6), 2),
        "promptRate": round((last.prompts - first.prompts) / max(last.at - first.at, 1e-6), 2),
        "stepsPerSecond": round((last.steps - first.steps) / max(last.at - first.at, 1e-6), 2),
    }


def has_budget(settings: Settings, journal: Journal) -> bool:
    """Whether the next step still fits into the budget."""
    spec = next_step(settings, journal.points)
    return spec is not None and spec.expected_seconds <= settings.budget_seconds - journal.spent_seconds
