"""What replicas on slowed GPUs still carry.

Derating comes from the clock against the profile's clock under load, never from temperature: a GPU at its power cap
runs below its top clock at a harmless temperature, and that is part of the profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from shoal.domain.configuration import Placement
from shoal.domain.service import Replica, ReplicaPhase
from shoal.planner.capacity import clock_ratio, rate_row
from shoal.planner.frontier import Offer, Option

NEXT_TO_NOTHING: Final = 1e-6  # requests per second: stands for 0 where prices are taken by rate
LEAST: Final = 0.05  # a replica too slow for the objective still answers; it gets next to no weight
ENOUGH_TO_JUDGE: Final = 3  # with so many clocks known and all low, newcomers will be slow too


def derating_of(option: Option, replica: Replica) -> float:
    """Share of its capacity a replica has left, 1.0 when its clock is unknown or full."""
    basis = option.basis
    ratio = clock_ratio(replica.clock_mhz, basis.clock_mhz)
    full = option.rating.capacity.rate
    if ratio >= 1.0 or full <= 0:
        return 1.0
    slowed = rate_row(basis, ratio)
    return LEAST if slowed is None else min(1.0, max(LEAST, slowed.capacity.rate / full))


@dataclass(frozen=True, slots=True)
class Fleet:
    """The rates of an option's replicas as they are: the fastest first, then newcomers.

    A smaller number keeps the fastest, as the slow ones are given up first. Two and more replicas carry `pooling` times
    what each is planned for alone (credit.py).
    """

    option: Option
    deratings: tuple[float, ...] = ()  # of the replicas that hold GPUs, falling

    @property
    def pooling(self) -> float:
        """Times its planned rate that a replica carries beside others."""
        return self.option.pooling

    @property
    def newcomer(self) -> float:
        """Derating expected of a replica yet to come: full, unless every known one of several is slow."""
        return max(self.deratings) if len(self.deratings) >= ENOUGH_TO_JUDGE else 1.0

    def rate(self, replicas: int) -> float:
        """Requests per second so many replicas carry."""
        return self._planned(replicas) * (self.pooling if replicas > 1 else 1.0)

    def need(self, rate: float) -> int:
        """Fewest replicas that carry a rate."""
        if rate <= 0:
            return 0
        if self._planned(1) >= rate * (1 - 1e-9):
            return 1
        return max(2, self._need_planned(rate / self.pooling))

    def _planned(self, replicas: int) -> float:
        """The sum of what each is planned for alone."""
        if not self.deratings:
            return self.option.rate * replicas
        present = self.deratings[:replicas]
        return self.option.rate * (sum(present) + (replicas - len(present)) * self.newcomer)

    def _need_planned(self, rate: float) -> int:
        if not self.deratings:
            return _ceil(rate / self.option.rate)
        covered = 0.0
        for count, derating in enumerate(self.deratings, start=1):
            covered += derating * self.option.rate
            if covered >= rate * (1 - 1e-9):
                return count
        each = self.newcomer * self.option.rate
        return len(self.deratings) + _ceil((rate - covered) / each)


@lru_cache(maxsize=8192)
def idle_fleets(offer: Offer) -> Mapping[Placement, Fleet]:
    """Every option of an offer without any replica, in the order of placements."""
    return {option.placement: Fleet(option) for option in offer.options}


def make_fleet(option: Option, replicas: Iterable[Replica]) -> Fleet:
    """The option with what its running replicas have left; draining and unbound ones do not count as present.

    None of them slow is as good as none of them there.
    """
    present = (ReplicaPhase.STARTING, ReplicaPhase.READY)
    deratings: Sequence[float] = sorted(
        (derating_of(option, replica) for replica in replicas if replica.phase in present), reverse=True
    )
    return Fleet(option, tuple(deratings)) if min(deratings, default=1.0) < 1 else Fleet(option)


def vouched_fleet(fleet: Fleet) -> Fleet:
    """The fleet at the rate that live traffic vouches for, where it is a learned one: what may be given back by."""
    rating = fleet.option.rating
    credited = rating.capacity.credited
    if credited is None:
        return fleet
    capacity = replace(rating.capacity, rate=max(credited, NEXT_TO_NOTHING))
    return replace(fleet, option=replace(fleet.option, rating=replace(rating, capacity=capacity)))


def _ceil(value: float) -> int:
    whole = int(value)
    return whole if value - whole < 1e-9 else whole + 1
