"""The cheapest replicas within what is left: pools, islands, quotas, limits, priorities."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_world import (
    L40S,
    Fleet,
    decide_one,
    make_load,
    make_pool,
    make_profile,
    make_row,
    make_service,
    make_variant,
    place,
    shape,
    snapshot,
)

from shoal.domain.pool import Admission, Holder, NodeStock, Stock
from shoal.domain.reasons import Binding, HoldReason, Rejection
from shoal.domain.service import Limits, Memory, Objective, PlacedReplicas, ServiceKey
from shoal.planner.decide import decide
from shoal.planner.ledger import GROUPS, Ledger, Use

PROFILES = [make_profile([make_row(10)]), make_profile([make_row(5)], L40S, name="q")]  # capacities 9 and 4.5
L40S_POOL = make_pool("l40s", L40S, gpus=4, price=1.0, memory=48)


def two_pools(rate, h100=8, l40s=4, **service):
    pools = [make_pool(gpus=h100), make_pool("l40s", L40S, gpus=l40s, price=1.0, memory=48)]
    return decide_one(make_service(rate=rate, pools=("h100", "l40s"), **service), pools, PROFILES)


@pytest.mark.parametrize(
    ("rate", "plan"),
    [
        (4, {("l40s", 1, 1): 1}),
        (9, {("l40s", 1, 1): 2}),
        (18, {("l40s", 1, 1): 4}),
        (20, {("h100", 1, 1): 1, ("l40s", 1, 1): 3}),  # the cheap pool is too small: the two complete each other
        (40, {("h100", 1, 1): 3, ("l40s", 1, 1): 3}),
        (45, {("h100", 1, 1): 3, ("l40s", 1, 1): 4}),
    ],
)
def test_the_cheapest_pool_first_then_the_next(rate, plan):
    decision = two_pools(rate)
    assert shape(decision) == plan
    assert decision.plan.cost_per_hour == pytest.approx(3 * plan.get(("h100", 1, 1), 0) + plan.get(("l40s", 1, 1), 0))


def test_options_not_taken_are_named():
    rejected = {(r.placement.pool, r.reason) for r in two_pools(4).explanation.rejected}
    assert ("h100", Rejection.COSTLIER) in rejected
    assert ("l40s", Rejection.NO_STOCK) in {
        (r.placement.pool, r.reason) for r in two_pools(4, l40s=0).explanation.rejected
    }


@pytest.mark.parametrize(
    ("service", "pool", "gpus", "binding"),
    [
        ({"limits": Limits(1, 3)}, {}, 3, Binding.LIMIT),
        ({}, {"admissions": (Admission("ml", gpu_quota=2),)}, 2, Binding.QUOTA),
        ({}, {"gpus": 4}, 4, Binding.STOCK),
        ({}, {"gpus": 8, "max_gpus": 5}, 5, Binding.STOCK),
        ({"limits": Limits(9)}, {}, 8, Binding.STOCK),
    ],
)
def test_too_little_still_serves_and_says_what_binds(service, pool, gpus, binding):
    decision = decide_one(make_service(rate=100, **service), [make_pool(**pool)], PROFILES)
    assert decision.binding is decision.plan.binding is binding
    assert decision.plan.gpus == gpus
    assert sum(step.replicas for step in decision.steps) == gpus
    assert decision.nearest.gpus == 11
    assert decision.nearest.rate == pytest.approx(10 / 1.08 * gpus)  # the knee of 10, and its error


def test_the_message_counts_who_holds_the_gpus():
    stock = Stock((NodeStock("a", 24, 17),), (Holder("Shoal", 17), Holder("ml/train-*", 6), Holder("hot", 1)))
    running = (make_variant(place("l40s", L40S), 17),)
    load = make_load(90)
    pool = replace(L40S_POOL, stock=stock)
    decision = decide_one(make_service(pools=("l40s",), running=running, load=load), [pool], PROFILES)
    assert (
        decision.explanation.message
        == "needs 20 l40s; 24 exist: 17 Shoal, 6 ml/train-*, 1 hot. Serving 78.7 of 90 req/s within the objective."
    )


def test_max_gpus_above_the_stock_lets_pods_wait_for_an_autoscaler():
    decision = decide_one(make_service(rate=80), [make_pool(gpus=4, max_gpus=16)], PROFILES)
    assert decision.plan.gpus == 9
    assert sum(step.replicas for step in decision.steps) == 9


def test_a_tensor_parallel_group_stays_within_one_node_or_island():
    profile = [make_profile([make_row(18, tp=2)])]
    objective = Objective(95, 500)
    whole = decide_one(make_service(rate=60, objective=objective), [make_pool(gpus=8, per_node=8)], profile)
    odd = decide_one(make_service(rate=60, objective=objective), [make_pool(gpus=9, per_node=3)], profile)
    assert whole.plan.replicas == 4
    assert odd.plan.replicas == 3  # three nodes of three: one pair in each
    islands = decide_one(
        make_service(rate=60, objective=objective), [make_pool(gpus=9, per_node=9, island_size=3)], profile
    )
    assert islands.plan.replicas == 3


def test_zero_stock_and_pools_without_gpus():
    decision = decide_one(make_service(rate=5), [make_pool(gpus=0)], PROFILES)
    assert decision.binding is Binding.STOCK
    assert decision.plan.summary == "none"
    assert decision.steps == ()
    empty_and_full = two_pools(4, h100=8, l40s=0)
    assert shape(empty_and_full) == {("h100", 1, 1): 1}


def test_an_unknown_pool_is_named():
    decision = decide_one(make_service(pools=("nowhere",)), [make_pool()], PROFILES)
    assert decision.binding is Binding.POOL
    assert "nowhere" in decision.explanation.message


class TestPriorities:
    @staticmethod
    def plans(*services, gpus=6, pool=None):
        answer = decide(snapshot(services, [pool or make_pool(gpus=gpus)], PROFILES))
        return {key.name: decision for key, decision in answer.decisions.items()}

    def test_higher_priority_first_but_never_below_anothers_floor(self):
        plans = self.plans(
            make_service("low", rate=50, priority=0, limits=Limits(2)), make_service("high", rate=100, priority=10)
        )
        assert (plans["high"].plan.gpus, plans["low"].plan.gpus) == (4, 2)
        assert plans["low"].binding is Binding.PRIORITY

    def test_ties_go_to_the_older_then_by_name(self):
        plans = self.plans(
            make_service("a", rate=40, created_at=2.0),
            make_service("b", rate=40, created_at=1.0),
            make_service("c", rate=40, created_at=2.0),
            gpus=7,
        )
        assert [plans[name].plan.gpus for name in "abc"] == [1, 5, 1]

    def test_the_pool_caps_priority(self):
        capped = make_pool(gpus=6, admissions=(Admission("ml", max_priority=0),))
        plans = self.plans(
            make_service("old", rate=50, created_at=0.0),
            make_service("new", rate=50, created_at=1.0, priority=99),
            pool=capped,
        )
        assert plans["old"].plan.gpus == 5

    def test_equals_do_not_take_what_the_other_has(self):
        old = make_service("old", rate=100, created_at=0.0)
        young = make_service("young", rate=27, created_at=1.0, running=(make_variant(place(), 3, "y"),))
        plans = self.plans(old, young, gpus=6)
        assert (plans["old"].plan.gpus, plans["young"].plan.gpus) == (3, 3)

    def test_higher_priority_takes_what_a_lower_one_has_and_waits_until_it_is_free(self):
        low = make_service("low", running=(make_variant(place(), 5, "l"),), load=make_load(44))
        high = make_service("high", rate=40, priority=5)
        plans = self.plans(low, high, gpus=6)
        assert (plans["high"].plan.gpus, plans["low"].plan.gpus) == (5, 1)
        assert sum(s.replicas for s in plans["low"].steps) == 1
        assert sum(s.replicas for s in plans["high"].steps) == 1  # the one that is free at this instant

    def test_quota_is_shared_by_the_services_of_a_namespace(self):
        pool = make_pool(gpus=8, admissions=(Admission("ml", gpu_quota=4), Admission("web")))
        plans = self.plans(
            make_service("a", rate=27),
            make_service("b", rate=27),
            make_service("w", rate=27, namespace="web"),
            pool=pool,
        )
        assert [plans[name].plan.gpus for name in "abw"] == [3, 1, 3]

    def test_a_service_with_stale_metrics_keeps_what_it_has_whatever_others_want(self):
        memory = Memory((PlacedReplicas(place(), 4),), traffic_seen=True)
        blind = make_service("blind", running=(make_variant(place(), 4, "b"),), memory=memory)
        plans = self.plans(blind, make_service("high", rate=100, priority=9), gpus=6)
        assert plans["blind"].reason is HoldReason.METRICS_STALE
        assert (plans["blind"].plan.gpus, plans["high"].plan.gpus) == (4, 2)


def test_an_unreadable_inventory_freezes_what_has_nowhere_else_to_go():
    unreadable = replace(make_pool(), stock=None)
    service = make_service(rate=50, running=(make_variant(place(), 2),), load=make_load(50))
    held = decide_one(service, [unreadable], PROFILES)
    assert held.reason is HoldReason.INVENTORY_UNREADABLE
    assert held.plan.gpus == 2
    pools = replace(service, pools=("h100", "l40s"))
    other = decide_one(pools, [unreadable, L40S_POOL], PROFILES)
    assert shape(other) == {("h100", 1, 1): 2, ("l40s", 1, 1): 4}  # unreadable is not empty: nothing is lost there


def groups_by_search(islands, sizes):
    """Whether groups of these sizes can be packed into islands: largest first into the fullest that has room."""
    free = sorted(islands)
    for size in sorted(sizes, reverse=True):
        at = next((i for i, left in enumerate(free) if left >= size), None)
        if at is None:
            return False
        free[at] -= size
        free.sort()
    return True


@given(
    nodes=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    taken=st.lists(st.sampled_from(GROUPS), max_size=5),
    size=st.sampled_from(GROUPS),
)
def test_room_for_groups_is_exact_for_powers_of_two(nodes, taken, size):
    stock = Stock(tuple(NodeStock(f"n{i}", gpus, gpus) for i, gpus in enumerate(nodes)))
    ledger = Ledger([replace(make_pool(), stock=stock)])
    if not groups_by_search(nodes, taken):
        return
    ledger.reserve(ServiceKey("ml", "other"), {Use("h100", g): taken.count(g) for g in set(taken)})
    most = ledger.room(ServiceKey("ml", "me"), ["h100"], limit=None, beside_own=False).most(place(tp=size), {})
    assert groups_by_search(nodes, taken + [size] * most)
    assert not groups_by_search(nodes, taken + [size] * (most + 1))


def test_pods_of_others_pin_their_nodes():
    """Two nodes with one GPU taken on each have no pair left, though two GPUs are free."""
    pool = make_pool(gpus=4, per_node=2)
    profiles = [make_profile([make_row(10)]), make_profile([make_row(18, tp=2)], model="big", name="big")]
    fleet = Fleet(snapshot([make_service("a", rate=9), make_service("b", rate=9)], [pool], profiles))
    for _ in range(3):
        fleet.tick()
    spread = [
        replace(
            s,
            running=tuple(
                replace(v, replicas=tuple(replace(r, node=f"h100-{i}") for r in v.replicas)) for v in s.running
            ),
        )
        for i, s in enumerate(fleet.snapshot.services)
    ]
    big = make_service("big", model="big", rate=9)
    answer = decide(replace(fleet.snapshot, services=(*spread, big)))
    assert answer.decisions[big.key].binding is Binding.STOCK
    together = [
        replace(
            s,
            running=tuple(replace(v, replicas=tuple(replace(r, node="h100-0") for r in v.replicas)) for v in s.running),
        )
        for s in fleet.snapshot.services
    ]
    answer = decide(replace(fleet.snapshot, services=(*together, big)))
    assert answer.decisions[big.key].plan.summary == "1xTP2"
