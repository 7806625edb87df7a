"""How a simulation asks who decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shoal.domain.plan import Step
from shoal.domain.service import ServiceKey, Tick
from shoal.domain.snapshot import Snapshot
from shoal.sim.policies.laws import Signals


@dataclass(frozen=True, slots=True)
class Order:
    """What shall happen to one service. `weights`: routing weights by replica; `plan`: the target in words."""

    steps: tuple[Step, ...]
    plan: str
    moved: bool
    why: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)


class Policy(Protocol):
    """Decides for all services. It keeps what it must remember itself, and is asked in the order of time.

    `interval_seconds` None: as often as the scenario says.
    """

    name: str
    interval_seconds: float | None

    def decide(self, snapshot: Snapshot, signals: Mapping[ServiceKey, Signals]) -> Mapping[ServiceKey, Order]:
        """One order for each service of the snapshot."""
        ...

    def is_surge(self, service: ServiceKey, tick: Tick, tick_seconds: float) -> bool:
        """Whether to decide at once, within an interval, after this count of arrivals."""
        ...
