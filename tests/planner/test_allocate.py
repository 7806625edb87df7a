"""Targets of several services together, against a search through all plans of all of them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import (
    L40S,
    make_load,
    make_point,
    make_pool,
    make_profile,
    make_row,
    make_service,
    make_variant,
    place,
    shape,
    snapshot,
)

from shoal.domain.plan import Infeasible, Scale
from shoal.domain.pool import Admission
from shoal.domain.reasons import Binding
from shoal.domain.service import Limits, Memory, Objective, PlacedReplicas
from shoal.planner.assess import assess, make_world
from shoal.planner.decide import decide
from shoal.planner.ledger import Ledger, Use

LOOSE = Objective(95, 2000)
PROFILES = [
    make_profile([make_row(10), make_row(17, tp=2)]),
    make_profile([make_row(4)], L40S, name="q"),
]


def service(name, pools=("h100", "l40s"), rate=5.0, **more):
    return make_service(name, pools, rate, objective=LOOSE, **more)


def pools_of(h100=4, l40s=2, per_node=8, **more):
    return [
        make_pool(gpus=h100, per_node=per_node, **more),
        make_pool("l40s", L40S, gpus=l40s, price=1.25, memory=48),
    ]


def decide_all(services, pools, **brakes):
    return decide(snapshot(services, pools, PROFILES, **brakes))


def plans_alone(service, world, most):
    """Every way to serve one service in full: (cost, uses)."""
    fleets = assess(service, world).fleets
    placements = sorted(fleets)
    for numbers in itertools.product(range(most + 1), repeat=len(placements)):
        counts = {p: n for p, n in zip(placements, numbers, strict=True) if n}
        carried = sum(fleets[p].rate(n) for p, n in counts.items())
        gpus = sum(n * p.configuration.gpus_per_replica for p, n in counts.items())
        limit = service.limits.max_gpus
        if carried < service.workload.rate * (1 - 1e-9) or sum(counts.values()) < service.limits.min_replicas:
            continue
        if limit is None or gpus <= limit:
            cost = sum(fleets[p].option.cost * n for p, n in counts.items())
            yield cost, {Use(p.pool, p.configuration.gpus_per_replica): n for p, n in counts.items()}


def fits(pools, world, uses_of):
    """Whether uses of all services fit, by the ledger's rows."""
    ledger = Ledger(pools)
    for key, uses in uses_of.items():
        for use, count in uses.items():
            room = ledger.room(key, [use.pool], limit=None, beside_own=True)
            size = {1: place(use.pool), 2: place(use.pool, tp=2)}[use.gpus]
            if room.most(size, {}) < count:
                return False
            ledger.reserve(key, {**ledger.uses(key), use: count})
    return True


def search(services, pools, most=4):
    """The least cost at which all are served in full; None: they cannot be."""
    world = make_world(snapshot(services, pools, PROFILES))
    found = None
    for choice in itertools.product(*(sorted(plans_alone(s, world, most), key=lambda p: p[0]) for s in services)):
        cost = sum(plan[0] for plan in choice)
        if found is not None and cost >= found:
            continue
        if fits(pools, world, {s.key: plan[1] for s, plan in zip(services, choice, strict=True)}):
            found = cost
    return found


@st.composite
def small_worlds(draw):
    pools = pools_of(draw(st.integers(0, 4)), draw(st.integers(0, 3)), draw(st.sampled_from([1, 2, 3, 8])))
    if draw(st.booleans()):
        pools[0] = replace(pools[0], admissions=(Admission("ml", draw(st.integers(0, 3))),))
    services = [
        service(
            f"s{i}",
            draw(st.sampled_from([("h100",), ("l40s",), ("h100", "l40s")])),
            draw(st.floats(0.5, 20)),
            priority=draw(st.integers(0, 1)),
            limits=Limits(draw(st.integers(0, 2)), draw(st.none() | st.integers(1, 4))),
        )
        for i in range(draw(st.integers(2, 3)))
    ]
    return services, pools


