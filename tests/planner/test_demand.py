"""Arrivals -> rate, error, trend, forecast; what is missing is never zero."""

from __future__ import annotations

import numpy as np
import pytest
from planner_world import MIX

from shoal.domain.plan import Demand
from shoal.domain.service import Load, Tick, Workload
from shoal.planner.demand import (
    declared_demand,
    dispersion,
    estimate_arrivals,
    is_fresh,
    is_surge,
    observed_demand,
    present_window,
    rate_now,
    uncertainty,
    window_start,
)

TICK = 5.0


def counts(*parts):
    """(rate, seconds) parts as counts per tick."""
    return np.concatenate([np.full(int(seconds / TICK), rate * TICK) for rate, seconds in parts])


def load(*parts, fresh=1.0, **more):
    return Load(tuple(Tick(float(c)) for c in counts(*parts)), TICK, fresh, **more)


@pytest.mark.parametrize(
    ("parts", "rate", "seconds"),
    [
        (((10, 1800),), 10, 300),  # at most five minutes count
        (((10, 60),), 10, 60),
        (((10, 600), (60, 5)), 10, 300),  # the tick of a step may hold both rates: the next one is waited for
        (((10, 600), (35, 5), (60, 5)), 60, 5),  # and then a whole tick of a sixfold step is enough
        (((10, 600), (30, 5), (200, 5)), 200, 5),  # a rate that changes in every tick is followed at once
        (((10, 600), (60, 100)), 60, 95),
        (((60, 600), (10, 40)), 10, 35),
        (((10, 100), (60, 100), (10, 60)), 10, 55),  # both ends of a burst are found
        (((10, 200), (11, 100)), 10 + 1 / 3, 300),  # too little to be believed
        (((0, 600),), 0, 300),
        (((0, 600), (4, 10)), 4, 5),
    ],
)
def test_the_window_begins_after_the_last_believed_change(parts, rate, seconds):
    found = estimate_arrivals(counts(*parts), TICK)
    assert found.rate == pytest.approx(rate)
    assert found.seconds == seconds


def test_standard_error_is_that_of_a_poisson_count():
    assert estimate_arrivals(counts((10, 300)), TICK).standard_error == pytest.approx((10 / 300) ** 0.5)


@pytest.mark.parametrize(("phi", "low", "high"), [(1.0, 1.0, 2.0), (6.0, 3.0, 12.0)])
def test_dispersion_of_bursty_arrivals(phi, low, high):
    rng = np.random.default_rng(7)
    draws = rng.poisson(50, 360) if phi == 1 else rng.negative_binomial(50 / (phi - 1), 1 / phi, 360)
    assert low <= dispersion(draws.astype(float), TICK) <= high


def test_a_steady_ramp_is_not_dispersion():
    assert dispersion(np.linspace(10, 400, 360), TICK) == 1.0


def test_dispersion_is_bounded_and_1_when_little_is_known():
    assert dispersion(np.array([0.0, 1000.0] * 180), 30.0) == 50.0
    assert dispersion(counts((10, 60)), TICK) == 1.0
    assert dispersion(counts((0, 1800)), TICK) == 1.0


def test_a_believed_slope_looks_ahead_to_the_start_of_a_new_replica():
    ramp = Load(tuple(Tick(50.0 + 0.4 * i) for i in range(60)), TICK, 1.0)
    demand = observed_demand(ramp, 90.0, 0)
    assert demand.slope == pytest.approx(0.016)  # 0.4 requests more per tick are 0.08 per second each 5 s
    end = demand.rate + demand.slope * demand.window_seconds / 2
    assert rate_now(demand) == pytest.approx(end)
    assert demand.forecast == pytest.approx(end + 90 * demand.slope)


