"""How many replicas of which options: the cheapest that carry a rate within what is left of the pools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.domain.configuration import Placement
from shoal.planner.ledger import Room
from shoal.planner.thermal import Fleet

MOST_TRIED: Final = 6  # options combined in pairs: so many of the cheapest per rate, and the two cheapest to have
ENOUGH: Final = 1 - 1e-9

Counts = dict[Placement, int]
Fleets = Mapping[Placement, Fleet]


@dataclass(frozen=True, slots=True)
class Sized:
    """Replicas of each placement, what they carry, and whether that is enough."""

    counts: Mapping[Placement, int]
    rate: float
    cost: float
    enough: bool

    @property
    def replicas(self) -> int:
        """Replicas in all."""
        return sum(self.counts.values())


def total_rate(counts: Mapping[Placement, int], fleets: Fleets) -> float:
    """Requests per second these replicas carry."""
    rate: float = 0
    for placement, count in counts.items():
        rate += fleets[placement].rate(count)
    return rate


def _rate_beside(placement: Placement, counts: Mapping[Placement, int], fleets: Fleets) -> float:
    """Requests per second that all these replicas but those of one placement carry."""
    rate: float = 0
    for other, count in counts.items():
        if other != placement:
            rate += fleets[other].rate(count)
    return rate


def total_cost(counts: Mapping[Placement, int], fleets: Fleets) -> float:
    """Price of these replicas for an hour."""
    cost: float = 0
    for placement, count in counts.items():
        cost += fleets[placement].option.cost * count
    return cost


def total_gpus(counts: Mapping[Placement, int]) -> int:
    """GPUs of these replicas."""
    return sum(placement.configuration.gpus_per_replica * count for placement, count in counts.items())


def size(fleets: Fleets, rate: float, least: int, room: Room) -> Sized:
    """The cheapest replicas that carry `rate` and number at least `least`; the most that fit when nothing is enough.

    Considered: every option alone, every one followed by another where its room ends, and all in the order of price, so
    that a higher rate never costs less. Estimates come in only where what was measured has no room left.
    """
    measured = [fleet for fleet in fleets.values() if not fleet.option.estimated]
    estimated = [fleet for fleet in fleets.values() if fleet.option.estimated]
    candidates = _candidates(measured or estimated, fleets, rate, least, room)
    found = _best(candidates)
    if found is not None and (found.enough or not (measured and estimated)):
        return found
    everything = by_price(measured) + by_price(estimated)
    wider = [_fill(order, fleets, rate, least, room) for order in (everything, _by_density(everything))]
    return _best([*candidates, *wider]) or Sized({}, 0.0, 0.0, enough=False)


def smallest(fleets: Fleets, least: int, room: Room) -> Counts:
    """So many replicas of the cheapest option that has the room, measured ones first; else what is cheapest in all."""
    if least <= 0:
        return {}
    order = sorted(
        fleets.values(), key=lambda f: (f.option.estimated, f.option.cost, -f.option.rate, f.option.placement)
    )
    for fleet in order:
        if room.most(fleet.option.placement, {}) >= least:
            return {fleet.option.placement: least}
    return dict(size(fleets, 0.0, least, room).counts)


def grow(fleets: Fleets, start: Mapping[Placement, int], rate: float, least: int, room: Room) -> Sized:
    """Add replicas to what is decided: to its own placements first, the cheapest one first, then to others."""
    own = [fleets[placement] for placement in start if start[placement] > 0]
    others = [fleet for placement, fleet in fleets.items() if not start.get(placement)]
    trusted = [fleet for fleet in others if not fleet.option.estimated]
    guessed = [fleet for fleet in others if fleet.option.estimated]
    order = by_price(own) + by_price(trusted) + by_price(guessed)
    return _fill(order, fleets, rate, least, room, start=start)


def shrink(fleets: Fleets, start: Mapping[Placement, int], rate: float, least: int) -> Sized:
    """Take away replicas, the dearest rate first, as long as `rate` is carried and `least` remain."""
    counts = dict(start)
    for fleet in reversed(by_price([fleets[placement] for placement in start])):
        placement = fleet.option.placement
        others = _rate_beside(placement, counts, fleets)
        spare = sum(counts.values()) - counts[placement]
        counts[placement] = min(counts[placement], max(fleet.need(rate - others), least - spare, 0))
    return sized(counts, fleets, rate, least)


def trim(fleets: Fleets, start: Mapping[Placement, int], room: Room) -> Counts:
    """What of a plan still fits into the room, the cheapest rate first."""
    counts: Counts = {}
    for fleet in by_price([fleets[placement] for placement in start]):
        placement = fleet.option.placement
        counts[placement] = min(start[placement], room.most(placement, counts))
    return {placement: count for placement, count in counts.items() if count > 0}


def _candidates(usable: Sequence[Fleet], fleets: Fleets, rate: float, least: int, room: Room) -> list[Sized]:
    """Every option alone; and, for those that do not have the room to be enough, followed by others."""
    order = by_price(usable)
    alone = [_alone(fleet, rate, least, room) for fleet in order]
    short = {fleet.option.placement for fleet, plan in zip(order, alone, strict=True) if not plan.enough}
    tried = order[:MOST_TRIED]
    tried += [fleet for fleet in sorted(order, key=lambda f: f.option.cost)[:2] if fleet not in tried]
    chains: list[Sequence[Fleet]] = [[first, second] for first in tried for second in tried if first is not second]
    chains += [chain for chain in (order, _by_density(usable)) if chain]
    longer = [chain for chain in chains if chain[0].option.placement in short]
    return alone + [_fill(chain, fleets, rate, least, room) for chain in longer]


def _alone(fleet: Fleet, rate: float, least: int, room: Room) -> Sized:
    placement = fleet.option.placement
    count = min(max(fleet.need(rate), least), room.most(placement, {}))
    carried = fleet.rate(count)
    enough = carried >= rate * ENOUGH and count >= least
    return Sized({placement: count} if count else {}, carried, fleet.option.cost * count, enough)


def _fill(
    chain: Sequence[Fleet],
    fleets: Fleets,
    rate: float,
    least: int,
    room: Room,
    *,
    start: Mapping[Placement, int] | None = None,
) -> Sized:
    """Take from each option in turn what is still needed, as far as there is room."""
    counts: Counts = dict(start or {})
    for fleet in chain:
        placement = fleet.option.placement
        had = counts.get(placement, 0)
        others = _rate_beside(placement, counts, fleets)
        spare = sum(counts.values()) - had
        need = max(fleet.need(rate - others), least - spare)
        if need > had:
            counts[placement] = had + min(need - had, room.most(placement, counts))
        if _is_enough(counts, total_rate(counts, fleets), rate, least):
            break
    return sized(counts, fleets, rate, least)


def sized(counts: Mapping[Placement, int], fleets: Fleets, rate: float, least: int) -> Sized:
    """These replicas, with what they carry and cost, and whether that is enough."""
    kept = {placement: count for placement, count in sorted(counts.items()) if count > 0}
    carried = total_rate(kept, fleets)
    return Sized(kept, carried, total_cost(kept, fleets), _is_enough(kept, carried, rate, least))


def _is_enough(counts: Mapping[Placement, int], carried: float, rate: float, least: int) -> bool:
    return carried >= rate * ENOUGH and sum(counts.values()) >= least


def _best(candidates: Iterable[Sized]) -> Sized | None:
    """The cheapest of those that are enough, else the one that carries most; ties by GPUs, headroom, then name."""

    def merit(plan: Sized) -> tuple[object, ...]:
        gpus = total_gpus(plan.counts)
        names = tuple(plan.counts.items())
        if plan.enough:
            return (0, round(plan.cost, 9), gpus, -plan.rate, names)
        return (1, -round(plan.rate, 9), round(plan.cost, 9), gpus, names)

    return min(candidates, key=merit, default=None)


def by_price(fleets: Iterable[Fleet]) -> list[Fleet]:
    """The cheapest rate first."""
    return sorted(fleets, key=lambda f: (f.option.cost_of_rate, f.option.cost, f.option.placement))


def _by_density(fleets: Iterable[Fleet]) -> list[Fleet]:
    return sorted(fleets, key=lambda f: (-f.option.rate / f.option.gpus, f.option.cost, f.option.placement))
