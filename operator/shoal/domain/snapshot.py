"""Everything `decide()` may know, at one instant."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.domain.pool import Pool
from shoal.domain.profile import Profile
from shoal.domain.service import Service


@dataclass(frozen=True, slots=True)
class Brakes:
    """Operator-wide limits on change.

    `paused` freezes every target. `shrink_after_seconds` is both how long a lower rate must have lasted and how long
    ago the
    last move must be before replicas are given back. `max_capacity_loss` is the largest share of a service's capacity
    that one decision may give back; what a limit, a quota or a higher priority takes is not held up by it.
    """

    paused: bool = False
    max_concurrent_moves: int | None = None
    shrink_after_seconds: float = 120.0
    max_capacity_loss: float = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world at one instant, `now` (seconds since the epoch).

    The services share the pools; `profiles` are all that may apply: those of a service's own namespace count before
    those of
    the operator's. `energy_price_per_kwh` is added to the price of GPUs whose power is known from a profile; with pools
    that cost nothing, energy alone is what plans save.
    """

    now: float
    services: tuple[Service, ...]
    pools: tuple[Pool, ...]
    profiles: tuple[Profile, ...]
    operator_namespace: str = "shoal-system"
    brakes: Brakes = Brakes()
    energy_price_per_kwh: float = 0.0
