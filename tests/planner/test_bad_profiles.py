"""Profiles with impossible, unsorted or contradictory points: a clear Decision, never an exception."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import MIX, decide_one, make_point, make_pool, make_profile, make_row, make_service

from shoal.domain.plan import Hold, Infeasible, Scale
from shoal.domain.profile import Quantiles, RatePoint, StepModel
from shoal.domain.reasons import ProfileState
from shoal.domain.service import Objective

BAD = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-300, 1e300)
numbers = st.sampled_from(BAD) | st.floats(0.01, 1e4)
quantiles = st.builds(Quantiles, numbers, *(st.none() | numbers for _ in range(4)))
points = st.lists(st.builds(RatePoint, st.sampled_from([1.0, 2.0, 5.0]) | numbers, quantiles, quantiles), max_size=6)
steps = st.none() | st.builds(StepModel, numbers, numbers, numbers, numbers, numbers, st.none() | numbers)
objectives = st.builds(Objective, st.sampled_from([50, 95, 99]), st.none() | numbers, numbers)
GOOD = (make_point(4, 40, 12), make_point(8, 60, 15), make_point(12, 100, 20))


def answer(row, objective=None, rate=20.0):
    service = make_service(rate=rate, objective=objective or Objective(95, 500, 40))
    return decide_one(service, [make_pool()], [make_profile([row])])


def is_clear(decision):
    """Every number of the plan is a number, and there is a sentence."""
    plan = decision.plan
    values = [plan.cost_per_hour, plan.predicted.utilization, plan.predicted.ttft_ms, plan.predicted.itl_ms]
    values += [variant.capacity.rate for variant in plan.variants]
    finite = all(value is None or (math.isfinite(value) and value >= 0) for value in values)
    return finite and isinstance(decision, Scale | Hold | Infeasible) and decision.explanation.message.endswith(".")


@settings(derandomize=True, deadline=None, max_examples=120)
@given(points=points, overload=st.none() | numbers, steps=steps, kv=numbers, objective=objectives, rate=numbers)
def test_whatever_a_row_says_there_is_a_clear_decision(points, overload, steps, kv, objective, rate):  # noqa: PLR0917
    row = replace(make_row(0, kv=kv, steps=steps), points=tuple(points), overload_rate=overload)
    assert is_clear(answer(row, objective, rate))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(order=st.permutations(GOOD))
def test_the_order_of_points_does_not_matter(order):
    assert answer(make_row(18.6, points=tuple(order))) == answer(make_row(18.6, points=GOOD))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(bad=st.sampled_from(BAD[:5]), place=st.integers(0, 3))
def test_an_impossible_point_is_left_out(bad, place):
    for broken in (
        RatePoint(bad, GOOD[0].ttft, GOOD[0].itl),
        replace(GOOD[0], rate=10.0, ttft=Quantiles(bad, p95=70)),
        replace(GOOD[0], rate=10.0, itl=Quantiles(10, p95=bad)),
    ):
        row = make_row(18.6, points=(*GOOD[:place], broken, *GOOD[place:]))
        assert answer(row).plan == answer(make_row(18.6, points=GOOD)).plan


@pytest.mark.parametrize(
    ("what", "contradiction"),
    [
        ("the same rate twice: the slower counts", make_point(8, 400, 39)),
        ("faster at a higher rate: a curve never falls", make_point(6, 400, 39)),
    ],
)
def test_contradictory_points_never_carry_more(what, contradiction):
    objective = Objective(95, 300, 30)
    clean, worse = (
        answer(make_row(18.6, points=points), objective).plan.variants[0].capacity.rate
        for points in (GOOD, (*GOOD, contradiction))
    )
    assert worse < clean, what


@pytest.mark.parametrize("knees", [(10, 20), (20, 10), (20, 10, 15)])
def test_of_rows_that_contradict_each_other_the_slowest_counts(knees):
    decision = decide_one(
        make_service(rate=20.0, objective=Objective(95, 500)),
        [make_pool()],
        [make_profile([make_row(k) for k in knees])],
    )
    assert decision.plan.variants[0].capacity.rate == pytest.approx(9.0)


def test_a_row_without_anything_usable_is_as_good_as_none():
    row = replace(make_row(0), points=(RatePoint(float("nan"), Quantiles(1), Quantiles(1)),), overload_rate=-3.0)
    decision = answer(row)
    assert decision.explanation.profile is ProfileState.ESTIMATED
    assert "Estimated, not measured" in decision.explanation.message


def test_lengths_that_are_no_lengths_leave_the_row_out():
    row = make_row(18.6, mix=replace(MIX, input_mean=float("nan")))
    assert answer(row).explanation.profile is ProfileState.ESTIMATED
