"""What nobody could do better: the least GPU time that serves a known rate with so many misses.

min sum n_t  with  n_t * C >= (1 - s_t) * lambda_t  and  sum s_t * lambda_t * tick <= misses, n_t whole,
with the same capacity C and start-up as the planner it is compared with: a replica that begins to serve in tick t was
started `startup` before and held its GPU since; before the first start-up has passed only those of the beginning serve.

Solved by its Lagrangian: with a price on a miss, dynamic programming over ticks and replicas finds the cheapest
schedule exactly; the best price gives a bound below every schedule with at most so many misses (weak duality).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_PRICE: Final = 1e5  # GPU-seconds for a missed request: none is missed that could be served
STEPS: Final = 60  # of the search for the price
GOLDEN: Final = 0.6180339887498949

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bound:
    """GPU-hours of the bound, and the replicas that serve in each tick of the schedule at the best price."""

    gpu_hours: float
    serving: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Problem:
    missed: Floats  # (ticks, replicas): requests that so many replicas cannot serve
    serving: Floats  # GPU-seconds of so many replicas in a tick
    started: Floats  # (before, after): GPU-seconds of start-ups
    first: int  # tick from which newcomers can serve
    workers: int


def least_gpu_hours(
    rates: Sequence[float] | Floats,
    *,
    tick_seconds: float,
    capacity: float,
    misses: float,
    startup_seconds: float,
    workers: int,
) -> Bound:
    """The bound for mean rates per tick (requests per second). `workers` serve at the beginning; at least one stays.

    Misses that nobody could have helped, before the first start-up has passed, are always allowed. Raises ValueError
    for a capacity that is not positive.
    """
    if capacity <= 0:
        raise ValueError(f"a capacity is more than 0 requests per second, not {capacity}")
    demand = np.asarray(rates, dtype=np.float64)
    replicas = np.arange(1, max(workers, int(np.ceil(demand.max(initial=0.0) / capacity))) + 1)
    first = round(startup_seconds / tick_seconds)
    problem = _Problem(
        missed=tick_seconds * np.maximum(demand[:, None] - capacity * replicas[None, :], 0.0),
        serving=tick_seconds * replicas.astype(np.float64),
        started=startup_seconds * np.maximum(replicas[None, :] - replicas[:, None], 0),
        first=first,
        workers=workers,
    )
    allowed = max(misses, float(problem.missed[:first, workers - 1].sum()))

    def value(logarithm: float) -> tuple[float, NDArray[np.int64]]:
        price = float(np.expm1(logarithm))
        cost, path = _cheapest(problem, price)
        return cost - price * allowed, path

    low, high = 0.0, float(np.log1p(MOST_PRICE))
    best = max(value(low), value(high), key=lambda found: found[0])
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(STEPS):
        best = max(best, at_left, at_right, key=lambda found: found[0])
        if at_left[0] >= at_right[0]:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = value(right)
    return Bound(best[0] / 3600, best[1])


def _cheapest(problem: _Problem, price: float) -> tuple[float, NDArray[np.int64]]:
    """Cost of the cheapest schedule when a miss costs `price` GPU-seconds, and its replicas in each tick."""
    ticks, most = problem.missed.shape
    costs = price * problem.missed + problem.serving[None, :]
    total = np.full(most, np.inf)
    total[: problem.workers] = 0.0  # replicas of the beginning may be given up at once
    before = np.zeros((ticks, most), dtype=np.int64)
    for tick in range(ticks):
        moves = total[:, None] + problem.started
        if tick < problem.first:
            moves[:, problem.workers :] = np.inf
        before[tick] = moves.argmin(axis=0)
        total = moves.min(axis=0) + costs[tick]
    path = np.empty(ticks, dtype=np.int64)
    place = int(total.argmin())
    best = float(total[place])
    for tick in range(ticks - 1, -1, -1):
        path[tick] = place + 1
        place = int(before[tick, place])
    return best, path


def reactive_ceiling(requests: int, step_rate: float, startup_seconds: float, tick_seconds: float) -> float:
    """Highest attainment of whoever sees a step only when it has come: 1 - rate * (startup + tick) / requests."""
    return 1 - step_rate * (startup_seconds + tick_seconds) / requests