@settings(derandomize=True, max_examples=120, deadline=None)
@given(small_worlds())
def test_never_infeasible_when_a_search_finds_a_way_and_never_dearer(world):
    services, pools = world
    best = search(services, pools)
    plans = decide_all(services, pools)
    served = all(isinstance(decision, Scale) for decision in plans.decisions.values())
    assert served == (best is not None)
    if best is not None:
        assert sum(d.plan.cost_per_hour for d in plans.decisions.values()) == pytest.approx(best, abs=1e-3)
        assert plans.quality.exact
        assert plans.quality.gap == 0.0


def test_the_older_makes_room_where_the_younger_has_nowhere_else():
    """Alone the old one would take the cheap GPU, and the young one, which may use no other, would have none."""
    plans = decide_all([service("old", rate=3), service("young", ("l40s",), 3, created_at=1.0)], pools_of(l40s=1))
    found = {key.name: shape(decision) for key, decision in plans.decisions.items()}
    assert found == {"old": {("h100", 1, 1): 1}, "young": {("l40s", 1, 1): 1}}
    assert plans.quality.exact


def test_a_higher_priority_uses_what_is_free_before_it_takes_from_a_lower_one():
    low = service(
        "low",
        ("l40s",),
        running=(make_variant(place("l40s", L40S), 2),),
        load=make_load(6.5),
        memory=Memory((PlacedReplicas(place("l40s", L40S), 2),), traffic_seen=True),
    )
    plans = decide_all([low, service("high", rate=7, priority=9)], pools_of(l40s=2))
    assert shape(plans.decisions[low.key]) == {("l40s", 1, 1): 2}
    assert all(isinstance(decision, Scale) for decision in plans.decisions.values())


def test_when_not_all_can_be_served_the_last_in_the_order_is_cut_and_the_others_are_served_in_full():
    services = [service(f"s{i}", ("h100",), 17, created_at=float(i), priority=i == 3) for i in range(4)]
    plans = decide_all(services, pools_of(h100=7, l40s=0))
    cut = [key.name for key, decision in plans.decisions.items() if isinstance(decision, Infeasible)]
    assert cut == ["s2"]
    assert {key.name: decision.plan.gpus for key, decision in plans.decisions.items()} == {
        "s0": 2,
        "s1": 2,
        "s2": 1,
        "s3": 2,
    }


def test_of_two_that_would_both_move_to_a_cheaper_pool_the_one_that_saves_more_does():
    """One cheap GPU is free: the younger gives back two dear ones for it, the older could give back one."""
    now = 1_000_000.0

    def running(name, placement, **more):
        memory = Memory((PlacedReplicas(placement, 1),), now - 900, None, traffic_seen=True, mix_wanted_since=now - 60)
        return service(name, running=(make_variant(placement, 1, name),), load=make_load(2.0), memory=memory, **more)

    old, young = running("old", place()), running("young", place(tp=2), created_at=1.0)
    plans = decide_all([old, young], pools_of(l40s=1))
    assert shape(plans.decisions[old.key]) == {("h100", 1, 1): 1}
    assert shape(plans.decisions[young.key]) == {("l40s", 1, 1): 1}
    assert plans.decisions[old.key].explanation.mix_wanted_since is not None


class TestWhoIsCut:
    def test_those_who_have_the_gpus_are_named_with_their_priority(self):
        low = service("low", ("h100",), 20)
        high = service("high", ("h100",), 26, priority=7)
        decision = decide_all([low, high], pools_of(h100=4, l40s=0)).decisions[low.key]
        assert decision.binding is Binding.PRIORITY
        assert "Of higher priority: ml/high (priority 7) has 3." in decision.explanation.message

    def test_the_objective_that_all_requests_could_have_is_told(self):
        """One replica within 200 ms carries less than is asked, but its queue would not grow."""
        points = (make_point(2, 100, 10), make_point(6, 180, 14), make_point(9, 400, 20))
        profile = make_profile([make_row(10, points=points)])
        one = make_service(rate=8.5, objective=Objective(95, 200, 40))
        decision = decide(snapshot([one], [make_pool(gpus=1)], [profile])).decisions[one.key]
        assert decision.binding is Binding.STOCK
        assert decision.nearest.ttft_ms == pytest.approx(364, abs=2)
        assert decision.nearest.itl_ms is None
        assert f"All of it could be served with a TTFT of {decision.nearest.ttft_ms} ms (p95)" in (
            decision.explanation.message
        )

    def test_beyond_what_the_replicas_can_do_no_objective_is_promised(self):
        one = service("one", ("h100",), 1000)
        decision = decide_all([one], pools_of(h100=1)).decisions[one.key]
        assert (decision.nearest.ttft_ms, decision.nearest.itl_ms) == (None, None)
        assert decision.nearest.gpus == 108  # pooled: 1/1.08 of the knee of 10 each
        assert decision.nearest.rate == pytest.approx(9)


