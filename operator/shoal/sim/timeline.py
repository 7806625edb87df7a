"""What a play looked like over time: one sample of each service at the end of each tick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """A service at an instant, in seconds since the traffic began. `arrived`: requests so far."""

    at: float
    service: str
    arrived: int
    desired: int
    ready: int
    active: int  # requests in its engines
    gpus: int  # held by its pods
