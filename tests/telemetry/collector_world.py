"""A source that says what it is told to, for tests of the collector. Time is a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.domain.service import ServiceKey
from shoal.telemetry.collector import Collector
from shoal.telemetry.engine_page import EnginePage, Histogram
from shoal.telemetry.envoy_stats import ClusterCounters
from shoal.telemetry.gpu import GpuReading
from shoal.telemetry.sources import EngineReading, SourceError
from shoal.telemetry.targets import AgentTarget, EngineTarget, RouterTarget, Targets

CHAT = ServiceKey("team", "chat")
TICK = 5.0


def engine(pod: str, index: int = 0, *, ready: bool = True, service: ServiceKey = CHAT) -> EngineTarget:
    return EngineTarget(service, pod, index, "127.0.0.1", 8000 + index, ready)


def router(pod: str, *, ready: bool = True) -> RouterTarget:
    return RouterTarget("team", pod, "127.0.0.1", ready=ready)


def page(finished: float = 0, running: float = 0, waiting: float = 0, **more: Histogram) -> EnginePage:
    return EnginePage(running=running, waiting=waiting, finished=finished, **more)


def counters(sent: float, **more: float) -> ClusterCounters:
    return ClusterCounters(sent, 0, 0, 0, **more)


@dataclass
class World:
    """A source that says what it is told to, and the clock."""

    now: float = 1000.0
    lag_seconds: float = 0.0
    engines: dict[str, EnginePage] = field(default_factory=dict)  # by pod
    routers: dict[str, Mapping[str, ClusterCounters]] = field(default_factory=dict)
    gpus: dict[str, tuple[GpuReading, ...]] = field(default_factory=dict)
    age: float = 0.0
    error: str | None = None
    closed: bool = False

    async def read_engines(self, targets: Sequence[EngineTarget]) -> Mapping[EngineTarget, EngineReading]:
        if self.error:
            raise SourceError(self.error)
        known = [target for target in targets if target.pod in self.engines]
        return {target: EngineReading(self.engines[target.pod], self.age) for target in known}

    async def read_routers(
        self, targets: Sequence[RouterTarget]
    ) -> Mapping[RouterTarget, Mapping[str, ClusterCounters]]:
        return {target: self.routers[target.pod] for target in targets if target.pod in self.routers}

    async def read_agents(self, targets: Sequence[AgentTarget]) -> Mapping[AgentTarget, tuple[GpuReading, ...]]:
        return {target: self.gpus[target.node] for target in targets if target.node in self.gpus}

    async def close(self) -> None:
        self.closed = True

    def collector(self, *targets: EngineTarget | RouterTarget | AgentTarget, routed: bool = False) -> Collector:
        collector = Collector(self, tick_seconds=TICK, clock=lambda: self.now)
        collector.set_targets(targets_of(*targets, routed=routed))
        return collector

    async def pass_tick(self, collector: Collector) -> None:
        self.now += TICK
        await collector.round()


def targets_of(*targets: EngineTarget | RouterTarget | AgentTarget, routed: bool = False) -> Targets:
    return Targets(
        engines=tuple(t for t in targets if isinstance(t, EngineTarget)),
        routers=tuple(t for t in targets if isinstance(t, RouterTarget)),
        agents=tuple(t for t in targets if isinstance(t, AgentTarget)),
        routed=frozenset({CHAT}) if routed else frozenset(),
    )
