"""Whom telemetry reads. The reconciler makes these from the pods it watches."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.api.measurement import PROGRESS_PORT
from shoal.domain.service import ServiceKey


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """One engine of a pod. One that is not ready is read too, but its silence is no gap in what is known."""

    service: ServiceKey
    pod: str
    engine: int
    address: str
    port: int
    ready: bool = True


@dataclass(frozen=True, slots=True)
class RouterTarget:
    """One Envoy of a namespace; `port` is that of its statistics.

    Name draining ones too: they still get requests over open connections. The silence of one that is not ready is no
    gap.
    """

    namespace: str
    pod: str
    address: str
    port: int = 9442
    ready: bool = True


@dataclass(frozen=True, slots=True)
class AgentTarget:
    """The GPU agent of a node."""

    node: str
    address: str
    port: int = 9440


@dataclass(frozen=True, slots=True)
class ProfilerTarget:
    """The profiler beside the engines it measures."""

    address: str
    port: int = PROGRESS_PORT


@dataclass(frozen=True, slots=True)
class Targets:
    """Everything to read. `routed`: the services whose requests come through Envoy, with or without engines."""

    engines: tuple[EngineTarget, ...] = ()
    routers: tuple[RouterTarget, ...] = ()
    agents: tuple[AgentTarget, ...] = ()
    routed: frozenset[ServiceKey] = frozenset()
