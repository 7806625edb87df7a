"""What growth adds, against a search through all additions; and its moves while an adversary moves the estimate."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import L40S, NOW, make_pool, make_profile, make_row, make_service, place, snapshot

from shoal.domain.plan import Demand
from shoal.domain.profile import Source
from shoal.domain.service import Memory, Objective, PlacedReplicas
from shoal.planner.assess import assess, make_world
from shoal.planner.candidates import Wish
from shoal.planner.growth import added_cost, cheapest_growth
from shoal.planner.ledger import Ledger
from shoal.planner.sizing import grow
from shoal.planner.stabilise import Situation, choose_target

A10 = "NVIDIA-A10"
BIG, PAIR, MIDDLE, SMALL = place(), place(tp=2), place("l40s", L40S), place("a10", A10)


def wish_of(start, rate, *, gpus=(8, 8, 8), least=0, middle=3.1, guessed=()):
    """TP1 and TP2 on a dear type, TP1 on two cheaper ones; capacities are 0.9 of the knees: 18, 36.9, 9 and 1.98."""
    pools = [
        make_pool(gpus=gpus[0], price=6.0),
        make_pool("l40s", L40S, gpus=gpus[1], price=middle, memory=48),
        make_pool("a10", A10, gpus=gpus[2], price=0.8, memory=48),
    ]
    rows = ([make_row(20), make_row(41, tp=2)], [make_row(10)], [make_row(2.2)])
    profiles = [
        make_profile(own, gpu, name=gpu, source=Source.ESTIMATED if gpu in guessed else Source.MEASURED)
        for own, gpu in zip(rows, (pools[0].accelerator, L40S, A10), strict=True)
    ]
    service = make_service(pools=tuple(p.name for p in pools), objective=Objective(95, 2000))
    world = make_world(snapshot([service], pools, profiles))
    assessment = assess(service, world)
    room = Ledger(pools).room(service.key, world.pools, limit=None, beside_own=False)
    return Wish(assessment.fleets, rate, least, room, start), assessment.offer


def every_addition(wish, rate, most=6):
    """All numbers of added replicas that fit and carry a rate."""
    placements = sorted(wish.fleets)
    for numbers in itertools.product(range(most), repeat=len(placements)):
        counts = dict(wish.start)
        for placement, number in zip(placements, numbers, strict=True):
            if number > wish.room.most(placement, counts):
                break
            counts[placement] = counts.get(placement, 0) + number
        else:
            carried = sum(wish.fleets[p].rate(n) for p, n in counts.items())
            if carried >= rate * (1 - 1e-9) and sum(counts.values()) >= wish.least:
                yield {p: n for p, n in counts.items() if n}


@settings(derandomize=True, max_examples=80, deadline=None)
@given(
    start=st.dictionaries(st.sampled_from([BIG, PAIR, MIDDLE, SMALL]), st.integers(1, 2), min_size=1, max_size=2),
    more=st.floats(0.1, 40),
    gpus=st.tuples(st.integers(4, 9), st.integers(2, 6), st.integers(2, 6)),
    finer=st.floats(1.0, 1.25),
)
def test_no_addition_within_the_room_is_much_cheaper(start, more, gpus, finer):
    """The search thins numbers out and tries two placements: within a fifth of the cheapest addition there is."""
    wish, offer = wish_of(start, 0.0, gpus=gpus)
    rate = sum(wish.fleets[p].rate(n) for p, n in start.items()) + more
    wish, offer = wish_of(start, rate, gpus=gpus)
    found = cheapest_growth(wish, rate * finer, offer)
    additions = [added_cost(wish, plan) for plan in every_addition(wish, rate * finer)]
    own = grow(wish.fleets, wish.start, rate, wish.least, wish.room)
    assert found.enough >= bool(additions)
    assert all(found.counts.get(placement, 0) >= number for placement, number in start.items())
    if own.enough:
        assert added_cost(wish, found.counts) <= added_cost(wish, own.counts) + 1e-9
    if additions:
        assert added_cost(wish, found.counts) <= 1.2 * min(additions) + 1e-9


@pytest.mark.parametrize(
    ("start", "more", "added"),
    [
        ({BIG: 3}, 1.5, {SMALL: 1}),  # a whole big one would cost 6, the small one 0.8
        ({BIG: 3}, 17.0, {BIG: 1}),
        ({BIG: 3, SMALL: 1}, 1.5, {SMALL: 1}),  # both are its own: the cheaper addition, not the cheaper rate
        ({BIG: 1}, 19.5, {BIG: 1, SMALL: 1}),
        ({SMALL: 1}, 16.0, {BIG: 1}),
        ({MIDDLE: 1}, 8.9, {MIDDLE: 1}),
    ],
)
def test_the_cheapest_addition(start, more, added):
    bare, _ = wish_of(start, 0.0)
    wish, offer = wish_of(start, sum(bare.fleets[p].rate(n) for p, n in start.items()) + more)
    found = cheapest_growth(wish, wish.rate, offer).counts
    assert {p: n - start.get(p, 0) for p, n in found.items() if n > start.get(p, 0)} == added


@pytest.mark.parametrize(("middle", "added"), [(2.95, {BIG: 2}), (2.8, {BIG: 1, MIDDLE: 2})])
def test_one_more_variant_must_be_worth_its_while(middle, added):
    """One big one for 6.0 more, or two of another type for a little less."""
    wish, offer = wish_of({BIG: 1}, 35.9, middle=middle, gpus=(8, 8, 0))
    assert cheapest_growth(wish, wish.rate, offer).counts == added


def test_estimates_are_added_only_where_nothing_measured_is_enough():
    wish, offer = wish_of({BIG: 1}, 19.0, guessed=(A10,))
    assert SMALL not in cheapest_growth(wish, 19.0, offer).counts
    full, offer = wish_of({BIG: 1}, 19.0, gpus=(1, 0, 8), guessed=(A10,))
    assert cheapest_growth(full, 19.0, offer).counts[SMALL] >= 1


@pytest.mark.parametrize("rate", [17.0, 18.5, 54.5, 72.0, 130.0])
@pytest.mark.parametrize(("noise", "eps"), [(0.03, 0.03), (0.03, 0.1), (0.1, 0.1), (0.25, 0.25)])
def test_an_adversary_who_moves_the_estimate_gets_few_growths_and_none_after_a_shrink(rate, noise, eps):
    """All moves that some estimate within rate*(1 ± noise) allows, from several mixes.

    Four growths by others, and what the service's own replicas (9 requests/s at least) may add one by one.
    """
    bare, offer = wish_of({}, 0.0, gpus=(64, 64, 64))

    def move(counts, seen):
        demand = Demand(seen, seen, standard_error=eps * seen / 3, slope=0.0, window_seconds=300, observed=True)
        return choose_target(
            Situation(
                now=NOW,
                present=dict(counts),
                fleets=bare.fleets,
                room=bare.room,
                demand=demand,
                least=1,
                memory=Memory(tuple(PlacedReplicas(p, n) for p, n in counts), NOW - 600, NOW - 60, traffic_seen=True),
                shrink_after=120.0,
                startup_seconds=90.0,
                fresh=True,
                starting=False,
                moving=False,
                may_move=True,
                held_gpus=0,
                offer=offer,
            )
        ).counts

    @functools.cache
    def reachable(counts):
        found = {tuple(sorted(move(counts, rate * (1 + noise * push)).items())) for push in np.linspace(-1, 1, 9)}
        return found - {counts}

    @functools.cache
    def growths(counts, shrunk=False, depth=0):
        assert depth < 60, "a cycle: moves without end"
        most = 0
        for after in reachable(counts):
            grows = any(n > dict(counts).get(p, 0) for p, n in after)
            assert not (grows and shrunk), f"{counts} grows to {after} after a shrink"
            most = max(most, grows + growths(after, shrunk or not grows, depth + 1))
        return most

    for start in (((BIG, 1),), ((BIG, 3), (SMALL, 1)), ((MIDDLE, 2),), ((SMALL, 5),), ((BIG, 3),)):
        assert growths(tuple(sorted(start))) <= 4 + 2 * noise * rate / 9
