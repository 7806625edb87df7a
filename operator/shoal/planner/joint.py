"""One plan for each service, so that all together cost least within the rows they share.

A row is anything several services draw from: the GPUs of a pool, its groups of linked GPUs, a namespace's quota.
Few services are chosen for exactly (`exact.py`), many by prices of the rows (`prices.py`), which give a bound as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shoal.planner.exact import solve_exactly
from shoal.planner.prices import solve_by_prices
from shoal.planner.problem import Chosen, Floats, Problem, cheapest_of_all

MOST_EXACT: Final = 30  # services chosen for by branch and bound


def solve(problem: Problem, start: Floats | None = None) -> Chosen | None:
    """The cheapest combination that fits; None when there is none, or none was found.

    `start`: prices of the rows from a similar problem, to begin with. Of equal costs the plans named first win, so a
    caller puts the present plan first and the others in the order of their names.
    """
    if not problem.possible:
        return None
    free = cheapest_of_all(problem)
    if free is not None:
        return free
    if problem.services > MOST_EXACT:
        return solve_by_prices(problem, start)
    by_price = solve_by_prices(problem, start)
    return solve_exactly(problem, by_price)


def longest_prefix(problem: Problem, fallback: NDArray[np.bool_]) -> tuple[int, Chosen | None]:
    """How many services, from the first one on, can have a full plan while all others fall back; and that choice.

    `fallback` marks the plans [services, plans] of last resort. Which services come first is the caller's order.
    """
    chosen: Chosen | None = None
    low, high = 0, problem.services
    while low <= high:
        middle = high if chosen is None and high == problem.services else (low + high + 1) // 2
        found = solve(_restricted(problem, fallback, middle))
        if found is not None:
            chosen, low = found, middle
            if low == high:
                break
        else:
            high = middle - 1
    return (low, chosen) if chosen is not None else (0, None)


def _restricted(problem: Problem, fallback: NDArray[np.bool_], full: int) -> Problem:
    """The first `full` services without their fallback, the others with nothing but it."""
    costs = problem.costs.copy()
    costs[:full][fallback[:full]] = np.inf
    costs[full:][~fallback[full:]] = np.inf
    return Problem(costs, problem.uses, problem.capacity)


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a joint choice is: its cost, and a bound below the cost of any choice among the same plans.

    Money per hour, moves included. `exact`: proved to be the cheapest.
    """

    cost: float
    bound: float
    exact: bool

    @property
    def gap(self) -> float:
        """Share of the cost that a better choice could save at most."""
        return max(0.0, self.cost - self.bound) / self.cost if self.cost > 0 else 0.0
