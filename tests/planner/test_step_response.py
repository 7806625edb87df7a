"""How soon a step of the rate is answered, and in how many moves, when arrivals are counted twice in an interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shoal.domain.service import Load, Tick
from shoal.planner.demand import is_surge, observed_demand

INTERVAL = 5.0
TICK = INTERVAL / 2
AFTER = 90.0


def answer_step(rng, capacity):
    """Step from 0.5 to 2.5 times a replica's capacity, anywhere in an interval.

    Returns the seconds from the step to each growth, by the rules of the plan loop: a plan in every interval, and
    after any count that surges.
    """
    low, high, step = 0.5 * capacity, 2.5 * capacity, rng.uniform(0, INTERVAL)
    ticks = [Tick(float(count)) for count in rng.poisson(low * TICK, 120)]
    replicas, moves, demand = 1, [], None
    for number in range(int(AFTER / TICK)):
        began, end = number * TICK, (number + 1) * TICK
        before = min(max(step - began, 0.0), TICK)
        ticks.append(Tick(float(rng.poisson(low * before) + rng.poisson(high * (TICK - before)))))
        if number % 2 == 0 and not (demand and is_surge(ticks[-1], TICK, demand)):
            continue
        demand = observed_demand(Load(tuple(ticks), TICK, ticks_to_settle=2), 0.0, 0)
        if not demand.changing and demand.rate - demand.standard_error > replicas * capacity:
            replicas = math.ceil(demand.rate / capacity)
            moves.append(end - step)
    return moves


@pytest.mark.parametrize(
    ("capacity", "latest", "again"),
    [
        (100, 2 * INTERVAL, 0.0),
        (30, 2 * INTERVAL, 0.0),
        (10, 2 * INTERVAL, 0.03),  # 25 requests in a tick: sometimes half of it is not enough to see the step
    ],
)
def test_a_step_is_answered_within_two_intervals_and_in_one_move(capacity, latest, again):
    rng = np.random.default_rng(5)
    answers = [answer_step(rng, capacity) for _ in range(200)]
    assert all(answers)
    assert np.quantile([moves[0] for moves in answers], 0.95) < latest
    assert sum(len(moves) > 1 for moves in answers) <= again * len(answers)
