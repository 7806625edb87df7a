"""Store and telemetry -> Snapshot. What cannot be planned is set aside with its reason, and concerns nobody else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shoal.api.engine_class import EngineClass
from shoal.api.errors import ApiError
from shoal.api.gpu_pool import GPUPool
from shoal.api.model_service import ModelService
from shoal.domain.pool import Pool
from shoal.domain.profile import Profile
from shoal.domain.service import Load, Memory, RunningVariant, Service, ServiceKey
from shoal.domain.snapshot import Brakes, Snapshot
from shoal.reconciler.clock import Now
from shoal.reconciler.inventory import Inventory, OwnedPool, make_inventory
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import DEPLOYMENT, MODEL_SERVICE, NAMESPACE, Custom, Pod
from shoal.reconciler.lessons import Lessons
from shoal.reconciler.library import Library
from shoal.reconciler.observe_replicas import Measurements, find_failures, observe_variants, own_variants
from shoal.reconciler.planloop import View
from shoal.reconciler.run_room import count_profiling
from shoal.reconciler.startups import Startups
from shoal.reconciler.store import Store
from shoal.reconciler.wishes import (
    choose_pools,
    engine_class_name,
    find_class_problems,
    make_pool,
    make_service,
)
from shoal.render.names import ANNOTATION_IDENTITY
from shoal.render.problems import Problem
from shoal.render.reasons import ProblemReason
from shoal.render.recipe import Recipe, compute_identity
from shoal.render.remembered import memory_of
from shoal.telemetry.gpu import GpuReading


class Telemetry(Measurements, Protocol):
    """What is measured of services, pods and nodes."""

    def load_of(self, service: ServiceKey) -> Load:
        """The traffic of a service."""


class ForeignPods(Protocol):
    """Others' pods that hold extended resources."""

    @property
    def foreign(self) -> tuple[Item[Pod], ...] | None:
        """None: they could not be listed."""


@dataclass(frozen=True, slots=True)
class _World:
    """What all services of one round share."""

    pools: Mapping[str, GPUPool]
    profiles: Mapping[str, Sequence[Profile]]


@dataclass(frozen=True, slots=True)
class _Wish:
    """A ModelService that can be planned: what it asks for, before anything is observed of it."""

    item: Item[Custom]
    resource: ModelService
    engine: EngineClass
    service: Service


