"""What is added when a plan has become too small: the cheapest addition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from shoal.domain.configuration import Placement
from shoal.planner.bounds import cost_frontier
from shoal.planner.candidates import NARROW, Wish, find_plans
from shoal.planner.frontier import Offer
from shoal.planner.sizing import Sized, grow, total_cost

UNTRIED: Final = 1.05
"""Times its price what is added in a new placement counts: one more variant must be worth its while."""


def cheapest_growth(wish: Wish, finer: float, offer: Offer | None) -> Sized:
    """The plan that carries `wish.rate` and adds least cost to `wish.start`. Starts cost in proportion, so prices rank.

    First in line is more of what is there already, the cheapest rate first. Anything else must cost less and carry
    `finer`, which is more: small replicas would otherwise be added one by one while an estimate wanders. Estimates
    are added only where nothing measured is enough.
    """
    own = grow(wish.fleets, wish.start, wish.rate, wish.least, wish.room)
    if own.enough and added_cost(wish, own.counts) <= _least_cost(wish, finer, offer):
        return own
    trusted = {p: fleet for p, fleet in wish.fleets.items() if wish.start.get(p) or not fleet.option.estimated}
    other = replace(wish, fleets=trusted, rate=max(wish.rate, finer))
    found = [plan for plan in map(other.sized, find_plans(other, NARROW)) if plan.enough]
    return min([own, *found], key=lambda plan: (not plan.enough, added_cost(wish, plan.counts)))


def added_cost(wish: Wish, counts: Mapping[Placement, int]) -> float:
    """Price for an hour of what a plan adds to the start, new placements a little dearer than they are."""
    added = {p: n - wish.start.get(p, 0) for p, n in counts.items() if n > wish.start.get(p, 0)}
    untried = {p: n for p, n in added.items() if not wish.start.get(p)}
    return total_cost(added, wish.fleets) + (UNTRIED - 1) * total_cost(untried, wish.fleets)


def _least_cost(wish: Wish, finer: float, offer: Offer | None) -> float:
    """A bound below the cost of every other addition: spares the search where none is cheaper."""
    frontier = cost_frontier(offer, wish.room.full) if offer else None
    pooled = {p: 2 if n == 1 else n for p, n in wish.start.items()}  # what joins one replica lets it carry more as well
    had = sum(wish.fleets[p].rate(pooled[p]) * n / pooled[p] for p, n in wish.start.items() if n > 0)
    missing = max(wish.rate, finer) - had
    return frontier.cost(missing, 0) if frontier else 0.0
