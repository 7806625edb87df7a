"""Clients and an engine in virtual time: the profiler's decisions on the simulated engine, without sockets."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shoal.domain.profile import StepModel
from shoal.profiler.agenda import next_step
from shoal.profiler.jobs import Ended, Job, Progress, Records
from shoal.profiler.measure import Target, Watcher, make_job, planned_requests
from shoal.profiler.points import Point, summarise
from shoal.profiler.specs import Kind, Settings, Spec
from shoal.sim.batch import Sequence
from shoal.sim.engine import Engine, EngineLimits

WATCH_SECONDS = 0.25


@dataclass
class Play:
    """One job against a fresh engine."""

    engine: Engine
    job: Job
    sent: list[tuple[float, int, Sequence]] = field(default_factory=list)
    stopped_at: float | None = None
    output_tokens: int = 0
    prompt_tokens: int = 0

    def run(self, watch: Callable[[Progress, float], bool]) -> Records:
        job, count, now, next_watch = self.job, 0, 0.0, WATCH_SECONDS
        ready = [] if job.due is None else job.due.tolist()[::-1]
        free = [] if job.due is not None else [0.0] * job.connections
        while now < job.give_up:
            due = ready[-1] if ready else (free[0] if free and free[0] < job.send_until else None)
            moments = [at for at in (due, self.engine.wake_at) if at is not None]
            if not moments or (now := min(*moments, next_watch)) >= job.give_up:
                break
            self._advance(now, free)
            if now >= next_watch:
                next_watch += WATCH_SECONDS
                if watch(self._progress(now), now):
                    break
            if due is not None and due <= now:
                if ready:
                    ready.pop()
                else:
                    heapq.heappop(free)
                index = count % len(job.prompts)
                self.sent.append((now, index, self._submit(index, now)))
                count += 1
        self.stopped_at = now
        return self._records(now)

    def _advance(self, now: float, free: list[float]) -> None:
        since, until = self.job.window if self.job.window[1] else (0.0, self.job.send_until)
        for report in self.engine.advance(now):
            if since <= report.at < until:
                self.output_tokens += report.output_tokens
                self.prompt_tokens += report.prompt_tokens
            for _ in report.ended if self.job.due is None else ():
                heapq.heappush(free, report.at)

    def _submit(self, index: int, now: float) -> Sequence:
        return self.engine.submit(int(self.job.prompts[index]), int(self.job.outputs[index]), now)

    def _progress(self, now: float) -> Progress:
        since, until = self.job.window
        late_first = late_gap = answered = 0
        oldest = 0.0
        for at, _, sequence in self.sent:
            waited = (sequence.first_token_at or now) - at
            if sequence.first_token_at is None:
                oldest = max(oldest, waited)
            if not since <= at < until:
                continue
            late_first += self.job.ttft_ms is not None and waited * 1000 > self.job.ttft_ms
            if sequence.finished_at is not None and sequence.first_token_at is not None:
                answered += 1
                gap = (sequence.finished_at - sequence.first_token_at) * 1000 / max(sequence.output_tokens - 1, 1)
                late_gap += self.job.itl_ms is not None and sequence.output_tokens > 1 and gap > self.job.itl_ms
        return Progress(len(self.sent), answered, 0, late_first, late_gap, 0, oldest)

    def _records(self, now: float) -> Records:
        def instant(value: float | None) -> float:
            return float("nan") if value is None or value > now else value

        sequences = [sequence for _, _, sequence in self.sent]
        sent = np.array([at for at, _, _ in self.sent])
        last = np.array([instant(sequence.finished_at) for sequence in sequences])
        return Records(
            due=sent,
            sent=sent,
            first=np.array([instant(sequence.first_token_at) for sequence in sequences]),
            last=last,
            prompts=np.array([sequence.prompt_tokens for sequence in sequences]),
            outputs=np.array([sequence.output_tokens for sequence in sequences]),
            ended=np.where(np.isnan(last), Ended.UNDER_WAY, Ended.ANSWERED),
            cpu=np.array([0.1]),
        )


def run_virtual_step(steps: StepModel, limits: EngineLimits, settings: Settings, spec: Spec) -> Point:
    job = make_job(Target(("http://engine",), "m"), settings, spec)
    watcher = Watcher(settings.objective, spec, job)
    play = Play(Engine(steps, limits), job)
    records = play.run(watcher.watch)
    took = play.stopped_at or 0.0
    skipped = spec.connections if spec.kind is Kind.CLOSED else 0
    seconds = max(min(spec.warm_up + spec.seconds, took) - spec.warm_up, 1e-3)
    point = summarise(
        spec,
        records,
        settings.objective,
        began=1.7e9,
        took=took,
        planned=planned_requests(job, spec),
        stopped=watcher.stopped,
        drawn=(job.prompts[skipped:], job.outputs[skipped:]),
    )
    engine = {
        "outputRate": play.output_tokens / seconds,
        "promptRate": play.prompt_tokens / seconds,
        "preemptions": float(play.engine.preemptions),
    }
    return dataclasses.replace(point, engine=engine)


def measure_virtually(steps: StepModel, limits: EngineLimits, settings: Settings) -> list[Point]:
    points: list[Point] = []
    while (spec := next_step(settings, points)) is not None:
        points.append(run_virtual_step(steps, limits, settings, spec))
        assert len(points) < 40, [point.spec.key for point in points]
    return points
