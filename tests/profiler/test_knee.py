"""The search for the knee: on made-up servers, and on simulated engines in virtual time beside an exhaustive sweep."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiler_world import made_point

from bench.profiler.__main__ import CASES, settings_for, tolerance, truth_of
from bench.profiler.sweep import sweep
from bench.profiler.virtual_clients import measure_virtually
from shoal.profiler.agenda import MOST_SEARCH
from shoal.profiler.fit import fit_steps
from shoal.profiler.knee import find_bracket, next_rate, overload_of
from shoal.profiler.points import Point
from shoal.profiler.specs import Objective

ASKED = Objective(ttft_ms=500.0)


def overloaded(rate: float, top: float) -> Point:
    return made_point("overload", rate=rate, growth=0.3, finished_rate=top)


def served(rate: float, knee: float, seed: int = 1) -> Point:
    """A server whose late requests grow with a power of the rate, 5 % of them at its knee."""
    planned = 1_000_000  # so that counts say it exactly
    late = min(round(planned * 0.05 * (rate / knee) ** 8), planned)
    stopped = late > 0.05 * planned * 2
    return made_point("search", rate=rate, seed=seed, planned=planned, late_first=late, stopped=stopped)


@settings(max_examples=60, deadline=None)
@given(knee=st.floats(0.05, 0.99), top=st.floats(2.0, 200.0))
def test_the_search_ends_and_brackets_the_knee(knee: float, top: float) -> None:
    points = [overloaded(1.3 * top, top)]
    while (rate := next_rate(points, ASKED, 0.08)) is not None:
        points.append(served(float(f"{rate:.6g}"), knee * top))
        assert len(points) <= MOST_SEARCH
    bracket = find_bracket(points, ASKED)
    assert bracket is not None
    assert bracket.low is not None
    assert bracket.width <= 0.08
    assert bracket.low * 0.999 <= knee * top <= bracket.high * 1.001


def test_an_objective_out_of_reach_ends_the_search() -> None:
    points = [overloaded(13.0, 10.0)]
    while (rate := next_rate(points, ASKED, 0.08)) is not None:
        points.append(made_point("search", rate=float(f"{rate:.6g}"), stopped=True, late_first=10**6))
        assert len(points) < 15
    bracket = find_bracket(points, ASKED)
    assert bracket is not None
    assert bracket.low is None
    assert bracket.knee is None


def test_seeds_vote_and_a_tie_is_not_served() -> None:
    points = [overloaded(13.0, 10.0), served(8.0, 9.0), served(9.5, 9.0)]
    assert math.isclose(find_bracket(points, ASKED).low or 0, 8.0)  # type: ignore[union-attr]
    against = made_point("repeat", rate=8.0, seed=2, late_first=400)
    assert find_bracket([*points, against], ASKED).low is None  # type: ignore[union-attr]
    assert find_bracket([*points, against, served(8.0, 9.0, seed=3)], ASKED).low == 8.0  # type: ignore[union-attr]


def test_clients_that_were_too_slow_count_only_after_two_tries() -> None:
    slow = made_point("overload", rate=13.0, growth=0.3, finished_rate=10.0, invalid="requests were sent 9 ms late")
    assert overload_of([slow]) is None
    assert overload_of([slow, slow]) is not None


def test_answers_that_fail_are_not_served() -> None:
    points = [overloaded(13.0, 10.0), made_point("search", rate=6.0, failed=100, invalid="100 requests failed")]
    bracket = find_bracket(points, ASKED)
    assert bracket is not None
    assert bracket.high == 6.0


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES if case.name in ("7b-l40s-throughput", "14b-h100-kv")])
def test_knee_and_step_times_of_a_simulated_engine(case: object) -> None:
    """The same trace, rates and horizon as the sweep: only the search may differ."""
    assert isinstance(case, type(CASES[0]))
    truth, asked = truth_of(case), settings_for(case)
    points = measure_virtually(truth.steps, truth.limits, asked)
    exact = sweep(truth.steps, truth.limits, asked, seeds=(asked.seed,))
    bracket = find_bracket(points, asked.objective)
    assert bracket is not None
    assert bracket.knee == pytest.approx(exact.knee, rel=tolerance(exact.knee, asked))
    over = overload_of(points)
    assert over is not None
    assert over.throughput == pytest.approx(exact.saturation, rel=0.06)
    fit = fit_steps(points, chunk=truth.limits.max_num_batched_tokens, engines=1)
    assert fit is not None
    for name, fitted, true in (
        ("alpha", fit.steps.alpha_ms, truth.steps.alpha_ms),
        ("beta", fit.steps.beta_ms_per_token, truth.steps.beta_ms_per_token),
        ("gamma", fit.steps.gamma_ms_per_kv_token, truth.steps.gamma_ms_per_kv_token),
    ):
        error = fit.errors[name]
        assert error is not None
        assert abs(fitted - true) <= 2.5 * error, (name, fitted, true, error)
    assert fit.errors["alpha"] < 0.1 * truth.steps.alpha_ms  # type: ignore[operator]
    assert fit.errors["beta"] < 0.15 * truth.steps.beta_ms_per_token  # type: ignore[operator]
