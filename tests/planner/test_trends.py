"""Slow trends: what is one, what a falling rate gives back, and that it does not come again."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import MIX, NOW, place
from stabilise_world import memory_of
from test_stabilise_bounds import situation

from shoal.domain.service import Load, Tick
from shoal.planner.demand import TREND_SECONDS, WINDOW_SECONDS, lasting_trend, observed_demand
from shoal.planner.stabilise import choose_target

TICK = 5.0
TICKS = int(TREND_SECONDS / TICK)
WINDOW = int(WINDOW_SECONDS / TICK)


def load_of(counts):
    return Load(tuple(Tick(float(count)) for count in counts), TICK, 1.0, MIX)


def demand_of(counts):
    return observed_demand(load_of(counts), 90.0, 0)


def follow(counts, start, *, last_move=-math.inf):
    """Targets after every tick from the first full window on, everything fresh, newcomers ready at once."""
    count, targets, moved = start, [], last_move
    for end in range(TICKS, len(counts) + 1):
        now = NOW + end * TICK
        memory = memory_of(count, None if moved == -math.inf else moved)
        choice = choose_target(replace(situation(count, demand_of(counts[max(0, end - 360) : end]), memory), now=now))
        after = choice.counts[place()]
        moved = now if after != count else moved
        count = after
        targets.append(count)
    return targets


class TestWhatIsATrend:
    def test_a_slope_that_five_minutes_do_not_show(self):
        """A tide of two hours, 30 ± 20 req/s, on its way down."""
        fall = TICK * (34 - 0.0175 * TICK * np.arange(TICKS))
        demand = demand_of(fall)
        assert demand.slope == 0
        assert demand.trend == pytest.approx(-0.0175)
        assert demand.recent == pytest.approx(fall[-WINDOW:].mean() / TICK)

    @pytest.mark.parametrize("parts", [((60, 300), (10, 300)), ((10, 400), (14, 200)), ((30, 500), (60, 50), (30, 50))])
    def test_not_an_abrupt_change(self, parts):
        assert demand_of(np.concatenate([np.full(int(s / TICK), r * TICK) for r, s in parts])).trend == 0

    def test_not_what_has_not_been_seen_for_ten_minutes(self):
        assert demand_of(200 - np.arange(TICKS - 1.0)).trend == 0

    @settings(derandomize=True, deadline=None, max_examples=200)
    @given(rate=st.floats(0.2, 2000), wander=st.lists(st.floats(-1, 1), min_size=TICKS, max_size=TICKS))
    def test_no_wander_within_three_percent(self, rate, wander):
        assert lasting_trend(TICK * rate * (1 + 0.03 * np.array(wander)), 1.0, TICK) == 0

    @pytest.mark.parametrize("rate", [0.5, 5.0, 50.0])
    def test_seldom_noise(self, rate):
        rng = np.random.default_rng(8)
        series = rng.poisson(rate * TICK, 12_000).astype(float)
        found = [lasting_trend(series[end - TICKS : end], 1.0, TICK) for end in range(TICKS, len(series), 10)]
        assert sum(slope != 0 for slope in found) <= 0.002 * len(found)


class TestWhatAFallGivesBack:
    def test_sooner_than_a_rate_that_is_steady(self):
        """Three replicas carry 27.8, two 18.5 together: given back when the mean of five minutes is below that."""
        rates = 27 - 0.012 * TICK * np.arange(300)
        targets = follow(TICK * rates, 3)
        at = TICKS - 1 + targets.index(2)
        assert rates[at] < rates[at - WINDOW + 1 : at + 1].mean() <= 20 / 1.08
        assert rates[at - 1 - WINDOW + 1 : at].mean() > 20 / 1.08
        steady = follow(np.full(TICKS, TICK * 18.4), 3)
        assert set(steady) == {3}

    @settings(derandomize=True, deadline=None, max_examples=20)
    @given(top=st.floats(10, 300), steps=st.lists(st.floats(0, 0.05), min_size=8, max_size=14))
    def test_a_rate_that_never_rises_is_never_grown_for_after_it_has_been_given_back(self, top, steps):
        """The adversary chooses how far it falls in every two minutes, up to a twentieth of the top."""
        falls = np.cumsum(np.repeat(np.array(steps) / 24, 24))
        rates = top * (1 - np.concatenate([np.zeros(TICKS), falls, np.full(70, falls[-1])]))
        targets = follow(TICK * rates, math.ceil(top / 9))
        assert all(after <= before for before, after in pairwise(targets)), targets

    def test_the_end_of_a_steep_fall_is_not_overshot(self):
        """From 130 to 65 in two minutes: seven carry 64.8, and a line through the fall would be far below that."""
        rates = np.concatenate([np.full(300, 130.0), np.linspace(130, 65, 24), np.full(90, 65.0)])
        assert min(follow(TICK * rates, 15)) == 8

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("mean", [30.0, 120.0])
    def test_a_tide_goes_up_and_down_once(self, mean, seed):
        """Two hours with Poisson arrivals: every level is reached and left once, but for the turn of the tide."""
        rng = np.random.default_rng(seed)
        times = TICK * np.arange(int(7200 / TICK) + TICKS)
        rates = mean * (1 - 2 / 3 * np.cos(2 * math.pi * (times - TREND_SECONDS) / 7200))
        rates[:TICKS] = rates[TICKS]
        targets = follow(rng.poisson(TICK * rates).astype(float), math.ceil(rates[0] / 9))
        moves = sum(after != before for before, after in pairwise(targets))
        assert moves <= 2 * (max(targets) - min(targets)) + 2
