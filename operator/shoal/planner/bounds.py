"""What plans cost at least, whatever the room: spares the search for a cheaper one where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from shoal.planner.frontier import Offer
from shoal.planner.problem import Floats

MOST_REPLICAS: Final = 16  # up to so many the least cost is exact, above it is what the cheapest rate costs
MOST_POINTS: Final = 512


@dataclass(frozen=True)
class Frontier:
    """Least cost of exactly covering a rate: `costs[i]` carries up to `rates[i]`, both rising, with few replicas.

    `cost_of_rate` is the cheapest price of one request per second for an hour.
    """

    rates: Floats
    costs: Floats
    cost_of_rate: float
    least: float  # cost of the cheapest replica

    def cost(self, rate: float, least: int) -> float:
        """A bound below the cost of every plan that carries `rate` with `least` replicas."""
        many = max((MOST_REPLICAS + 1) * self.least, rate * self.cost_of_rate)
        place = int(np.searchsorted(self.rates, rate * (1 - 1e-9)))
        few = float(self.costs[place]) if place < len(self.rates) else many
        return max(min(few, many), least * self.least)


@lru_cache(maxsize=8192)
def cost_frontier(offer: Offer, without: frozenset[tuple[str, int]]) -> Frontier | None:
    """The least costs of an offer's options; None when it has none. Remembered: it does not depend on the rate.

    Options of the sizes `without` (pool, GPUs of a replica) are left out.
    """
    options = [option for option in offer.options if (option.placement.pool, option.gpus) not in without]
    if not options:
        return None
    rates = np.array([option.rate * option.pooling for option in options])
    costs = np.array([option.cost for option in options])
    dearest = (MOST_REPLICAS + 1) * costs.min()  # what costs more than so many replicas is bounded without its points
    single = _pareto(rates, costs, dearest)
    found = single
    for _ in range(MOST_REPLICAS - 1):
        more_rates = np.add.outer(found[0], single[0]).ravel()
        more_costs = np.add.outer(found[1], single[1]).ravel()
        found = _pareto(np.concatenate([found[0], more_rates]), np.concatenate([found[1], more_costs]), dearest)
    return Frontier(found[0], found[1], float((costs / rates).min()), float(costs.min()))


def _pareto(rates: Floats, costs: Floats, dearest: float) -> tuple[Floats, Floats]:
    """The points that no cheaper or equal one out-carries, by rising cost; rates rounded up where there are many."""
    rates, costs = rates[costs <= dearest], costs[costs <= dearest]
    order = np.lexsort((-rates, costs))
    rates, costs = rates[order], costs[order]
    best = np.maximum.accumulate(rates)
    kept = np.concatenate([[True], best[1:] > best[:-1] * (1 + 1e-12)])
    rates, costs = rates[kept], costs[kept]
    if len(rates) > MOST_POINTS:  # a bound stays one when points carry more than they do
        step = -(-len(rates) // MOST_POINTS)
        ends = np.minimum(np.arange(0, len(rates), step) + step - 1, len(rates) - 1)
        rates, costs = rates[ends], costs[::step]
    return rates, costs
