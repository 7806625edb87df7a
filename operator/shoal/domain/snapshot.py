"""Everything `decide()` may know, at one instant."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.domain.pool import Pool
from shoal.domain.profile import Profile
from shoal.domain.service import Service


@dataclass(frozen=True, slots=True)
class Brakes:
    """Operator-wide limits on change. `paused` freezes every target."""

    paused: bool = False
    max_concurrent_moves: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world at `now` (seconds since the epoch): services that share pools, those pools, every profile that may apply.

    Profiles of a service's own namespace come before those of the operator's namespace.
    """

    now: float
    services: tuple[Service, ...]
    pools: tuple[Pool, ...]
    profiles: tuple[Profile, ...]
    operator_namespace: str = "shoal-system"
    brakes: Brakes = Brakes()
