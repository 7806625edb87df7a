"""What happens to the fleet during a play. Instants are seconds since the traffic began; `until` None: to the end."""

from __future__ import annotations

from dataclasses import dataclass

FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Heat:
    """GPU number `gpu` of a pool runs at `ratio` of its highest clock."""

    at: float
    pool: str
    gpu: int
    ratio: float
    until: float | None = None


@dataclass(frozen=True, slots=True)
class GPULoss:
    """GPU number `gpu` of a pool is gone: its engine ends at once, with the requests it has."""

    at: float
    pool: str
    gpu: int
    until: float | None = None


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """Node number `node` of a pool is gone. Its engines end at once.

    Pods and GPUs seem to be there for `noticed_after` seconds more, as with a kubelet that has fallen silent.
    """

    at: float
    pool: str
    node: int
    until: float | None = None
    noticed_after: float = 40.0


@dataclass(frozen=True, slots=True)
class Absence:
    """Nobody decides. Who decides afterwards knows what objects say, and has seen no traffic, as after a restart."""

    at: float
    until: float


@dataclass(frozen=True, slots=True)
class FailingStarts:
    """Engines of a pool that begin to start meanwhile end without having served, and start again after a pause."""

    at: float
    until: float
    pool: str


Incident = Heat | GPULoss | NodeLoss | Absence | FailingStarts


def is_within(incident: Incident, at: float) -> bool:
    """Whether it is going on."""
    return incident.at <= at < (FOREVER if incident.until is None else incident.until)