@pytest.mark.parametrize("rate", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("ticks", [12, 24, 60])
def test_the_worst_wander_of_three_percent_is_no_slope(rate, ticks):
    half = ticks // 2
    worst = tuple(Tick(5 * rate * (0.97 if i < half else 1.03)) for i in range(ticks))
    demand = observed_demand(Load(worst, TICK, 1.0), 90.0, 0)
    assert demand.slope == 0
    assert demand.forecast == demand.rate


def test_the_first_tick_ever_waits_for_the_second():
    assert observed_demand(Load((Tick(300.0),), TICK, 1.0), 90.0, 0).changing
    assert not observed_demand(Load((Tick(300.0), Tick(300.0)), TICK, 1.0), 90.0, 0).changing


def test_a_falling_rate_is_not_forecast_to_fall_further():
    fall = Load(tuple(Tick(100.0 - 0.6 * i) for i in range(60)), TICK, 1.0)
    demand = observed_demand(fall, 90.0, 0)
    assert demand.slope < 0
    assert demand.forecast == pytest.approx(rate_now(demand))
    assert demand.forecast < demand.rate


@pytest.mark.parametrize(
    ("rate", "seconds", "eps"),
    [(10, 300, 3 * (10 / 300) ** 0.5 / 10), (1000, 300, 0.03), (0.1, 300, 0.25), (0, 300, 0.25)],
)
def test_uncertainty_is_three_standard_errors_within_bounds(rate, seconds, eps):
    assert uncertainty(observed_demand(load((rate, seconds)), 90.0, 0)) == pytest.approx(eps)


def test_declared_demand_has_no_error():
    demand = declared_demand(Workload(7.0, MIX))
    assert (demand.rate, demand.forecast, uncertainty(demand), demand.observed) == (7.0, 7.0, 0.0, False)
    assert declared_demand(Workload(float("nan"), MIX)).rate == 0.0


class TestMissing:
    def test_no_ticks_are_no_demand_rather_than_none_of_it(self):
        assert observed_demand(Load(), 90.0, 0) is None
        assert observed_demand(Load((Tick(0.0, complete=False),) * 3), 90.0, 0).rate == 0.0

    def test_incomplete_ticks_do_not_lower_the_rate(self):
        ticks = (Tick(50.0),) * 50 + (Tick(3.0, complete=False),) * 10
        assert observed_demand(Load(ticks, TICK), 90.0, 0).rate == 10.0

    def test_incomplete_ticks_raise_it_by_what_arrived_at_least(self):
        ticks = (Tick(50.0),) * 50 + (Tick(200.0, complete=False),) * 6
        assert observed_demand(Load(ticks, TICK), 90.0, 0).rate == 40.0

    @pytest.mark.parametrize("count", [float("nan"), float("inf"), -5.0])
    def test_impossible_counts_are_incomplete(self, count):
        ticks = (Tick(50.0),) * 50 + (Tick(count),) * 10
        assert observed_demand(Load(ticks, TICK), 90.0, 0).rate == 10.0

    @pytest.mark.parametrize(
        ("fraction", "incomplete", "fresh"),
        [(1.0, 0, True), (0.9, 0, True), (0.89, 0, False), (float("nan"), 0, False), (1.0, 6, True), (1.0, 7, False)],
    )
    def test_fresh_is_nine_tenths_of_engines_and_ticks(self, fraction, incomplete, fresh):
        ticks = (Tick(50.0),) * (60 - incomplete) + (Tick(0.0, complete=False),) * incomplete
        assert is_fresh(Load(ticks, TICK, fraction)) is fresh

    def test_a_tick_length_that_is_no_number_does_not_break(self):
        assert observed_demand(Load((Tick(50.0),), float("nan")), 90.0, 0).rate == 10.0


@pytest.mark.parametrize("tick", [TICK, TICK / 2])
def test_false_changes_are_rare_under_stationary_noise(tick):
    """An hour of plans in which nothing changes: the window is cut in few of them, over many services."""
    rng = np.random.default_rng(3)
    cut, window = 0, int(300 / tick)
    for rate in (2, 10, 50):
        series = rng.poisson(rate * tick, 4000).astype(float)
        for end in range(window, 4000, 10):
            cut += window_start(series[end - window : end], 1.0, tick) > 0
    assert cut <= 2


class TestHalfTicks:
    """Arrivals counted twice in a planning interval: a new rate settles in two of these ticks."""

    @pytest.mark.parametrize(
        ("last", "rate", "ticks", "changing"),
        [
            ((), 10, 120, False),
            ((40,), 10, 120, True),  # may hold both rates
            ((40, 60), 10, 120, True),  # the first whole one: too little to size by
            ((40, 60, 60), 60, 2, False),
            ((12, 60, 60), 10, 120, True),  # a first tick that does not stand out: the next one may hold both
            ((12, 60, 60, 60), 60, 2, False),
            ((30, 90, 270), 270, 1, False),  # a rate that rises in every tick is followed
            ((40, 60, 60, 60, 60), 60, 4, False),
        ],
    )
    def test_the_present_window(self, last, rate, ticks, changing):
        series = np.array([10.0] * 240 + list(last)) * TICK / 2
        window, found = present_window(series, 1.0, TICK / 2, settled=2)
        assert float(window.mean()) / (TICK / 2) == pytest.approx(rate, rel=0.02)
        assert (len(window), found) == (ticks, changing)

    def test_a_load_says_how_many_ticks_settle(self):
        ticks = tuple(Tick(rate * TICK / 2) for rate in [10] * 120 + [40, 60])
        assert observed_demand(Load(ticks, TICK / 2, ticks_to_settle=2), 90.0, 0).changing
        assert observed_demand(Load(ticks, TICK / 2, ticks_to_settle=1), 90.0, 0).rate == 60

    @pytest.mark.parametrize("settled", [-3, 0, 10**9])
    def test_what_settles_is_bounded(self, settled):
        ticks = tuple(Tick(rate * TICK) for rate in [10] * 120 + [40, 60, 60])
        assert observed_demand(Load(ticks, TICK, ticks_to_settle=settled), 90.0, 0).rate == 60


class TestSurge:
    @pytest.mark.parametrize(
        ("rate", "error", "count", "surge"),
        [
            (10, 0.18, 25, False),
            (10, 0.18, 35, False),  # two standard deviations
            (10, 0.18, 50, True),
            (10, 0.58, 50, False),  # of traffic with ten times the variance
            (10, 0.18, 0, False),
            (0, 0, 1, False),
            (0, 0, 3, True),
            (10, 0.18, float("nan"), False),
            (10, 0.18, float("inf"), False),
        ],
    )
    def test_is_surge(self, rate, error, count, surge):
        demand = Demand(rate, rate, error, 0.0, 300.0, observed=True)
        assert is_surge(Tick(count), TICK / 2, demand) is surge

    def test_noise_is_seldom_one(self):
        rng = np.random.default_rng(4)
        demand = Demand(2.0, 2.0, (2 / 300) ** 0.5, 0.0, 300.0, observed=True)
        surges = sum(is_surge(Tick(float(c)), TICK / 2, demand) for c in rng.poisson(2 * TICK / 2, 20_000))
        assert surges <= 10  # of 200 services, less than one in a minute