class Observer:
    """Makes the View of a round. `inventory` is that of the last one."""

    def __init__(
        self,
        *,
        store: Store,
        library: Library,
        telemetry: Telemetry,
        foreign: ForeignPods,
        startups: Startups,
        lessons: Lessons,
        operator_namespace: str,
        brakes: Brakes,
        now: Now,
        energy_price_per_kwh: float = 0.0,
    ) -> None:
        self._energy_price = energy_price_per_kwh
        self._store, self._library, self._telemetry = store, library, telemetry
        self._foreign, self._startups, self._lessons = foreign, startups, lessons
        self._namespace, self._brakes, self._now = operator_namespace, brakes, now
        self._identities: dict[tuple[object, ...], str] = {}
        self.inventory = Inventory()

    def readings_of(self, node: str) -> tuple[GpuReading, ...]:
        """What is measured of a node's GPUs."""
        return self._telemetry.gpus_of(node)

    def observe(self, memories: Mapping[ServiceKey, Memory]) -> View:
        """See everything once. `memories`: what is remembered in memory; the rest is read from the statuses."""
        pools = self._library.pools()
        world = _World({name: pool for name, (_, pool) in pools.items()}, self._library.profiles())
        wishes: list[_Wish] = []
        resources: dict[ServiceKey, ModelService] = {}
        problems: dict[ServiceKey, tuple[Problem, ...]] = {}
        for item in sorted(self._store.all(MODEL_SERVICE), key=lambda item: (item.namespace or "", item.name)):
            if item.deleted_at is not None:
                continue
            key = ServiceKey(item.namespace or "", item.name)
            resources[key], found = self._read_wish(item, world)
            if isinstance(found, _Wish):
                wishes.append(found)
            else:
                problems[key] = found
        owned = [OwnedPool(item.created_at, pool) for item, pool in pools.values()]
        self.inventory = self._count(owned, wishes)
        services = [self._complete(wish, world, memories.get(wish.service.key)) for wish in wishes]
        failures = {key: find_failures(self._store, key.namespace, key.name) for key in resources}
        return View(self._make_snapshot(world, services), resources, problems, failures)

    def _read_wish(self, item: Item[Custom], world: _World) -> tuple[ModelService, _Wish | tuple[Problem, ...]]:
        resource = self._library.service(item)
        if isinstance(resource, ApiError):
            return _make_stand_in(item), (_unreadable(resource),)
        namespace = item.namespace or ""
        engine = self._library.engine_class(engine_class_name(resource))
        choice = choose_pools(resource, world.pools, self._labels_of(namespace))
        wrong = (*find_class_problems(resource, engine), *(choice.problems if not choice.allowed else ()))
        if engine is None or wrong:
            return resource, wrong
        profiles = (*world.profiles.get(namespace, ()), *world.profiles.get(self._namespace, ()))
        service = make_service(resource, engine, choice, profiles, created_at=item.created_at)
        return resource, _Wish(item, resource, engine, service)

    def _count(self, pools: Iterable[OwnedPool], wishes: Sequence[_Wish]) -> Inventory:
        """The stock, knowing whose variants the plan counts."""
        counted = {
            (wish.service.key.namespace, deployment.name)
            for wish in wishes
            for deployment, _ in own_variants(self._store, wish.item)
        }
        return make_inventory(self._store, pools, self._foreign.foreign, counted)

    def _make_snapshot(self, world: _World, services: Sequence[Service]) -> Snapshot:
        namespaces = {service.key.namespace for service in services}
        labels = {name: self._labels_of(name) or {} for name in namespaces}
        profiling = count_profiling(self._store)
        pools: tuple[Pool, ...] = tuple(
            make_pool(pool, self.inventory.stocks.get(name), labels, profiling.get(name, {}))
            for name, pool in world.pools.items()
        )
        profiles = [p for name in sorted({*namespaces, self._namespace}) for p in world.profiles.get(name, ())]
        return Snapshot(
            now=self._now(),
            services=tuple(services),
            pools=pools,
            profiles=tuple(profiles),
            operator_namespace=self._namespace,
            brakes=self._brakes,
            energy_price_per_kwh=self._energy_price,
        )

    def _complete(self, wish: _Wish, world: _World, memory: Memory | None) -> Service:
        """The wish with what runs, what was measured, what is remembered."""
        running = observe_variants(self._store, self.inventory, self._telemetry, wish.item)
        remembered = memory or memory_of(wish.item.body.raw.get("status"))
        kept = {variant.name.rsplit("-", 1)[-1] for variant in running if variant.desired > 0}
        startup = self._startups.p90(wish.service.key, kept) or remembered.startup_p90_seconds
        return replace(
            wish.service,
            running=tuple(self._judge(variant, wish, world) for variant in running),
            load=self._telemetry.load_of(wish.service.key),
            memory=replace(remembered, startup_p90_seconds=startup),
            learned=self._lessons.of(wish.item),
        )

    def _judge(self, variant: RunningVariant, wish: _Wish, world: _World) -> RunningVariant:
        """Say whether a variant still runs what is asked for. One whose pool is gone keeps running as it is."""
        service = wish.service
        pool = world.pools.get(variant.placement.pool)
        item = self._store.get(DEPLOYMENT, service.key.namespace, variant.name)
        if pool is None or item is None:
            return variant
        recipe = Recipe(wish.resource, pool, wish.engine, variant.placement, service.max_context_tokens, service.facts)
        outdated = item.annotations.get(ANNOTATION_IDENTITY) != self._identity(recipe)
        return replace(variant, outdated=outdated)

    def _identity(self, recipe: Recipe) -> str:
        """The identity of a recipe, made once: it is asked for in every round."""
        parts = (recipe.service.metadata, recipe.pool.metadata, recipe.engine.metadata)
        key = (
            *((part.uid, part.generation) for part in parts),
            recipe.placement,
            recipe.max_context_tokens,
            recipe.facts,
        )
        if key not in self._identities:
            if len(self._identities) > 10_000:
                self._identities.clear()
            self._identities[key] = compute_identity(recipe)
        return self._identities[key]

    def _labels_of(self, namespace: str) -> Mapping[str, str] | None:
        item = self._store.get(NAMESPACE, None, namespace)
        return item.labels if item else None


def _unreadable(error: ApiError) -> Problem:
    text = f"{error.field or 'the object'}: {error.problem}; install the CRDs of this operator's version"
    return Problem(ProblemReason.NOT_READABLE, text)


def _make_stand_in(item: Item[Custom]) -> ModelService:
    """A resource with the identity of one that cannot be read, so that its status can be written."""
    metadata = {"name": item.name, "namespace": item.namespace, "uid": item.uid, "generation": item.generation}
    wish = {"model": {"name": "unreadable"}, "slo": {"ttftMilliseconds": 1}}
    return ModelService.model_validate({"metadata": metadata, "spec": wish})
