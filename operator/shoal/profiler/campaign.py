"""`--launch` and `--plan`: engines started one configuration after the other on each lane of GPUs, and measured."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shoal.domain.profile import Link
from shoal.profiler.clients import Clients, usual_processes
from shoal.profiler.engines import EngineFailedError, running_engines
from shoal.profiler.errors import ClientError, ProfilerError
from shoal.profiler.journal import Journal
from shoal.profiler.measure import Report, Target, has_budget, measure
from shoal.profiler.measured import Measured, Subject
from shoal.profiler.plan import Job, Lane, ModelPlan, Plan, make_jobs
from shoal.profiler.profiles import write_profile
from shoal.profiler.server import ServerFacts, read_facts
from shoal.profiler.skips import Candidate, Known, why_skip
from shoal.profiler.specs import Settings, parse_objective

Say = Callable[[str], None]
DONE_STATES = ("measured", "failed", "out of budget")
LEAST_LEFT_SECONDS = 20.0  # before the deadline no engine is started any more


@dataclass
class Campaign:
    """One run over a plan. Results lie under `out`: journals/, logs/, a profile per model, summary.json.

    `deadline`: time.monotonic at which everything ends; 0: none.
    """

    plan: Plan
    out: Path
    say: Say
    command: str
    deadline: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[str, list[Known]] = field(default_factory=lambda: defaultdict(list))
    _outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _subjects: dict[str, Subject] = field(default_factory=dict)
    _started: list[contextlib.ExitStack] = field(default_factory=list)
    _stopping: bool = False
    _start_seconds: float = 0.0  # what the last engine took

    def run(self) -> bool:
        """Work until nothing is left or the deadline; True: everything was measured, skipped or failed for good."""
        waiting = make_jobs(self.plan)
        for job in waiting:
            self._recall(job)
        threads = [
            threading.Thread(target=self._work, args=(number, lane, waiting), daemon=True)
            for number, lane in enumerate(self.plan.lanes)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.5)
        finally:  # interrupted: no engine outlives this process, and what that breaks is nobody's failure
            self._stopping = True
            for stack in self._started:
                stack.close()
        self._write()
        return all(outcome["state"] != "partial" for outcome in self._outcomes.values()) and not waiting

    def _work(self, number: int, lane: Lane, waiting: list[Job]) -> None:
        processes = lane.clients or usual_processes(lane.client_cpus)
        with Clients(processes, lane.client_cpus) as clients:
            while (job := self._take(lane, waiting)) is not None:
                try:
                    self._one(number, lane, job, clients)
                except ClientError as error:
                    self._finish(job, "partial", str(error))
                    return
                except (EngineFailedError, ProfilerError, OSError) as error:
                    self._finish(job, "failed", str(error))
                except Exception as error:
                    self._finish(job, "failed", f"{type(error).__name__}: {error}")

    def _take(self, lane: Lane, waiting: list[Job]) -> Job | None:
        """The next job that fits the lane and that earlier points do not make needless."""
        with self._lock:
            while (
                not self._stopping
                and (job := next((job for job in waiting if job.gpus <= len(lane.gpus)), None)) is not None
            ):
                needed = LEAST_LEFT_SECONDS + self._start_seconds * job.shape.engines_per_gpu
                if self.deadline and time.monotonic() > self.deadline - needed:
                    return None
                waiting.remove(job)
                if self._is_done(job):
                    continue
                reason = why_skip(Candidate(job.shape, job.kv_bytes), self._known[job.model.name])
                if reason is None:
                    return job
                self._outcomes[job.label] = {"state": "skipped", "why": reason}
                self.say(f"{job.label}: skipped: {reason}")
        return None

    def _is_done(self, job: Job) -> bool:
        return self._outcomes.get(job.label, {}).get("state") in DONE_STATES

    def _one(self, number: int, lane: Lane, job: Job, clients: Clients) -> None:
        self.say(f"{job.label}: starting {job.shape.engines_per_gpu} engine(s) on GPU {lane.gpus[: job.gpus]}")
        began, plan = time.monotonic(), self.plan
        with running_engines(
            plan.engine,
            job,
            lane,
            lane_number=number,
            served_name=plan.served_name,
            directory=self.out / "logs",
            started=self._started,
        ) as urls:
            took = time.monotonic() - began
            self._start_seconds = took / job.shape.engines_per_gpu
            facts = read_facts(urls[0], plan.served_name)
            self.say(f"{job.label}: ready after {took:.0f} s, KV cache {facts.kv_cache_tokens or 0:.0f} tokens")
            settings = self._settings(job, facts)
            journal = self._journal(job, settings)
            self._describe(journal, job, facts, took)
            target = Target(urls, plan.served_name, tuple(lane.gpus[: job.gpus]))
            try:
                complete = measure(target, settings, journal, clients, self._reporter(job), deadline=self.deadline)
            except ProfilerError as error:
                journal.note(stopped=str(error))
                self._keep(job, settings, journal, complete=False)
                raise
            self._keep(job, settings, journal, complete=complete)
            state = "measured" if complete else ("partial" if has_budget(settings, journal) else "out of budget")
            self._finish(job, state, journal.facts.get("stopped", ""))

    def _settings(self, job: Job, facts: ServerFacts | None = None) -> Settings:
        plan = self.plan
        longest = job.model.longest or plan.longest
        if facts is not None and facts.max_model_len is not None:
            longest = min(longest, facts.max_model_len)
        return Settings(
            lengths=job.model.lengths or plan.lengths,
            objective=parse_objective(plan.slo),
            batch=job.shape.max_num_seqs,
            chunk=job.shape.max_num_batched_tokens,
            engines=job.shape.engines_per_gpu,
            longest=longest,
            horizon=plan.horizon,
            warm_up=plan.warm_up,
            probe_seconds=plan.probe,
            budget_seconds=plan.budget * 60,
            tolerance=plan.tolerance,
            seed=plan.seed,
            repeats=plan.repeats,
            probes=plan.probes,
            burst=plan.burst,
            kv_cache_tokens=None if facts is None else facts.kv_cache_tokens,
        )

    def _path(self, job: Job) -> Path:
        return self.out / "journals" / f"{job.label}.jsonl"

    def _journal(self, job: Job, settings: Settings) -> Journal:
        return Journal(self._path(job), settings.key)

    def _describe(self, journal: Journal, job: Job, facts: ServerFacts, took: float) -> None:
        journal.note(
            model=job.model.name,
            parameters=job.model.parameters,
            version=facts.version,
            simulated=facts.simulated,
            kvCacheTokens=facts.kv_cache_tokens,
            kvBytes=job.kv_bytes,
            maxModelLen=facts.max_model_len,
            startSeconds=round(took, 1),
            mps=job.shape.mps,
            shape=job.shape.label,
        )

    def _recall(self, job: Job) -> None:
        """What an earlier run with the same output found."""
        if not self._path(job).exists():
            return
        first = json.loads(self._path(job).read_text(encoding="utf-8").partition("\n")[0])
        settings = replace(self._settings(job), longest=first["settings"]["longest"])
        journal = self._journal(job, settings)
        state = journal.facts.get("state")
        if state == "out of budget" and has_budget(settings, journal):
            state = "partial"  # it has grown since
        if state is not None:
            self._outcomes[job.label] = {"state": state, "why": journal.facts.get("why", "")}
        if journal.points:
            self._keep(job, settings, journal, complete=state == "measured")

    def _keep(self, job: Job, settings: Settings, journal: Journal, *, complete: bool) -> None:
        facts = journal.facts
        shape = replace(job.shape, kv_cache_tokens=facts.get("kvCacheTokens"))
        measured = Measured(shape, settings, tuple(journal.points), complete, dict(facts))
        with self._lock:
            self._known[job.model.name].append(Known(Candidate(job.shape, job.kv_bytes), measured))
            self._subjects[job.model.name] = _subject(self.plan, job.model, facts)
        self._write()

    def _finish(self, job: Job, state: str, why: str) -> None:
        if self._stopping:
            return
        self.say(f"{job.label}: {state}{f': {why}' if why else ''}")
        if self._path(job).exists() or state == "failed":
            self._journal_of(job).note(state=state, why=why)
        with self._lock:
            self._outcomes[job.label] = {"state": state, "why": why}
        self._write()

    def _journal_of(self, job: Job) -> Journal:
        path = self._path(job)
        if path.exists():
            first = json.loads(path.read_text(encoding="utf-8").partition("\n")[0])
            return Journal(path, first["settings"])
        return self._journal(job, self._settings(job))

    def _reporter(self, job: Job) -> Report:
        return make_reporter(self.say, job.label)

    def _write(self) -> None:
        """Profiles and summary as they are now."""
        with self._lock:
            for model, known in self._known.items():
                newest = {one.candidate: one.measured for one in known}
                if not newest:  # only asked for so far
                    continue
                path = self.out / f"{model.rpartition('/')[2].lower()}.yaml"
                try:
                    write_profile(path, self._subjects[model], list(newest.values()), self.command)
                except (ProfilerError, ValueError) as error:
                    self.say(f"{model}: no profile yet: {error}")
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "summary.json").write_text(json.dumps(self._outcomes, indent=1), encoding="utf-8")


def _subject(plan: Plan, model: ModelPlan, facts: dict[str, Any]) -> Subject:
    gpu = facts.get("gpu") or {}
    accelerator = plan.accelerator or (gpu.get("name") or "").replace(" ", "-") or "unknown"
    return Subject(
        model=model.name,
        accelerator=accelerator,
        engine_version=plan.engine_version or facts.get("version") or "unknown",
        link=Link(plan.link),
        simulated=bool(facts.get("simulated")),
        parameters=model.parameters,
    )


def make_reporter(say: Say, label: str) -> Report:
    """Say one line for each step that was taken."""

    def report(spec: Any, point: Any, left: float) -> None:
        if point is None:
            return
        latency = ""
        if point.ttft is not None and point.itl is not None:
            latency = f" TTFT p95 {point.ttft.p95:.0f} ms, ITL p95 {point.itl.p95:.1f} ms,"
        watts = (
            f" {point.gpu['watts']:.0f} W {point.gpu.get('clock_mhz') or 0:.0f} MHz," if point.gpu.get("watts") else ""
        )
        marks = (" stopped early (over)" if point.stopped else "") + (
            f" INVALID: {point.invalid}" if point.invalid else ""
        )
        say(
            f"{label}: {spec.key}: {point.throughput:.2f}/s,{latency}{watts} {point.took:.0f} s, "
            f"{max(left, 0) / 60:.1f} min of budget left{marks}"
        )

    return report
