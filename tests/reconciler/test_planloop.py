"""The plan loop around a decision that the test makes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from objects import until

from shoal.api.model_service import ModelService
from shoal.domain.plan import Decision, Demand, Explanation, Plan, PlanSet, Prediction, Quality, Scale
from shoal.domain.profile import LengthMix
from shoal.domain.reasons import Binding, ProfileState
from shoal.domain.service import EngineFacts, Load, Memory, Objective, Service, ServiceKey, Tick, Workload
from shoal.domain.snapshot import Snapshot
from shoal.planner.groups import partition
from shoal.reconciler.planloop import PlanLoop, View
from shoal.reconciler.surges import find_surges
from shoal.render.problems import Problem
from shoal.render.reasons import ProblemReason

A, B = ServiceKey("team", "a"), ServiceKey("team", "b")


def make_service(key: ServiceKey, pool: str) -> Service:
    mix = LengthMix(100, 100, 200, 200)
    return Service(
        key=key,
        uid=f"uid-{key.name}",
        generation=1,
        created_at=0.0,
        model="m",
        facts=None,
        max_context_tokens=1000,
        objective=Objective(ttft_ms=500),
        workload=Workload(1.0, mix),
        engine=EngineFacts("vllm", "0.33.0"),
        pools=(pool,),
    )


def make_resource(key: ServiceKey) -> ModelService:
    metadata = {"name": key.name, "namespace": key.namespace, "uid": f"uid-{key.name}", "generation": 1}
    return ModelService.model_validate(
        {"metadata": metadata, "spec": {"model": {"name": "m"}, "slo": {"ttftMilliseconds": 1}}}
    )


def make_decision(key: ServiceKey, binding: Binding = Binding.DEMAND) -> Scale:
    demand = Demand(1, 1, 0, 0, 60, observed=False)
    plan = Plan((), Prediction(None, None, 0.0), 0.0, binding)
    return Scale(key, plan, (), Explanation(demand, ProfileState.ESTIMATED), moved=False)


class World:
    """Two services that share no pool. `broken` makes deciding fail for a service."""

    def __init__(self) -> None:
        self.services = {A: make_service(A, "one"), B: make_service(B, "two")}
        self.problems: dict[ServiceKey, tuple[Problem, ...]] = {}
        self.broken: set[ServiceKey] = set()
        self.bindings: dict[ServiceKey, Binding] = {}
        self.decided: list[ServiceKey] = []
        self.memories: list[Mapping[ServiceKey, Memory]] = []
        self.changed: list[ServiceKey] = []
        self.derating: dict[str, float] = {}  # of the service A
        self.told: dict[str, float] = {}
        self.loop = PlanLoop(
            observe=self._observe,
            partition=partition,
            decide=self._decide,
            remember=self._remember,
            on_change=self.changed.append,
            told_of=lambda key: self.told if key == A else {},
            interval=5.0,
        )

    def _observe(self, memories: Mapping[ServiceKey, Memory]) -> View:
        self.memories.append(dict(memories))
        planned = tuple(service for key, service in self.services.items() if key not in self.problems)
        resources = {key: make_resource(key) for key in self.services}
        return View(Snapshot(0.0, planned, (), ()), resources, dict(self.problems), {})

    def _decide(self, snapshot: Snapshot) -> PlanSet:
        keys = [service.key for service in snapshot.services]
        self.decided.extend(keys)
        if self.broken & set(keys):
            raise ArithmeticError("broken")
        decisions = {key: make_decision(key, self.bindings.get(key, Binding.DEMAND)) for key in keys}
        if A in decisions:
            hot = replace(decisions[A].explanation, derating=dict(self.derating))
            decisions[A] = replace(decisions[A], explanation=hot)
        return PlanSet(0.0, decisions, Quality(4.0, 3.0 if A in decisions else 4.0, exact=A not in decisions))

    def _remember(self, service: Service, decision: Decision, at: float) -> Memory:
        return Memory(last_move_at=at + len(self.memories))

    async def round(self, *, full: bool = True) -> list[ServiceKey]:
        """The services whose workers are called."""
        self.changed.clear()
        self.decided.clear()
        await self.loop.round(full=full)
        return sorted(self.changed)


async def test_the_first_round_plans_all_and_the_next_changes_nothing() -> None:
    world = World()
    assert await world.round() == [A, B]
    assert await world.round() == []
    assert sorted(world.decided) == [A, B]
    assert world.memories[1] == {key: Memory(last_move_at=1.0) for key in (A, B)}


async def test_the_quality_is_that_of_all_groups_together() -> None:
    """Of each group as of its last decision; a group that is gone does not count."""
    world = World()
    assert world.loop.quality == Quality(0.0, 0.0, exact=True)
    await world.round()
    assert world.loop.quality == Quality(8.0, 7.0, exact=False)
    assert world.loop.quality.gap == pytest.approx(1 / 8)
    del world.services[A]
    await world.round()
    assert world.loop.quality == Quality(4.0, 4.0, exact=True)


async def test_only_dirty_groups_are_decided_between_full_rounds() -> None:
    world = World()
    await world.round()
    world.loop.mark(A)
    world.bindings[A] = Binding.STOCK
    assert await world.round(full=False) == [A]
    assert world.decided == [A]
    await world.round(full=False)
    assert world.decided == []


async def test_a_new_service_is_decided_though_nobody_marked_it() -> None:
    world = World()
    new = ServiceKey("team", "c")
    await world.round()
    world.services[new] = make_service(new, "three")
    assert await world.round(full=False) == [new]


async def test_a_failure_of_one_group_stops_no_other_and_is_told() -> None:
    world = World()
    await world.round()
    before = world.loop.plans[A].decision
    world.broken.add(A)
    world.bindings[B] = Binding.STOCK
    assert await world.round() == [A, B]
    planned = world.loop.plans[A]
    assert planned.problems[0].reason is ProblemReason.PLANNING_FAILED
    assert planned.decision is before
    assert world.loop.plans[B].decision.plan.binding is Binding.STOCK  # type: ignore[union-attr]
    assert world.loop.failures == 1
    world.broken.clear()
    assert await world.round() == [A]
    assert world.loop.plans[A].problems == ()


async def test_what_cannot_be_planned_keeps_its_memory() -> None:
    world = World()
    await world.round()
    world.problems[A] = (Problem(ProblemReason.POOL_NOT_FOUND, "no pool"),)
    assert await world.round() == [A]
    assert world.loop.plans[A].service is None
    del world.problems[A]
    await world.round()
    assert world.memories[-1][A] == Memory(last_move_at=1.0)


async def test_a_deleted_service_is_forgotten() -> None:
    world = World()
    await world.round()
    del world.services[A]
    await world.round()
    assert set(world.loop.plans) == {B}


async def test_reset_forgets_what_another_leader_may_have_changed() -> None:
    world = World()
    await world.round()
    world.loop.reset()
    assert await world.round(full=False) == [A, B]
    assert world.memories[-1] == {}


@pytest.mark.parametrize(
    ("loads", "calls"),
    [
        ([100.0, 110.0, 90.0, 120.0], 0),  # far below the limit: noise concerns nobody
        ([100.0, 400.0], 1),  # a missed objective is told at once
        ([None, 100.0], 1),  # the first measurement
    ],
)
async def test_measurements_call_a_worker_only_near_a_limit(loads: list[Any], calls: int) -> None:
    world = World()
    called = 0
    for index, ttft in enumerate(loads):
        load = Load(ttft_mean_ms=ttft, fresh_fraction=1.0)
        world.services[A] = replace(world.services[A], load=load)
        changed = await world.round()
        called += A in changed if index else 0
    assert called == calls


async def test_heat_calls_a_worker_until_the_status_tells_of_it() -> None:
    world = World()
    world.derating = {"a-1": 1.0, "a-2": 1.0}
    await world.round()
    world.derating["a-2"] = 0.95  # a step of the grid: a clock at its edge flaps
    assert await world.round() == []
    world.derating["a-2"] = 0.6
    assert await world.round() == [A]
    assert await world.round() == [A]  # it could not be written
    world.told = {"a-2": 0.6}
    assert await world.round() == []
    world.derating["a-2"] = 1.0
    assert await world.round() == [A]


async def test_services_that_get_far_more_than_planned_for_are_found() -> None:
    class Counts:
        def last_tick(self, service: ServiceKey) -> tuple[Tick, float] | None:
            return {A: (Tick(30.0), 2.5)}.get(service)

    world = World()
    assert list(find_surges(world.loop.plans, Counts())) == []
    await world.round()
    assert list(find_surges(world.loop.plans, Counts())) == [A]


async def test_a_change_is_decided_soon_and_a_storm_of_them_once() -> None:
    world = World()
    task = asyncio.create_task(world.loop.run())
    try:
        await until(lambda: world.loop.rounds >= 1)
        for _ in range(50):
            world.loop.mark(A)
            await asyncio.sleep(0.001)
        await until(lambda: world.loop.rounds >= 2)
        assert world.loop.rounds <= 3
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
