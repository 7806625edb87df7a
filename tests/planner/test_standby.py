"""Standby: the formula against a fluid simulation, and what decide() makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planner_world import (
    MIX,
    NOW,
    decide_one,
    make_load,
    make_pool,
    make_profile,
    make_row,
    make_service,
    make_variant,
    place,
)

from shoal.domain.plan import Demand, Scale
from shoal.domain.service import Memory, Objective, PlacedReplicas, Standby, Workload
from shoal.planner.demand import uncertainty
from shoal.planner.standby import REACTION_SECONDS, compute_headroom, with_headroom

STARTUP = 90.0
STEP = 0.01  # seconds of the simulation


def simulated_miss(replicas: int, knee: float, rate: float, seconds: float, ttft: float) -> float:
    """Share of the requests that wait longer than `ttft`: replicas of `knee` req/s, `rate` from an empty queue on."""
    queue, late, ticks = 0.0, 0, round(seconds / STEP)
    for _ in range(ticks):
        late += queue / knee > ttft + 1e-9
        queue = max(0.0, queue + (rate / replicas - knee) * STEP)
    return late / ticks


def replicas_for(standby, rate, knee, ttft, margin, startup=STARTUP):  # noqa: PLR0917
    headroom = compute_headroom(standby, [margin], 1000 * ttft, startup)
    return math.ceil(headroom * rate / (margin * knee) * (1 - 1e-9))


def test_the_worked_example():
    standby = Standby(3, 0.05)
    assert compute_headroom(standby, [0.9], 500, 90) == pytest.approx(2.686, abs=1e-3)
    assert replicas_for(standby, 10, 10, 0.5, 0.9) == 3
    assert simulated_miss(2, 10, 30, 100, 0.5) == pytest.approx(0.99, abs=0.01)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    factor=st.floats(1.05, 10),
    miss=st.floats(0.0, 0.95),
    rate=st.floats(1, 200),
    knee=st.floats(2, 30),
    ttft=st.floats(0.1, 60),
    startup=st.floats(5, 120),
)
def test_the_formula_holds_in_the_fluid_and_one_replica_less_does_not(factor, miss, rate, knee, ttft, startup):  # noqa: PLR0917
    count = replicas_for(Standby(factor, miss), rate, knee, ttft, 0.9, startup)
    seconds = startup + REACTION_SECONDS
    slack = 2 * STEP / seconds + 1e-6
    assert simulated_miss(count, knee, factor * rate, seconds, ttft) <= miss + slack
    assume(count - 1 >= math.ceil(rate / (0.9 * knee)))  # fewer would not even carry the present rate
    assert simulated_miss(count - 1, knee, factor * rate, seconds, ttft) > miss - slack


@pytest.mark.parametrize(
    ("standby", "headroom"),
    [
        (None, 1.0),
        (Standby(1.0, 0.05), 1.0),
        (Standby(1.05, 0.05), 1.0),  # the margin of 0.9 holds it
        (Standby(3.0, 1.0), 1.0),
        (Standby(float("nan"), 0.05), 1.0),
        (Standby(3.0, 0.0), 3 * 0.9 / (1 + 0.5 / 100)),
        (Standby(1e9, 0.0), 20.0),
    ],
)
def test_headroom(standby, headroom):
    assert compute_headroom(standby, [0.8, 0.9], 500, 90) == pytest.approx(headroom)


def test_without_a_ttft_objective_nothing_above_the_knee_is_good():
    assert compute_headroom(Standby(2.0, 0.5), [0.9], None, 90) == pytest.approx(1.8)


def test_the_relative_uncertainty_stays():
    demand = Demand(10, 12, 0.5, 0.01, 300, observed=True)
    assert uncertainty(with_headroom(demand, 3)) == pytest.approx(uncertainty(demand))


C = 9.0
PROFILE = make_profile([make_row(C / 0.9)])


def service(count=2, rate=16.0, standby=None, **more):
    memory = Memory((PlacedReplicas(place(), count),), last_move_at=NOW - 600, traffic_seen=True)
    fields = {"running": (make_variant(place(), count),), "load": make_load(rate), "memory": memory}
    return make_service(**{**fields, "objective": Objective(95, 500), "standby": standby, **more})


def test_decide_holds_the_standby_and_says_so():
    decision = decide_one(service(standby=Standby(3, 0.05)), [make_pool(gpus=16)], [PROFILE])
    assert decision.plan.replicas == 5  # 2.686 * 16 / 9
    assert "2.69 times that as standby" in decision.explanation.message
    assert decide_one(service(), [make_pool(gpus=16)], [PROFILE]).plan.replicas == 2


def test_it_is_not_given_back_and_declared_services_start_with_it():
    pools = [make_pool(gpus=16)]
    assert decide_one(service(5, standby=Standby(3, 0.05)), pools, [PROFILE]).plan.replicas == 5
    assert decide_one(service(5), pools, [PROFILE]).plan.replicas == 2
    fresh = make_service(objective=Objective(95, 500), workload=Workload(16, MIX), standby=Standby(3, 0.05))
    assert decide_one(fresh, pools, [PROFILE]).plan.replicas == 5


def test_too_few_gpus_for_the_standby_is_not_too_few_for_the_service():
    decision = decide_one(service(standby=Standby(3, 0.05)), [make_pool(gpus=3)], [PROFILE])
    assert isinstance(decision, Scale)
    assert decision.plan.replicas == 3
    short = decide_one(replace(service(rate=40), standby=Standby(3, 0.05)), [make_pool(gpus=3)], [PROFILE])
    assert not isinstance(short, Scale)
