"""How often the target moves at most: bounds, against an adversary and under Poisson traffic."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import (
    MIX,
    NOW,
    Fleet,
    make_pool,
    make_service,
    place,
    snapshot,
)
from stabilise_world import OPEN, POOL, POOLED, PROFILE, C, memory_of

from shoal.domain.plan import Demand
from shoal.domain.service import Load, Objective, Tick
from shoal.planner.assess import assess, make_world
from shoal.planner.sizing import size
from shoal.planner.stabilise import Change, Situation, choose_target
from shoal.planner.thermal import Fleet as Rates


def situation(count, demand, memory=None):
    option = _option()
    return Situation(
        now=NOW,
        present={place(): count} if count else {},
        fleets={place(): Rates(option)},
        room=OPEN,
        demand=demand,
        least=1,
        memory=memory or memory_of(count),
        shrink_after=120.0,
        startup_seconds=90.0,
        fresh=True,
        starting=False,
        moving=False,
        may_move=True,
        held_gpus=count,
    )


@functools.cache
def _option():
    world = make_world(snapshot([make_service(objective=Objective(95, 500))], [POOL], [PROFILE]))
    return assess(world.snapshot.services[0], world).fleets[place()].option


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    rate=st.floats(0.5, 2000),
    eps=st.floats(0.03, 0.25),
    start=st.integers(1, 300),
    noise=st.lists(st.floats(-1, 1), min_size=5, max_size=40),
)
def test_no_growth_follows_a_shrink_within_the_uncertainty_and_moves_are_bounded(rate, eps, start, noise):
    """The adversary chooses every estimate within rate * (1 ± eps); the docstring's bound holds."""
    count, moves, shrunk = start, 0, False
    for push in noise:
        seen = rate * (1 + eps * push)
        # the law takes its uncertainty from the standard error: eps = 3*se/lam
        demand = Demand(seen, seen, standard_error=eps * seen / 3, slope=0.0, window_seconds=300, observed=True)
        choice = choose_target(situation(count, demand))
        after = choice.counts[place()]
        if after > count:
            assert not shrunk, (count, after)
        shrunk = shrunk or after < count
        moves += after != count
        count = after
    h = (1 - eps) / (1 + eps)
    assert moves <= 2 + math.ceil(2 * eps * rate / C) + math.ceil(2 * eps * rate / (h * C))


def demand_of(seen, eps):
    """The law takes its uncertainty from the standard error: eps = 3*se/lam."""
    return Demand(seen, seen, standard_error=eps * seen / 3, slope=0.0, window_seconds=300, observed=True)


@pytest.mark.parametrize("rate", [4.0, 9.0 * 7 * 0.99, 9.0 * 7 * 1.01, 100.0, 179.0, 260.0])
@pytest.mark.parametrize(("least", "most"), [(0.03, 0.03), (0.1, 0.1), (0.25, 0.25), (0.03, 0.08), (0.05, 0.25)])
def test_an_adversary_who_chooses_every_estimate_and_its_uncertainty_stays_within_the_bound(rate, least, most):
    """All moves that some estimate within rate*(1 ± least) allows, eps between least and most: the longest path."""
    pushes = np.linspace(-1, 1, 17)
    estimates = [demand_of(rate * (1 + least * push), eps) for push in pushes for eps in {least, most}]

    @functools.cache
    def reachable(count):
        found = {choose_target(situation(count, demand)).counts[place()] for demand in estimates}
        return found - {count}

    @functools.cache
    def longest(count, shrunk, depth=0):
        assert depth < 200, "a cycle: moves without end"
        assert not (shrunk and any(after > count for after in reachable(count))), "a growth after a shrink"
        return max((1 + longest(after, shrunk or after < count, depth + 1) for after in reachable(count)), default=0)

    h0, h1 = ((1 - eps) / (1 + eps) for eps in (least, most))
    bound = 2 + math.ceil(2 * least * rate / C) + math.ceil(((1 + least) / h1 - (1 - least) / h0) * rate / C)
    needed = math.ceil(rate / C)
    for start in {1, needed, needed + 1, 2 * needed + 3, 60}:
        assert longest(start, False) <= bound


@settings(derandomize=True, deadline=None)
@given(rate=st.floats(0, 1e6), count=st.integers(1, 50))
def test_growth_is_one_jump_to_what_carries_the_forecast(rate, count):
    demand = Demand(rate, rate, 0.0, 0.0, 300, observed=True)
    after = choose_target(situation(count, demand)).counts[place()]
    assert after * (POOLED if after > 1 else C) >= rate * (1 - 1e-6)
    assert after in (1, count) or (after - 1) * C < max(rate, (1 + 0.03) * count * POOLED)
    again = choose_target(situation(after, demand, memory_of(after, NOW)))
    assert again.change is Change.NONE


def poisson_fleet(rate_at, ticks, seed=0, startup=60.0):
    rng = np.random.default_rng(seed)
    service = make_service(rate=rate_at(0), objective=Objective(95, 500))
    fleet = Fleet(snapshot([service], [make_pool(gpus=64)], [PROFILE]), startup=startup)
    history: list[Tick] = []
    for i in range(ticks):
        history.append(Tick(float(rng.poisson(rate_at(i * 5.0) * 5))))
        fleet.tick(loads={service.key: Load(tuple(history[-360:]), 5.0, 1.0, MIX)})
        yield i * 5.0, fleet


@pytest.mark.parametrize("seed", range(6))
def test_stationary_traffic_moves_at_most_once_in_half_an_hour(seed):
    rate = np.random.default_rng(seed).uniform(5, 60)
    *_, (_, fleet) = poisson_fleet(lambda t: rate, 360, seed)
    assert sum(fleet.moves.values()) <= 1 + 1  # the first plan, and at most one correction


def test_a_sixfold_step_is_met_in_one_jump_and_given_back_in_few():
    plans = {
        t: fleet.decision("chat").plan.replicas
        for t, fleet in poisson_fleet(lambda t: 60 if 600 <= t < 1500 else 10, 440)
    }
    moves = [t for t in plans if t and plans[t] != plans[t - 5.0]]
    up = [t for t in moves if plans[t] > plans[t - 5.0]]
    assert len(up) <= 2
    assert 600 <= up[0] <= 610
    assert plans[700] * C >= 60
    assert plans[2195.0] <= 2
    assert len(moves) <= 5


def test_sizing_alone_is_what_a_fresh_service_gets():
    fleets = {place(): Rates(_option())}
    assert size(fleets, 40.0, 1, OPEN).counts == {place(): 5}
