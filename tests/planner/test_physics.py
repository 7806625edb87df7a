"""More work, a tighter objective or less hardware never costs less."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import L40S, decide_one, make_pool, make_profile, make_row, make_service

from shoal.domain.plan import Infeasible, Scale
from shoal.domain.profile import ModelFacts, StepModel
from shoal.domain.service import Objective

SMALL = ModelFacts(0.5e9, 1e9, 12_288, 32768)
PROFILES = [
    make_profile([make_row(10), make_row(18, tp=2), make_row(6, k=2)], facts=SMALL),
    make_profile([make_row(5)], L40S, name="q", facts=SMALL),
]


class TestPhysics:
    """More work, a tighter objective or less hardware never costs less."""

    def plan(self, *, rate=30.0, itl=60.0, memory=80.0, gpus=64, ratio=1.0):
        steps = StepModel(8.0, 0.03 / ratio, 2e-5)
        two = StepModel(6.0, 0.02 / ratio, 1.3e-5)
        rows = [make_row(0, steps=steps, kv=800_000), make_row(0, tp=2, steps=two, kv=2_000_000)]
        service = make_service(rate=rate, objective=Objective(95, 2000, itl))
        return decide_one(service, [make_pool(gpus=gpus, memory=memory)], [make_profile(rows)])

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("rate", [0.0, 0.5, 5, 20, 60, 100, 150]),
            ("itl", [500, 100, 60, 40, 30, 25]),
            ("memory", [160, 80, 40, 24, 20]),
            ("ratio", [1.0, 0.9, 0.8, 0.7, 0.5]),
        ],
    )
    def test_monotone(self, name, values):
        found = [self.plan(**{name: value}) for value in values]
        assert all(isinstance(decision, Scale) for decision in found)
        costs = [decision.plan.cost_per_hour for decision in found]
        assert costs == sorted(costs)
        assert costs[-1] > costs[0]

    @given(rates=st.tuples(st.floats(0, 400), st.floats(0, 400)), cheap=st.integers(0, 6), dear=st.integers(0, 40))
    @settings(derandomize=True, max_examples=60, deadline=None)
    def test_a_higher_rate_never_costs_less_over_two_pools(self, rates, cheap, dear):
        some_pools = [make_pool(gpus=dear), make_pool("l40s", L40S, gpus=cheap, price=1.0, memory=48)]
        low, high = (
            decide_one(
                make_service(pools=("h100", "l40s"), facts=SMALL, objective=Objective(95, 1000), rate=rate),
                some_pools,
                PROFILES,
            )
            for rate in sorted(rates)
        )
        if isinstance(high, Scale):
            assert isinstance(low, Scale)
            assert low.plan.cost_per_hour <= high.plan.cost_per_hour + 1e-9

    @pytest.mark.parametrize("rate", [0.0, 1e6])
    def test_extreme_rates(self, rate):
        decision = self.plan(rate=rate)
        assert decision.plan.gpus == (1 if rate == 0 else 64)


def test_the_nearest_feasible_wish_is_feasible():
    asked = TestPhysics().plan(itl=5)
    assert isinstance(asked, Infeasible)
    nearest = asked.nearest.itl_ms
    assert nearest is not None
    assert nearest > 5
    assert isinstance(TestPhysics().plan(itl=nearest), Scale)
