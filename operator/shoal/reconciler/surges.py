"""Which services get far more than was planned for: their plan should not wait for its turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from shoal.domain.service import ServiceKey, Tick
from shoal.planner.demand import is_surge
from shoal.reconciler.planloop import Planned


class Counts(Protocol):
    """What arrived lately."""

    def last_tick(self, service: ServiceKey) -> tuple[Tick, float] | None:
        """Arrivals of a service's last tick, and its length in seconds; None when nothing is known."""


def find_surges(plans: Mapping[ServiceKey, Planned], counts: Counts) -> Iterator[ServiceKey]:
    """The services whose last tick stands out of the demand that they are planned for."""
    for key, planned in plans.items():
        last = counts.last_tick(key)
        if planned.decision is None or last is None:
            continue
        tick, seconds = last
        if is_surge(tick, seconds, planned.decision.explanation.demand):
            yield key
