"""What the operator makes of the GPU agents' readings: the clock that each GPU has when it works."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

from shoal.telemetry.gpu import GpuReading

BUSY_SHARE: Final = 0.5
"""A GPU that computes less than this may lower its clock of its own accord."""

REMEMBERED_SECONDS: Final = 600.0
"""How long the last clock under load counts for a GPU that has become idle.

A slow GPU gets less traffic, or none. If its clock were forgotten then, it would look fast, get its traffic back, and
be found slow again.
"""

STALE_SECONDS: Final = 30.0
"""Readings older than this are unknown."""

SAMPLES: Final = 3
"""The median of so many readings is taken: one odd reading, or a clock at the edge of a step, moves nothing."""


@dataclass(slots=True)
class _Clock:
    under_load: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    seen_at: float = 0.0


class GpuTracker:
    """Readings of all nodes, with the clock under load of each GPU."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[float, tuple[GpuReading, ...]]] = {}
        self._clocks: dict[str, _Clock] = {}

    def record(self, node: str, readings: Iterable[GpuReading], now: float) -> None:
        """Take in an agent's answer."""
        self._nodes[node] = (now, tuple(self._complete(reading, now) for reading in readings))

    def keep_only(self, nodes: Iterable[str], now: float) -> None:
        """Forget nodes that have no agent any more, and clocks that nobody has seen for long."""
        kept = set(nodes)
        self._nodes = {node: known for node, known in self._nodes.items() if node in kept}
        self._clocks = {u: c for u, c in self._clocks.items() if now - c.seen_at <= REMEMBERED_SECONDS}

    def gpus_of(self, node: str, now: float) -> tuple[GpuReading, ...]:
        """GPUs of a node, by index. Empty: nothing is known of them, which does not mean that they are slow or gone."""
        at, readings = self._nodes.get(node, (0.0, ()))
        return readings if now - at <= STALE_SECONDS else ()

    def _complete(self, reading: GpuReading, now: float) -> GpuReading:
        clock = self._clocks.setdefault(reading.uuid, _Clock(seen_at=now))
        if is_under_load(reading) and reading.clock_mhz is not None:
            clock.under_load.append(reading.clock_mhz)
            clock.seen_at = now
        elif reading.faults:
            clock.seen_at = now  # idle, but what slowed it is still there
        elif now - clock.seen_at > REMEMBERED_SECONDS:
            clock.under_load.clear()
        return replace(reading, clock_under_load_mhz=median(clock.under_load) if clock.under_load else None)


def is_under_load(reading: GpuReading) -> bool:
    """Whether the clock tells how fast the GPU is.

    Where the busy share cannot be read, only a reason other than idleness shows that the GPU works.
    """
    if reading.busy is None:
        return bool(reading.throttle_reasons) and "GpuIdle" not in reading.throttle_reasons
    return reading.busy >= BUSY_SHARE
