"""The plans among which a target is chosen, against a search through all numbers of replicas."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import L40S, make_pool, make_profile, make_row, make_service, place, snapshot

from shoal.domain.service import Objective
from shoal.planner.assess import assess, make_world
from shoal.planner.candidates import MOST_PLANS, NARROW, Wish, find_plans, move_cost
from shoal.planner.ledger import Ledger
from shoal.planner.sizing import size, total_cost, total_rate


def wish_of(rate, *, h100=4, l40s=4, least=1, start=None, knees=(10, 17, 4)):
    """A service that may use TP1 and TP2 in one pool and TP1 in a cheaper one."""
    one, two, cheap = knees
    pools = [make_pool(gpus=h100), make_pool("l40s", L40S, gpus=l40s, price=1.25, memory=48)]
    profiles = [make_profile([make_row(one), make_row(two, tp=2)]), make_profile([make_row(cheap)], L40S, name="q")]
    service = make_service(pools=("h100", "l40s"), objective=Objective(95, 2000))
    world = make_world(snapshot([service], pools, profiles))
    room = Ledger(pools).room(service.key, world.pools, limit=None, beside_own=False)
    return Wish(assess(service, world).fleets, rate, least, room, start or {})


def every_plan(wish, most=5):
    """All numbers of replicas that fit and are enough."""
    placements = sorted(wish.fleets)
    for numbers in itertools.product(range(most), repeat=len(placements)):
        taken = {}
        for placement, number in zip(placements, numbers, strict=True):
            if number > wish.room.most(placement, taken):
                break
            taken[placement] = number
        else:
            plan = {p: n for p, n in taken.items() if n}
            if wish.sized(plan).enough:
                yield plan


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    rate=st.floats(0.1, 45),
    h100=st.integers(0, 4),
    l40s=st.integers(0, 4),
    least=st.integers(0, 3),
    knees=st.tuples(st.floats(3, 12), st.floats(6, 20), st.floats(1, 6)),
)
def test_the_cheapest_of_all_plans_is_among_them(rate, h100, l40s, least, knees):
    wish = wish_of(rate, h100=h100, l40s=l40s, least=least, knees=knees)
    costs = [total_cost(plan, wish.fleets) for plan in every_plan(wish)]
    found = find_plans(wish)
    assert bool(costs) == bool(found)
    if costs:
        assert min(total_cost(plan, wish.fleets) for plan in found) == pytest.approx(min(costs))
        assert all(wish.sized(plan).enough for plan in found)


def test_options_complete_each_other_where_whole_replicas_would_be_too_many():
    """For 12.5 requests/s one of each (9 + 3.6 for 4.25/h) costs less than two dear ones or four cheap ones."""
    wish = wish_of(12.5)
    plan = min(find_plans(wish), key=lambda p: total_cost(p, wish.fleets))
    assert plan == {place(): 1, place("l40s", L40S): 1}


def test_what_is_kept_is_part_of_every_plan():
    start = {place(): 2}
    plans = find_plans(wish_of(30, start=start))
    assert plans
    assert all(plan[place()] >= 2 for plan in plans)


@pytest.mark.parametrize("rate", [0.0, 1.0, 300.0, 1e6])
def test_never_more_than_a_hundred_and_never_dearer_than_one_option_after_the_other(rate):
    wish = wish_of(rate, h100=500, l40s=500)
    plans = find_plans(wish)
    assert len(plans) <= MOST_PLANS
    assert len(find_plans(wish, NARROW)) <= NARROW.plans
    usual = size(wish.fleets, rate, 1, wish.room)
    assert bool(plans) == usual.enough
    if plans:
        assert min(total_cost(plan, wish.fleets) for plan in plans) <= usual.cost + 1e-9
        assert all(total_rate(plan, wish.fleets) >= rate * (1 - 1e-6) for plan in plans)


def test_a_move_costs_what_the_new_replicas_hold_while_the_old_ones_run():
    """Two dear replicas to four cheap ones: 4 x 1.25/h for a start-up of 120 s and a drain of 60 s."""
    wish = wish_of(10)
    after = {place("l40s", L40S): 4}
    assert move_cost({place(): 2}, after, wish.fleets, 120.0) == pytest.approx(4 * 1.25 * 180 / 3600)
    assert move_cost(after, after, wish.fleets, 120.0) == 0.0
