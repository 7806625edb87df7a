"""Heat: slowed replicas count for what they still carry."""

from __future__ import annotations

from dataclasses import replace

import pytest
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
)

from shoal.domain.profile import StepModel
from shoal.domain.service import Memory, Objective, PlacedReplicas

GPU_BOUND = StepModel(2.0, 0.08, 1e-6)
CPU_BOUND = StepModel(2.0, 0.001, 1e-7, 12.0, 12.0, api_tokens_per_second=2500)


def decide(steps, clocks, rate, count=None, **pool):
    count = count or len(clocks)
    profile = make_profile([make_row(0, steps=steps)], clock_mhz=2000.0)
    variant = make_variant(place(), count)
    pods = tuple(replace(pod, clock_mhz=clock) for pod, clock in zip(variant.replicas, clocks, strict=True))
    memory = Memory((PlacedReplicas(place(), count),), NOW - 999, traffic_seen=True)
    service = make_service(
        running=(replace(variant, replicas=pods),),
        load=make_load(rate),
        memory=memory,
        objective=Objective(95, 5000, 200),
    )
    return decide_one(service, [make_pool(gpus=64, **pool)], [profile])


def capacity(steps):
    return decide(steps, [2000.0], 1).plan.variants[0].replica_rate


def test_constant_load_on_slow_clocks_changes_the_plan_of_a_gpu_bound_engine():
    rate = 1.95 * capacity(GPU_BOUND)
    assert decide(GPU_BOUND, [2000.0, 2000.0], rate).plan.replicas == 2
    hot = decide(GPU_BOUND, [1400.0, 1400.0], rate)
    assert hot.plan.replicas == 3
    assert hot.explanation.derating == {"v-0": pytest.approx(0.73, abs=0.05), "v-1": pytest.approx(0.73, abs=0.05)}
    assert "Slowed by their clocks: 2 replicas" in hot.explanation.message


def test_and_not_that_of_a_cpu_bound_one():
    rate = 1.95 * capacity(CPU_BOUND)
    cool, hot = (decide(CPU_BOUND, [clock] * 2, rate) for clock in (2000.0, 1400.0))
    assert cool.plan.replicas == hot.plan.replicas == 2
    assert set(hot.explanation.derating.values()) == {1.0}


def test_heat_adds_replicas_only_when_they_are_needed():
    rate = 1.2 * capacity(GPU_BOUND)
    assert decide(GPU_BOUND, [1400.0, 1400.0], rate).plan.replicas == 2


def test_the_slow_one_is_given_up_first():
    hot = decide(GPU_BOUND, [1400.0, 2000.0, 2000.0], 0.9 * capacity(GPU_BOUND))
    assert hot.plan.replicas == 1
    assert hot.steps[0].doomed[0] == "v-0"


@pytest.mark.parametrize("clock", [None, float("nan"), 0.0, 2400.0])
def test_an_unknown_or_fast_clock_is_not_slow(clock):
    assert decide(GPU_BOUND, [clock], 1).plan.replicas == 1
    assert set(decide(GPU_BOUND, [clock], 1).explanation.derating.values()) <= {1.0}


def test_a_pool_may_refuse_derating():
    rate = 1.95 * capacity(GPU_BOUND)
    assert decide(GPU_BOUND, [1400.0, 1400.0], rate, derate=False).plan.replicas == 2


def test_when_every_gpu_is_slow_newcomers_are_expected_to_be_slow_too():
    """A pool that runs below the profile's clock everywhere gets one larger plan, not one replica more each time."""
    rate = 6 * capacity(GPU_BOUND)
    first = decide(GPU_BOUND, [1400.0] * 7, rate).plan.replicas
    assert decide(GPU_BOUND, [1400.0] * first, rate).plan.replicas == first


@pytest.mark.parametrize("ratio", [1.0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2])
def test_a_hotter_gpu_never_needs_fewer(ratio):
    rate = 4 * capacity(GPU_BOUND)
    assert (
        decide(GPU_BOUND, [2000 * ratio] * 4, rate).plan.replicas >= decide(GPU_BOUND, [2000.0] * 4, rate).plan.replicas
    )
