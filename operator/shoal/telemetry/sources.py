"""Where the collector's numbers come from. Direct reads are one source; a Prometheus is the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.telemetry.engine_page import EnginePage
from shoal.telemetry.envoy_stats import ClusterCounters
from shoal.telemetry.gpu import GpuReading
from shoal.telemetry.targets import AgentTarget, EngineTarget, RouterTarget


@dataclass(frozen=True, slots=True)
class EngineReading:
    """A page and how old its numbers already were when it came, in seconds."""

    page: EnginePage
    age_seconds: float = 0.0


class SourceError(Exception):
    """The source as a whole did not answer. The message is for a person."""


class Source(Protocol):
    """Reads many at once. Whoever did not answer, or not with numbers, is not in the result."""

    @property
    def lag_seconds(self) -> float:
        """How old numbers normally are: 0 when they are read from the engines themselves."""

    async def read_engines(self, targets: Sequence[EngineTarget]) -> Mapping[EngineTarget, EngineReading]:
        """Read engines. Raises SourceError."""

    async def read_routers(
        self, targets: Sequence[RouterTarget]
    ) -> Mapping[RouterTarget, Mapping[str, ClusterCounters]]:
        """Counters of each router by cluster."""

    async def read_agents(self, targets: Sequence[AgentTarget]) -> Mapping[AgentTarget, tuple[GpuReading, ...]]:
        """GPUs of each node."""

    async def close(self) -> None:
        """Release connections."""
