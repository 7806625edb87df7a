"""One plan for each service, so that all together cost least within the rows they share.

A row is anything several services draw from: the GPUs of a pool, its groups of linked GPUs, a namespace's quota.
Few services are chosen for exactly (`exact.py`), many by prices of the rows (`prices.py`), which give a bound as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

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


def longest_prefix(attempt: Callable[[int], Chosen | None], most: int, attempts: int) -> tuple[int, Chosen | None]:
    """The largest number up to `most` at which an attempt succeeds, and its choice; by bisection, in so many attempts.

    (0, None) when none did.
    """
    chosen: Chosen | None = None
    low, high, middle = 0, most, most
    for _ in range(attempts):
        found = attempt(middle)
        if found is not None:
            chosen, low = found, middle
        else:
            high = middle - 1
        if low >= high:
            break
        middle = (low + high + 1) // 2
    return (low, chosen) if chosen is not None else (0, None)
