"""Brings a ProfileRun one step on: a Job for one configuration after the other, their results into a ModelProfile.

Everything is told from objects (docs/decisions/0102): outcomes stand in the status, results in the Jobs' pods until
they stand in the profile. Each step writes profile, status, then deletes the Job: whoever is killed between two of
these does the rest at the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shoal.api.errors import ApiError
from shoal.api.measurement import Measurement, Progress, unpack
from shoal.api.profile_run import ProfileRun
from shoal.domain.configuration import Configuration
from shoal.domain.service import ServiceKey
from shoal.reconciler.apply import NameTakenError, Writer
from shoal.reconciler.clock import Now
from shoal.reconciler.items import Item
from shoal.reconciler.keys import Key, RunKey
from shoal.reconciler.kinds import JOB, MODEL_PROFILE, MODEL_SERVICE, NAMESPACE, PROFILE_RUN, Custom, Job
from shoal.reconciler.library import Library
from shoal.reconciler.observe import Observer
from shoal.reconciler.planloop import Planned
from shoal.reconciler.run_pods import describe_failure, describe_start, is_measuring, pod_of
from shoal.reconciler.run_room import explain_shortage, observe_room
from shoal.reconciler.run_skips import skip_needless
from shoal.reconciler.run_wishes import RunWish, find_unrenderable, read_wish
from shoal.reconciler.store import Store
from shoal.reconciler.wishes import engine_class_name
from shoal.render.claims import runs_mps
from shoal.render.events import find_events, make_event
from shoal.render.measurement import MeasurementObjects, ProfilerSettings, as_service
from shoal.render.names import is_paused
from shoal.render.problems import Problem
from shoal.render.reasons import RunReason
from shoal.render.run_profile import is_profile_of, make_run_profile, profile_name, says_the_same
from shoal.render.run_status import (
    Outcome,
    RunReport,
    make_run_object,
    make_run_status,
    outcome_of,
    outcome_under_way,
    read_outcomes,
    should_write_run,
)

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0  # between two looks at a run that waits or measures
_TAKEN_SECONDS: Final = 5.0

Outcomes = dict[Configuration, Outcome]


@dataclass(frozen=True, slots=True)
class _Context:
    """One run at work."""

    item: Item[Custom]
    wish: RunWish
    settings: ProfilerSettings
    outcomes: Outcomes

    @property
    def namespace(self) -> str:
        return self.item.namespace or ""

    def report(self, now: float, **more: Any) -> RunReport:
        """With every configuration: its outcome, else that it waits."""
        outcomes = tuple(self.outcomes.get(each, Outcome(each)) for each in self.wish.configurations)
        left = sum(not outcome.is_final for outcome in outcomes) * self.wish.budget_seconds
        return RunReport(self.wish.run, now, outcomes, **{"seconds_left": left, **more})


class ProfileRuns:
    """`handle` is what the workers do with a RunKey. `read_progress` asks a profiler at an address how far it is."""

    def __init__(
        self,
        *,
        writer: Writer,
        store: Store,
        library: Library,
        observer: Observer,
        plans: Callable[[], Mapping[ServiceKey, Planned]],
        read_progress: Callable[[str], Awaitable[Progress | None]],
        later: Callable[[Key, float], None],
        settings: ProfilerSettings | None,
        operator_namespace: str,
        paused: bool,
        now: Now,
    ) -> None:
        self._writer, self._store, self._library, self._observer = writer, store, library, observer
        self._plans, self._read_progress, self._later = plans, read_progress, later
        self._settings, self._namespace, self._paused, self._now = settings, operator_namespace, paused, now
        self._taking = asyncio.Lock()  # two runs never take the same last GPU

    async def handle(self, key: RunKey) -> None:
        """Take one step and report it. Raises what a write raises."""
        item = self._store.get(PROFILE_RUN, key.namespace, key.name)
        if item is None or item.deleted_at is not None:
            return  # deletion is garbage collection
        run = self._library.run(item)
        if isinstance(run, ApiError):
            logger.warning("ProfileRun %s/%s cannot be read: %s", key.namespace, key.name, run)
            return
        report = await self._step(item, run)
        await self._write(item, report)
        if not report.is_over:
            self._later(key, LOOK_SECONDS)

    async def _step(self, item: Item[Custom], run: ProfileRun) -> RunReport:
        wish = self._read(item, run)
        if not isinstance(wish, RunWish) or self._settings is None:
            await self._drop_jobs(item, keep="")
            problems = wish if isinstance(wish, tuple) else ()
            return RunReport(run, self._now(), problems=problems, **_kept(item))
        accelerator = wish.pool.spec.accelerator
        outcomes = find_unrenderable(wish, self._settings)
        outcomes |= read_outcomes(item.body.raw.get("status"), item.generation, accelerator)
        context = _Context(item, wish, self._settings, outcomes)
        try:
            return await self._advance(context)
        except NameTakenError as error:
            self._later(RunKey(context.namespace, item.name), _TAKEN_SECONDS)
            return context.report(self._now(), taken=str(error), **_kept(item))

    def _read(self, item: Item[Custom], run: ProfileRun) -> RunWish | tuple[Problem, ...]:
        namespace = item.namespace or ""
        labels, profiles = self._store.get(NAMESPACE, None, namespace), self._library.profiles()
        return read_wish(
            run,
            pools={name: pool for name, (_, pool) in self._library.pools().items()},
            engine=self._library.engine_class(engine_class_name(as_service(run))),
            labels=labels.labels if labels else None,
            profiles=(*profiles.get(namespace, ()), *profiles.get(self._namespace, ())),
            settings=self._settings,
        )

    # -- one step ------------------------------------------------------------------------------------------------------

    async def _advance(self, context: _Context) -> RunReport:
        current = next((each for each in context.wish.configurations if each not in context.outcomes), None)
        if current is None:
            await self._writer.delete_measurements(context.namespace, context.item.name, context.item.uid)
            return context.report(self._now(), **_kept(context.item))
        needless = skip_needless(current, context.outcomes.values(), mps=runs_mps(context.wish.pool, current))
        if needless is not None:
            context.outcomes[current] = needless
            return context.report(self._now(), **_kept(context.item))
        self._refuse_taken_profile(context)
        objects = context.wish.render(current, context.settings)
        await self._drop_jobs(context.item, keep=objects.name)
        job = self._own_job(context.item, objects.name)
        if job is None:
            return await self._start(context, current, objects)
        if job.deleted_at is not None:
            return context.report(self._now(), waits=(RunReason.STARTING, f"{job.name} is being deleted"))
        if job.body.ended is not None:
            return await self._conclude(context, current, job)
        return await self._follow(context, current, job)

    def _refuse_taken_profile(self, context: _Context) -> None:
        """Before hours of GPUs are spent on it."""
        name = profile_name(context.wish.run)
        there = self._store.get(MODEL_PROFILE, context.namespace, name)
        if there is not None and not is_profile_of({"labels": there.labels}, context.wish.run):
            raise NameTakenError(MODEL_PROFILE.name, name)

    async def _start(self, context: _Context, current: Configuration, objects: MeasurementObjects) -> RunReport:
        async with self._taking:
            waits = self._why_wait(context, current)
            if waits is not None:
                return context.report(self._now(), waits=waits, **_kept(context.item))
            await self._writer.ensure_measurement(objects, context.item.uid)
        context.outcomes[current] = describe_start(current, None)
        return context.report(self._now(), job=objects.name, **_kept(context.item))

    def _why_wait(self, context: _Context, current: Configuration) -> tuple[RunReason, str] | None:
        if self._paused or is_paused(context.item.annotations):
            return RunReason.PAUSED, "nothing new is measured while the brake is on"
        plans = self._plans()
        services = (s for s in self._store.all(MODEL_SERVICE) if s.deleted_at is None)
        counted = context.wish.run.spec.pool in self._observer.inventory.stocks
        if not counted or any(ServiceKey(each.namespace or "", each.name) not in plans for each in services):
            return RunReason.WAITING_FOR_PLANS, "GPUs are being counted, and the plans of services made"
        shortage = self._find_shortage(context, current)
        return None if shortage is None else (RunReason.WAITING_FOR_GPUS, shortage)

    def _find_shortage(self, context: _Context, current: Configuration) -> str | None:
        spec = context.wish.pool.spec
        room = observe_room(
            self._store,
            self._observer.inventory,
            self._plans(),
            pool=context.wish.run.spec.pool,
            limit=spec.max_gpus,
            namespace=context.namespace,
            quota=context.wish.quota,
            run=context.item.name,
        )
        return explain_shortage(room, current.gpus_per_replica)

    async def _follow(self, context: _Context, current: Configuration, job: Item[Job]) -> RunReport:
        shortage = self._find_shortage(context, current)
        if shortage is not None and self._observer.inventory.stocks.get(context.wish.run.spec.pool) is not None:
            await self._delete_job(context.item, job)
            words = f"gave its GPUs back and begins {current.shape} anew later: {shortage}"
            return context.report(self._now(), waits=(RunReason.WAITING_FOR_GPUS, words), **_kept(context.item))
        pod = pod_of(self._store, job)
        outcome, left = describe_start(current, pod), context.wish.budget_seconds
        if pod is not None and is_measuring(pod):
            progress = await self._read_progress(pod.body.address or "")
            outcome = _last_told(context, current)
            if progress is not None:
                outcome, left = outcome_under_way(current, progress), progress.seconds_left
        context.outcomes[current] = outcome
        if outcome.is_final:
            return context.report(self._now(), **_kept(context.item))
        waiting = sum(each not in context.outcomes for each in context.wish.configurations)
        left += waiting * context.wish.budget_seconds
        return context.report(self._now(), job=job.name, **{**_kept(context.item), "seconds_left": left})

    async def _conclude(self, context: _Context, current: Configuration, job: Item[Job]) -> RunReport:
        """The Job is over: keep what it found. It is deleted when the status that says so has been written."""
        kept = _kept(context.item)
        if job.body.ended == "Failed":
            context.outcomes[current] = describe_failure(current, job, pod_of(self._store, job))
            return context.report(self._now(), **kept)
        text = await self._writer.read_result(context.namespace, job.uid)
        if text is None:
            await self._delete_job(context.item, job)
            words = "its pod went before the result was read: it is measured again"
            return context.report(self._now(), waits=(RunReason.STARTING, words), **kept)
        try:
            found = unpack(text)
        except ApiError as error:
            found = Measurement(problem=str(error)[:500])
        if found.row is not None:
            existing = await self._writer.get_profile(context.namespace, profile_name(context.wish.run))
            body = make_run_profile(context.wish.subject, found, existing, self._now())
            if not says_the_same(body, existing):
                is_own = existing is not None and is_profile_of(existing["metadata"], context.wish.run)
                await self._writer.write_profile(body, existing, is_own=is_own)
            kept["profile"] = body["metadata"]["name"]
        context.outcomes[current] = outcome_of(current, found)
        return context.report(self._now(), **kept)

    # -- Jobs ----------------------------------------------------------------------------------------------------------

    def _own_job(self, item: Item[Custom], name: str) -> Item[Job] | None:
        job = self._store.get(JOB, item.namespace, name)
        return job if job is not None and job.owner == item.uid else None

    async def _drop_jobs(self, item: Item[Custom], *, keep: str) -> None:
        """Delete those that measure what is not asked for now, or was measured."""
        for job in list(self._store.all(JOB)):
            if job.owner == item.uid and job.name != keep and job.deleted_at is None:
                await self._delete_job(item, job)

    async def _delete_job(self, item: Item[Custom], job: Item[Job]) -> None:
        await self._writer.delete_measurement(item.namespace or "", job.name, item.uid)

    # -- report --------------------------------------------------------------------------------------------------------

    async def _write(self, item: Item[Custom], report: RunReport) -> None:
        current = self._store.by_uid(PROFILE_RUN, item.uid) or item
        previous = current.body.raw.get("status")
        status = make_run_status(previous, report)
        if not should_write_run(previous, status):
            return
        await self._writer.write_run_status(make_run_object(report.resource, status))
        for event in find_events(previous, status):
            await self._writer.emit(make_event(report.resource, event, report.now))
        if report.outcomes and report.job is None and not report.waits:
            self._later(RunKey(item.namespace or "", item.name), 0.0)  # the next configuration, or the last clean-up


def _kept(item: Item[Custom]) -> dict[str, Any]:
    """The profile that a status of this generation names."""
    status = item.body.raw.get("status") or {}
    return {"profile": status.get("profile")} if status.get("observedGeneration") == item.generation else {}


def _last_told(context: _Context, current: Configuration) -> Outcome:
    """A profiler that does not answer just now has not lost its points."""
    status = context.item.body.raw.get("status") or {}
    for entry in status.get("configurations") or ():
        if entry["state"] == "Measuring" and entry["shape"] == current.shape:
            rate, points = entry.get("requestsPerSecond"), entry.get("points")
            return Outcome(current, "Measuring", points, rate, entry.get("message", ""))
    return Outcome(current, "Measuring", message="begins")
