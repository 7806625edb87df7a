"""The whole decision: memory between plans, messages, and its cost."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from planner_world import (
    L40S,
    MIX,
    NOW,
    Fleet,
    decide_one,
    make_load,
    make_pool,
    make_profile,
    make_row,
    make_service,
    make_variant,
    place,
    snapshot,
)

from shoal.domain.plan import Infeasible
from shoal.domain.reasons import Binding
from shoal.domain.service import Limits, Load, Memory, Objective, PlacedReplicas, Tick
from shoal.planner.decide import decide
from shoal.planner.groups import partition
from shoal.planner.remember import remember

PROFILES = [make_profile([make_row(10)]), make_profile([make_row(5)], L40S, name="q")]


class TestMemory:
    def test_a_first_plan_is_remembered_with_its_instant(self):
        service = make_service(rate=20)
        decision = decide_one(service, [make_pool()], PROFILES)
        memory = remember(service, decision, NOW)
        assert memory.target == (PlacedReplicas(place(), 3),)
        assert (memory.last_move_at, memory.last_mix_change_at, memory.traffic_seen) == (NOW, None, False)

    def test_a_plan_that_stays_is_no_move(self):
        service = make_service(rate=20, memory=Memory((PlacedReplicas(place(), 3),), last_move_at=NOW - 50))
        decision = decide_one(service, [make_pool()], PROFILES)
        assert not decision.moved
        assert remember(service, decision, NOW).last_move_at == NOW - 50

    def test_other_placements_are_a_change_of_mix(self):
        memory = Memory((PlacedReplicas(place(), 1),), last_move_at=NOW - 50)
        service = make_service(rate=4, pools=("l40s",), memory=memory)
        pools = [make_pool("l40s", L40S, price=1.0, memory=48)]
        assert remember(service, decide_one(service, pools, PROFILES), NOW).last_mix_change_at == NOW

    def test_traffic_once_seen_stays_seen(self):
        service = make_service(load=Load((Tick(3.0),), 5.0, 1.0, MIX))
        memory = remember(service, decide_one(service, [make_pool()], PROFILES), NOW)
        assert memory.traffic_seen
        quiet = make_service(load=make_load(0), memory=memory)
        assert remember(quiet, decide_one(quiet, [make_pool()], PROFILES), NOW).traffic_seen

    def test_a_hold_and_an_impossible_wish_keep_the_target(self):
        memory = Memory((PlacedReplicas(place(), 3),), last_move_at=NOW - 50, traffic_seen=True)
        blind = make_service(running=(make_variant(place(), 3),), memory=memory)
        assert remember(blind, decide_one(blind, [make_pool()], PROFILES), NOW).target == memory.target
        lost = replace(blind, pools=("gone",))
        assert remember(lost, decide_one(lost, [make_pool()], PROFILES), NOW).target == memory.target

    def test_losing_it_never_takes_anything_away(self):
        fleet = Fleet(snapshot([make_service(rate=30)], [make_pool()], PROFILES), startup=10.0)
        for _ in range(10):
            fleet.tick(loads={fleet.snapshot.services[0].key: make_load(30)})
        before = fleet.held()
        fleet.snapshot = replace(
            fleet.snapshot, services=tuple(replace(s, memory=Memory(), load=Load()) for s in fleet.snapshot.services)
        )
        for ticks in range(1, 20):
            fleet.tick(loads={fleet.snapshot.services[0].key: make_load(3, ticks=ticks)})
            assert fleet.held() == before


class TestMessages:
    @pytest.mark.parametrize(
        ("service", "words"),
        [
            ({"rate": 20}, "3xTP1 in h100 for 20 req/s declared, no traffic seen yet; carries 27"),
            (
                {"rate": 200, "limits": Limits(1, 2)},
                "needs 22 GPUs; limits.maxGPUs allows 2. Serving 18.5 of 200 req/s within the objective. Raise limits",
            ),
            ({"pools": ("gone",)}, "No pool may be used: pools gone do not exist."),
            ({"paused": True}, "Keeps nothing: paused; remove the annotation shoal.dev/paused"),
        ],
    )
    def test_numbers_and_the_way_out(self, service, words):
        assert decide_one(make_service(**service), [make_pool(gpus=64)], PROFILES).explanation.message.startswith(words)

    def test_growth_names_what_was_before_and_why(self):
        memory = Memory((PlacedReplicas(place(), 2),), traffic_seen=True)
        service = make_service(running=(make_variant(place(), 2),), load=make_load(40), memory=memory)
        message = decide_one(service, [make_pool()], PROFILES).explanation.message
        assert "6xTP1 in h100 for 40 req/s over 300 s" in message  # four, while the two work off their queues
        assert "was 2xTP1 in h100" in message

    def test_an_objective_out_of_reach_names_the_nearest(self):
        decision = decide_one(make_service(rate=2, objective=Objective(95, 5000, 3)), [make_pool()])
        assert isinstance(decision, Infeasible)
        assert decision.binding is Binding.LATENCY
        assert decision.nearest.itl_ms is not None
        assert (
            f"ITL of 3 ms is out of reach, {decision.nearest.itl_ms:g} ms could be met" in decision.explanation.message
        )
        assert "estimate" in decision.explanation.message
        assert decision.plan.gpus >= 1  # the best effort serves


def test_services_without_a_common_pool_are_apart():
    services = [
        make_service("a", ("h100", "l40s")),
        make_service("b", ("l40s",)),
        make_service("c", ("t4",)),
        make_service("d", ("t4",), running=(make_variant(place("a100"), 1),)),
        make_service("e", ()),
    ]
    parts = partition(snapshot(services, [make_pool(name) for name in ("h100", "l40s", "t4", "a100")]))
    found = sorted(
        (sorted(s.key.name for s in part.services), sorted(pool.name for pool in part.pools)) for part in parts
    )
    assert found == [(["a", "b"], ["h100", "l40s"]), (["c", "d"], ["a100", "t4"]), (["e"], [])]


def test_two_hundred_services_take_well_under_a_second():
    """Processor time, so that a busy machine does not matter; 0.05-0.1 s was measured on two cores."""
    services = [
        make_service(f"s{i}", ("h100", "l40s"), created_at=float(i), load=make_load(1 + i % 17, ticks=360))
        for i in range(200)
    ]
    pools = [make_pool(gpus=600), make_pool("l40s", L40S, gpus=600, price=1.0, memory=48)]
    world = snapshot(services, pools, PROFILES)
    decide(world)
    began = time.process_time()
    decide(world)
    assert time.process_time() - began < 1.0
