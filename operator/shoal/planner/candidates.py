"""The plans among which a service's target is chosen: every option alone, and options that complete each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shoal.domain.configuration import Placement
from shoal.planner.ledger import Room
from shoal.planner.sizing import ENOUGH, MOST_TRIED, Counts, Fleets, Sized, by_price, sized, total_cost, total_rate
from shoal.planner.thermal import Fleet

MOST_PLANS: Final = 100
"""Plans of one service; the first ones are kept, and the search begins with the cheapest per request."""
MOST_STEPS: Final = 2_000  # of the search for one service
HORIZON_SECONDS: Final = 3600.0
DRAIN_SECONDS: Final = 60.0  # both variants hold GPUs for a start-up and about so long


@dataclass(frozen=True, slots=True)
class Breadth:
    """How far to search: plans kept, placements that complete each other, and numbers tried of each."""

    plans: int = MOST_PLANS
    placements: int = 3
    numbers: int = 8


WIDE: Final = Breadth()
NARROW: Final = Breadth(plans=40, placements=2, numbers=3)
"""For many services at once: what one of them splits hardly matters to the others."""


def move_cost(before: Mapping[Placement, int], after: Mapping[Placement, int], fleets: Fleets, startup: float) -> float:
    """What the replicas to be started cost while the old ones still run, spread over the horizon (money per hour)."""
    new = {p: n - before.get(p, 0) for p, n in after.items() if n > before.get(p, 0)}
    return total_cost(new, fleets) * (startup + DRAIN_SECONDS) / HORIZON_SECONDS


@dataclass(frozen=True, slots=True)
class Wish:
    """What every plan of a service must do: carry `rate` with `least` replicas or more, within `room`, from `start` on.

    Requests per second; `start` is part of every plan.
    """

    fleets: Fleets
    rate: float
    least: int
    room: Room
    start: Mapping[Placement, int] = field(default_factory=dict)

    def sized(self, counts: Mapping[Placement, int]) -> Sized:
        """A plan with what it carries and costs, and whether it is enough."""
        return sized(counts, self.fleets, self.rate, self.least)


def find_plans(wish: Wish, breadth: Breadth = WIDE) -> list[Counts]:
    """Plans that fulfil a wish and have no replica to spare.

    With few replicas these are all plans of the options tried; numbers above `breadth.numbers` are thinned out. What is
    estimated comes in only where what was measured cannot carry the rate.
    """
    fleets = wish.fleets.values()
    measured = by_price(fleet for fleet in fleets if not fleet.option.estimated)
    estimated = by_price(fleet for fleet in fleets if fleet.option.estimated)
    found = _plans(measured or estimated, wish, breadth)
    if not found and measured and estimated:
        found = _plans(measured + estimated, wish, breadth)
    return found


def _plans(order: Sequence[Fleet], wish: Wish, breadth: Breadth) -> list[Counts]:
    tried = list(order[:MOST_TRIED])
    tried += [fleet for fleet in sorted(order, key=lambda f: f.option.cost)[:2] if fleet not in tried]
    search = _Search(wish, breadth)
    alone = [plan for fleet in order for plan in search.run([fleet], wish.start, 1)]
    found: dict[tuple[tuple[Placement, int], ...], None] = {}
    for plan in [*alone, *search.run(tried, wish.start, breadth.placements)]:
        if len(found) >= breadth.plans:
            break
        found.setdefault(tuple(sorted(plan.items())))
    return [dict(plan) for plan in found]


class _Search:
    def __init__(self, wish: Wish, breadth: Breadth) -> None:
        self.wish, self.breadth = wish, breadth
        self.enough = wish.rate * ENOUGH
        self.steps = 0

    def run(self, order: Sequence[Fleet], start: Mapping[Placement, int], more: int) -> Iterator[Counts]:
        """Plans that add replicas of at most `more` options of `order` to `start`, the earlier options first."""
        counts = {placement: count for placement, count in start.items() if count > 0}
        carried = total_rate(counts, self.wish.fleets)
        yield from self._complete(order, counts, carried, more)

    def _complete(self, order: Sequence[Fleet], counts: Counts, carried: float, more: int) -> Iterator[Counts]:
        replicas = sum(counts.values())
        if carried >= self.enough and replicas >= self.wish.least:
            yield counts
            return
        if more == 0 or self.steps >= MOST_STEPS:
            return
        for place, fleet in enumerate(order):
            self.steps += 1
            placement = fleet.option.placement
            had = counts.get(placement, 0)
            others = carried - fleet.rate(had) if had else carried
            need = max(fleet.need(self.enough - others), self.wish.least - (replicas - had)) - had
            most = min(need, self.wish.room.most(placement, counts))
            for number in self._numbers(most, alone=more == 1 and most < need):
                more_counts = {**counts, placement: had + number}
                after = others + fleet.rate(had + number)
                yield from self._complete(order[place + 1 :], more_counts, after, more - 1)

    def _numbers(self, most: int, *, alone: bool) -> list[int]:
        """Numbers to try, falling: all when there are few. With nothing to complete them only enough will do."""
        if most <= 0 or alone:
            return []
        few = self.breadth.numbers
        if most <= few:
            return list(range(most, 0, -1))
        return sorted({most, most - 1, *(max(1, round(most * part / few)) for part in range(1, few))}, reverse=True)
