"""Brings one key to what was planned for it: renders, writes what differs, reports. Never decides."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from shoal.api.base import API_VERSION
from shoal.api.model_service import ModelService
from shoal.domain.configuration import Placement
from shoal.domain.plan import Decision, Step
from shoal.domain.service import Memory, Mode, Service, ServiceKey
from shoal.reconciler.apply import DEPLOYMENTS, NameTakenError, Writer
from shoal.reconciler.clock import Now, steady
from shoal.reconciler.errors import ClusterError
from shoal.reconciler.heat import describe_heat, read_gpus
from shoal.reconciler.items import Item
from shoal.reconciler.keeper import Keeper
from shoal.reconciler.keys import Key, PoolKey, RouterKey, RunKey
from shoal.reconciler.kinds import DEPLOYMENT, GPU_POOL, MODEL_SERVICE, Custom
from shoal.reconciler.leader import NotLeaderError
from shoal.reconciler.library import Library
from shoal.reconciler.observe import Observer
from shoal.reconciler.planloop import Planned
from shoal.reconciler.pool_status import make_pool_status
from shoal.reconciler.profile_runs import ProfileRuns
from shoal.reconciler.routes import is_routed
from shoal.reconciler.store import Store
from shoal.reconciler.wishes import engine_class_name
from shoal.reconciler.workqueue import RequeueError, WorkFailedError
from shoal.render.budget import make_budget
from shoal.render.changes import should_write
from shoal.render.errors import RenderError
from shoal.render.events import find_events, make_event
from shoal.render.names import LABEL_VARIANT, budget_name, engines_service_name, variant_selector
from shoal.render.outcome import ObjectOutcome, Outcome, Result
from shoal.render.problems import Problem
from shoal.render.reasons import ProblemReason
from shoal.render.recipe import Recipe, is_routed_by_envoy
from shoal.render.remembered import memory_of
from shoal.render.report import Report
from shoal.render.router import RouterOwner, RouterSettings, make_router
from shoal.render.service import make_service
from shoal.render.status import make_status
from shoal.render.variant import make_variant

logger = logging.getLogger(__name__)

REPORT_SECONDS: Final = 60.0  # measurements reach the status at most this often
_ENSURE_SECONDS: Final = 600.0  # a budget or Service that a person deleted comes back within this
_REFUSED_SECONDS: Final = 2.0
_TAKEN_SECONDS: Final = 5.0  # nobody tells us when a name that somebody else has becomes free


class Telemetry(Protocol):
    """What the report says beside the Snapshot."""

    def silent_of(self, service: ServiceKey) -> tuple[str, ...]:
        """Pods that should answer and have not lately."""


@dataclass
class _Progress:
    """What happened to the objects of one ModelService in this run."""

    objects: list[ObjectOutcome]
    names: dict[Placement, str]
    problems: list[Problem]
    retry: ClusterError | None = None
    again: RequeueError | None = None
    unkept: str = ""  # why what was learned could not be kept


class Reconciler:
    """`handle` is what the workers do with a key. `plan_of` gives what was decided last."""

    def __init__(
        self,
        *,
        writer: Writer,
        store: Store,
        library: Library,
        observer: Observer,
        telemetry: Telemetry,
        keeper: Keeper,
        plan_of: Callable[[ServiceKey], Planned | None],
        later: Callable[[Key, float], None],
        router: RouterSettings | None,
        runs: ProfileRuns,
        now: Now,
    ) -> None:
        self._writer, self._store, self._library = writer, store, library
        self._observer, self._telemetry, self._plan_of = observer, telemetry, plan_of
        self._keeper = keeper
        self._later, self._router, self._runs, self._now = later, router, runs, now
        self._ensured: dict[str, tuple[int, float]] = {}  # UID -> generation, when
        self._router_taken: dict[str, ObjectOutcome] = {}  # namespace -> what stands in the router's place

    async def handle(self, key: Key) -> None:
        """Work on one key. Raises RequeueError and WorkFailedError alone."""
        try:
            match key:
                case ServiceKey():
                    await self._handle_service(key)
                case RouterKey():
                    await self._handle_router(key)
                case PoolKey():
                    await self._handle_pool(key)
                case RunKey():
                    await self._runs.handle(key)
        except NotLeaderError as error:  # workers of a replica that leads no more are stopped
            raise RequeueError(_REFUSED_SECONDS, str(error)) from error
        except ClusterError as error:
            _raise_for_queue(key, error)

    def forget(self, item: Item[Custom]) -> None:
        """Drop what was remembered of a ModelService that is gone."""
        self._ensured.pop(item.uid, None)
        self._keeper.forget(item.uid)
        self._writer.forget(item.namespace or "", (budget_name(item.name), engines_service_name(item.name)))

    # -- ModelServices ---------------------------------------------------------------------------------------------

    async def _handle_service(self, key: ServiceKey) -> None:
        item = self._store.get(MODEL_SERVICE, key.namespace, key.name)
        planned = self._plan_of(key)
        if item is None or item.deleted_at is not None or planned is None or not _is_about(planned, item):
            return  # deletion is garbage collection; a wish that is not planned yet comes again
        progress = _Progress([], {}, list(planned.problems))
        if planned.service is not None and planned.decision is not None:
            self._name_running(planned.service, progress)
            if planned.service.mode is not Mode.OBSERVE:
                await self._apply(item, planned.resource, planned.service, planned.decision, progress)
            self._name_planned(planned.resource, planned.service, planned.decision, progress)
        await self._report(item, planned, progress)
        self._later(key, REPORT_SECONDS * random.uniform(1.0, 2.0))
        if progress.retry is not None:
            _raise_for_queue(key, progress.retry)
        if progress.again is not None:
            raise progress.again

    async def _apply(
        self, item: Item[Custom], resource: ModelService, service: Service, decision: Decision, progress: _Progress
    ) -> None:
        for step in decision.steps:
            await self._attempt(progress, DEPLOYMENTS.kind, *self._prepare(item, resource, service, step, progress))
        await self._ensure_companions(item, resource, progress)
        await self._prune(item, service, decision, progress)
        progress.unkept = await self._keeper.keep(item, resource, service)

    def _prepare(
        self, item: Item[Custom], resource: ModelService, service: Service, step: Step, progress: _Progress
    ) -> tuple[str, Callable[[], Awaitable[None]]]:
        """Name and work of one step."""
        namespace = service.key.namespace
        if step.variant is not None:
            return step.variant, lambda: self._scale_running(namespace, step, item.uid)
        try:
            recipe = self._make_recipe(resource, service, step.placement)
            objects = make_variant(recipe)
        except RenderError as error:
            progress.problems.append(Problem(ProblemReason.NOT_RENDERABLE, str(error)))
            return "", _do_nothing
        progress.names[step.placement] = objects.name

        async def make_and_scale() -> None:
            live = await self._writer.ensure_variant(objects, item.uid)
            await self._writer.scale(live, step.replicas, step.doomed)

        return objects.name, make_and_scale

    async def _scale_running(self, namespace: str, step: Step, owner: str) -> None:
        """Scale a variant that runs; the store tells whether there is anything to do."""
        name = step.variant or ""
        known = self._store.get(DEPLOYMENT, namespace, name)
        if known is not None and known.body.replicas == step.replicas:
            return
        live = await self._writer.get_variant(namespace, name, owner)
        if live is not None:
            await self._writer.scale(live, step.replicas, step.doomed)

    async def _ensure_companions(self, item: Item[Custom], resource: ModelService, progress: _Progress) -> None:
        """The disruption budget, and the Service where there is no router."""
        known = self._ensured.get(item.uid)
        if known is not None and known[0] == item.generation and steady() - known[1] < _ENSURE_SECONDS:
            return
        bodies = [make_budget(resource)]
        if not is_routed_by_envoy(resource):
            bodies.append(make_service(resource))
        results = [await self._ensure(body, (item.uid,), progress) for body in bodies]
        if all(results):
            self._ensured[item.uid] = item.generation, steady()

    async def _ensure(self, body: Mapping[str, Any], owners: tuple[str, ...], progress: _Progress) -> bool:
        before = len(progress.objects)
        await self._attempt(progress, body["kind"], body["metadata"]["name"], lambda: self._writer.ensure(body, owners))
        return all(found.result is Result.OK for found in progress.objects[before:])

    async def _prune(self, item: Item[Custom], service: Service, decision: Decision, progress: _Progress) -> None:
        """Delete variants that are neither planned nor hold a pod."""
        wanted = {step.variant for step in decision.steps} | set(progress.names.values())
        planned = {variant.placement for variant in decision.plan.variants if variant.replicas}
        for variant in service.running:
            is_wanted = variant.name in wanted or (variant.placement in planned and not variant.outdated)
            if is_wanted or variant.desired or variant.live:
                continue
            deployment = self._store.get(DEPLOYMENT, service.key.namespace, variant.name)
            if deployment is not None:
                selector = variant_selector(service.key.name, deployment.labels.get(LABEL_VARIANT, ""))
                await self._attempt(
                    progress, DEPLOYMENTS.kind, variant.name, self._make_pruning(item, deployment.name, selector)
                )

    def _make_pruning(
        self, item: Item[Custom], name: str, selector: Mapping[str, str]
    ) -> Callable[[], Awaitable[None]]:
        return lambda: self._writer.prune_variant(item.namespace or "", name, selector, item.uid)

    async def _attempt(self, progress: _Progress, kind: str, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do one object's work; its failure is told in the status and does not keep the others from theirs."""
        if not name:
            return
        try:
            await work()
        except NameTakenError as error:
            progress.objects.append(ObjectOutcome(error.kind, error.name, Result.NAME_TAKEN, str(error)))
            progress.again = RequeueError(_TAKEN_SECONDS, str(error))
        except RequeueError as error:
            progress.again = error
        except ClusterError as error:
            progress.retry = error
            if error.is_conflict and "conflict with" not in error.message:
                return  # it changed under our hands: read it again
            logger.warning("%s %s: %s", kind, name, error)
            progress.objects.append(ObjectOutcome(kind, name, Result.FAILED, error.message or str(error)))
        else:
            progress.objects.append(ObjectOutcome(kind, name))

    def _make_recipe(self, resource: ModelService, service: Service, placement: Placement) -> Recipe:
        """Raises RenderError when the pool or class went away since the plan was made."""
        pools, engine = self._library.pools(), self._library.engine_class(engine_class_name(resource))
        if placement.pool not in pools or engine is None:
            raise RenderError(f"GPUPool {placement.pool} or EngineClass {engine_class_name(resource)} is gone")
        pool = pools[placement.pool][1]
        return Recipe(resource, pool, engine, placement, service.max_context_tokens, service.facts)

    def _name_running(self, service: Service, progress: _Progress) -> None:
        for variant in service.running:
            if not variant.outdated:
                progress.names.setdefault(variant.placement, variant.name)

    def _name_planned(self, resource: ModelService, service: Service, decision: Decision, progress: _Progress) -> None:
        """Names of planned variants that no step has made yet."""
        for variant in decision.plan.variants:
            if variant.replicas and variant.placement not in progress.names:
                try:
                    recipe = self._make_recipe(resource, service, variant.placement)
                    progress.names[variant.placement] = make_variant(recipe).name
                except RenderError as error:
                    progress.problems.append(Problem(ProblemReason.NOT_RENDERABLE, str(error)))

    # -- status and events -----------------------------------------------------------------------------------------

    async def _report(self, item: Item[Custom], planned: Planned, progress: _Progress) -> None:
        # As it is now: one of the writes above may have taken long.
        current = self._store.by_uid(MODEL_SERVICE, item.uid) or item
        previous = current.body.raw.get("status")
        report = self._make_report(item, planned, progress, memory_of(previous))
        status = make_status(previous, report)
        if not should_write(previous, status, report.now):
            return
        await self._writer.write_service_status(_status_body(item, status))
        for event in find_events(previous, status):
            await self._writer.emit(make_event(planned.resource, event, report.now))

    def _make_report(self, item: Item[Custom], planned: Planned, progress: _Progress, known: Memory) -> Report:
        namespace, service = item.namespace or "", planned.service
        objects = list(progress.objects)
        taken = self._router_taken.get(namespace)
        if taken is not None and is_routed(item):
            objects.append(taken)
        key = ServiceKey(namespace, item.name)
        return Report(
            resource=planned.resource,
            now=self._now(),
            service=service,
            decision=planned.decision,
            memory=planned.memory or known,
            names=progress.names,
            outcome=Outcome(tuple(objects)),
            problems=tuple(progress.problems),
            failures=planned.failures,
            silent=self._telemetry.silent_of(key),
            unkept=progress.unkept,
            heat=describe_heat(service, self._observer.readings_of) if service else {},
            gpus=read_gpus(service, self._observer.readings_of) if service else {},
        )

    # -- routers and pools -----------------------------------------------------------------------------------------

    async def _handle_router(self, key: RouterKey) -> None:
        owners = tuple(self._router_owners(key.namespace))
        if self._router is None or not owners:
            return  # the last owner takes the router with it
        self._later(key, _ENSURE_SECONDS)
        uids = tuple(owner.uid for owner in owners)
        try:
            for body in make_router(key.namespace, self._router, owners):
                await self._writer.ensure(body, uids, controlled=False)
        except NameTakenError as error:
            logger.warning("the router of %s: %s", key.namespace, error)
            self._router_taken[key.namespace] = ObjectOutcome(error.kind, error.name, Result.NAME_TAKEN, str(error))
            raise RequeueError(_TAKEN_SECONDS, str(error)) from error
        self._router_taken.pop(key.namespace, None)

    def _router_owners(self, namespace: str) -> Iterator[RouterOwner]:
        for item in self._store.all(MODEL_SERVICE):
            if item.namespace == namespace and item.deleted_at is None and is_routed(item):
                yield RouterOwner(item.name, item.uid)

    async def _handle_pool(self, key: PoolKey) -> None:
        item, pools = self._store.get(GPU_POOL, None, key.name), self._library.pools()
        if item is None or key.name not in pools:
            return
        previous = item.body.raw.get("status")
        body = make_pool_status(pools[key.name][1], self._observer.inventory, previous, self._now())
        if body["status"] != previous:
            await self._writer.write_pool_status(body)


async def _do_nothing() -> None:
    return


def _is_about(planned: Planned, item: Item[Custom]) -> bool:
    metadata = planned.resource.metadata
    return (metadata.uid, metadata.generation) == (item.uid, item.generation)


def _status_body(item: Item[Custom], status: Mapping[str, Any]) -> dict[str, Any]:
    """With the UID, so that the status of one object never lands on its successor of the same name."""
    metadata = {"namespace": item.namespace, "name": item.name, "uid": item.uid}
    return {"apiVersion": API_VERSION, "kind": "ModelService", "metadata": metadata, "status": status}


def _raise_for_queue(key: Key, error: ClusterError) -> None:
    """Turn a failed request into what the queue understands."""
    if error.is_not_found:
        logger.info("%s: gone meanwhile (%s)", key, error)
        raise RequeueError(2.0, str(error)) from error
    if error.retry_after is not None:
        raise RequeueError(error.retry_after, str(error)) from error
    logger.warning("%s: %s", key, error)
    raise WorkFailedError(str(error)) from error
