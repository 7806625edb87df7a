"""Several replicas with a measured knee carry a little more each than one alone, and never more than the knee bears."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import (
    NOW,
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
from planner_world import Fleet as World

from shoal.domain.profile import Source
from shoal.domain.service import Memory, Objective, PlacedReplicas
from shoal.planner.assess import assess, make_world
from shoal.planner.bounds import cost_frontier
from shoal.planner.credit import KNEE_ERROR, pooled_share
from shoal.planner.thermal import Fleet

KNEE = 10.0


def option_of(source=Source.MEASURED, knee=KNEE):
    service = make_service(objective=Objective(95, 500))
    world = make_world(snapshot([service], [make_pool(gpus=64)], [make_profile([make_row(knee)], source=source)]))
    return assess(service, world).fleets[place()].option


OPTION = option_of()
some_deratings = st.lists(st.floats(0.05, 1.0), max_size=12).map(lambda found: tuple(sorted(found, reverse=True)))


@pytest.mark.parametrize(
    ("margin", "share"), [(0.9, 1 / 1.08 / 0.9), (0.85, 1.0144), (0.8, 1.0), (0.72, 1.0), (0.5, 1.0)]
)
def test_it_ends_with_the_margin_that_is_for_errors_of_all_replicas(margin, share):
    assert pooled_share(margin) == pytest.approx(share, abs=1e-4)


def test_the_worked_example():
    """60 req/s on a knee of 32.9: two replicas, each at 30.0, which is below the knee even if that is 8 % too high."""
    fleet = Fleet(option_of(knee=32.88))
    assert fleet.option.rate == pytest.approx(29.6, abs=0.01)
    assert fleet.need(60) == 2
    assert (1 + KNEE_ERROR) * 60 / 2 < 32.88


def test_one_alone_keeps_the_whole_margin():
    fleet = Fleet(OPTION)
    assert (fleet.need(0.9 * KNEE), fleet.need(0.91 * KNEE)) == (1, 2)


@settings(derandomize=True, deadline=None)
@given(rate=st.floats(1e-3, 1e4), deratings=some_deratings)
def test_need_is_the_fewest_whose_rate_is_enough(rate, deratings):
    fleet = Fleet(OPTION, deratings)
    count = fleet.need(rate)
    assert fleet.rate(count) >= rate * (1 - 1e-6)
    assert fleet.rate(count - 1) < rate


@settings(derandomize=True, deadline=None)
@given(count=st.integers(1, 400))
def test_the_objective_is_met_even_if_the_knee_is_too_high_by_its_error(count):
    assert (1 + KNEE_ERROR) * Fleet(OPTION).rate(count) <= count * KNEE * (1 + 1e-9)


@pytest.mark.parametrize(("source", "replicas"), [(Source.MEASURED, 5), (Source.ESTIMATED, 10)])
def test_an_estimate_has_none(source, replicas):
    service = make_service(rate=46.0, objective=Objective(95, 500))
    decision = decide_one(service, [make_pool(gpus=64)], [make_profile([make_row(KNEE)], source=source)])
    assert decision.plan.replicas == replicas  # 46 of 10 * 0.926 each; of 10 * 0.5 each


def test_what_two_carry_together_is_not_enough_for_a_third():
    """Neither when it is sized for, nor when it is seen."""
    profile = make_profile([make_row(KNEE)])
    service = make_service(rate=18.4, objective=Objective(95, 500))
    assert decide_one(service, [make_pool(gpus=64)], [profile]).plan.replicas == 2
    memory = Memory((PlacedReplicas(place(), 2),), NOW - 600, traffic_seen=True)
    seen = replace(service, load=make_load(18.4), running=(make_variant(place(), 2),), memory=memory)
    assert decide_one(seen, [make_pool(gpus=64)], [profile]).plan.replicas == 2


def test_a_rollout_ends_at_a_rate_that_two_carry_only_together():
    """Two old replicas are replaced by two new ones, with room for one more at a time."""
    service = make_service(rate=18.4, objective=Objective(95, 500))
    fleet = World(snapshot([service], [make_pool(gpus=3)], [make_profile([make_row(KNEE)])]), startup=20.0)
    for number in range(60):
        if number == 20:
            old = fleet.service("chat")
            running = tuple(replace(variant, outdated=True) for variant in old.running)
            fleet.snapshot = replace(fleet.snapshot, services=(replace(old, running=running),))
        fleet.tick(loads={service.key: make_load(18.4)})
    (variant,) = (variant for variant in fleet.service("chat").running if variant.live)
    assert (variant.outdated, variant.ready) == (False, 2)


@settings(derandomize=True, deadline=None)
@given(rate=st.floats(0.1, 500), knees=st.lists(st.floats(1.0, 30.0), min_size=1, max_size=4))
def test_no_plan_costs_less_than_the_bound(rate, knees):
    pools = [make_pool(f"p{i}", gpus=500, price=1.0 + 0.7 * i) for i in range(len(knees))]
    service = make_service(pools=tuple(pool.name for pool in pools), objective=Objective(95, 500))
    world = make_world(snapshot([service], pools, [make_profile([make_row(knees[0])])]))
    found = assess(service, world)
    bound = cost_frontier(found.offer, frozenset()).cost(rate, 0)
    for fleet in found.fleets.values():
        assert bound <= fleet.option.cost * fleet.need(rate) * (1 + 1e-9)