class TestEnergy:
    """A kilowatt-hour has a price: of two pools that cost the same, the one that takes less power is used."""

    def choose(self, energy_price, watts=(700, 250), prices=(0.0, 0.0)):
        profiles = [
            make_profile([make_row(10, points=(self.point(1, watts[0]), self.point(9, watts[0])))]),
            make_profile([make_row(5, points=(self.point(1, watts[1]), self.point(4.5, watts[1])))], L40S, name="q"),
        ]
        pools = [make_pool(price=prices[0]), make_pool("l40s", L40S, price=prices[1], memory=48)]
        one = service("one", rate=9)
        world = replace(snapshot([one], pools, profiles), energy_price_per_kwh=energy_price)
        return decide(world).decisions[one.key]

    @staticmethod
    def point(rate, watts):
        return replace(make_point(rate, 40, 10), watts=watts)

    def test_energy_alone_where_gpus_cost_nothing(self):
        assert shape(self.choose(0.0)) == {("h100", 1, 1): 1}  # fewer GPUs, as nothing has a price
        assert shape(self.choose(0.3)) == {("l40s", 1, 1): 2}  # 500 W against 700 W
        assert shape(self.choose(0.3, watts=(400, 250))) == {("h100", 1, 1): 1}

    def test_energy_is_part_of_the_cost(self):
        assert self.choose(0.3, prices=(1.0, 9.0)).plan.cost_per_hour == pytest.approx(1 + 0.3 * 0.7)

    @pytest.mark.parametrize("price", [float("nan"), float("inf"), -1.0])
    def test_a_price_that_is_none_counts_as_nothing(self, price):
        assert self.choose(price).plan.cost_per_hour < 0.01


strange_rates = st.sampled_from([0.0, 1e-9, 0.5, 7.0, 90.0, 1e6, 1e12, float("nan"), float("inf"), -1.0])
strange_knees = st.sampled_from([10.0, 0.0, -1.0, 1e-9, 1e9, float("nan"), float("inf")])


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    rates=st.lists(strange_rates, min_size=1, max_size=40),
    gpus=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    knees=st.tuples(strange_knees, strange_knees, strange_knees),
)
def test_any_rates_profiles_and_stock_get_one_decision_each_within_the_stock(rates, gpus, knees):
    """No demand and a million requests per second, no GPU, and profiles of nonsense: few services and many."""
    profiles = [
        make_profile([make_row(knees[0]), make_row(knees[1], tp=2)]),
        make_profile([make_row(knees[2])], L40S, name="q"),
    ]
    services = [
        service(f"s{i}", rate=rate, priority=i % 3, created_at=float(i), limits=Limits(i % 2))
        for i, rate in enumerate(rates)
    ]
    pools = pools_of(*gpus)
    plans = decide(snapshot(services, pools, profiles))
    assert set(plans.decisions) == {s.key for s in services}
    for pool in pools:
        used = sum(v.gpus for d in plans.decisions.values() for v in d.plan.variants if v.placement.pool == pool.name)
        assert used <= pool.stock.usable
    assert all(decision.explanation.message for decision in plans.decisions.values())


@pytest.mark.parametrize("count", [40, 80])
def test_many_services_are_chosen_for_within_one_percent_of_the_bound(count):
    """More than branch and bound is asked for: prices of the shared rows. Half of the cheap GPUs that are wanted."""
    services = [service(f"s{i}", rate=1 + 7.3 * i % 29, created_at=float(i)) for i in range(count)]
    plans = decide_all(services, pools_of(h100=8 * count, l40s=count))
    assert all(isinstance(decision, Scale) for decision in plans.decisions.values())
    assert 0 <= plans.quality.gap <= 0.01
