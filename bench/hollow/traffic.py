"""Requests that nobody sends: Poisson arrivals of each service, shared out to its routers and engines."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np

Key = tuple[str, str]  # namespace and name of a ModelService
EngineId = tuple[str, int]  # UID of the pod, index of the engine


@dataclass(slots=True)
class Shares:
    """Counters that take equal parts of what arrives, and never fall."""

    counts: dict[Hashable, int] = field(default_factory=dict)
    _turn: int = 0

    def take(self, arrivals: int) -> None:
        """Share out; without anybody to take them they are lost."""
        if not self.counts:
            return
        each, rest = divmod(arrivals, len(self.counts))
        for place, name in enumerate(self.counts):
            self.counts[name] += each + ((place - self._turn) % len(self.counts) < rest)
        self._turn += rest


@dataclass(slots=True)
class ServiceTraffic:
    """Arrivals of one service up to `at` (seconds of any steady clock) at `rate` requests per second."""

    rate: float
    at: float
    source: np.random.Generator
    arrived: int = 0
    routers: Shares = field(default_factory=Shares)  # by pod: requests received
    engines: Shares = field(default_factory=Shares)  # by EngineId: requests finished

    def advance(self, now: float) -> None:
        """Let requests arrive until `now`; those that find no engine are refused by the router."""
        arrivals = int(self.source.poisson(self.rate * max(0.0, now - self.at)))
        self.at = max(self.at, now)
        self.arrived += arrivals
        self.routers.take(arrivals)
        self.engines.take(arrivals)

    @property
    def engine_rate(self) -> float:
        """Requests per second of one engine."""
        return self.rate / max(1, len(self.engines.counts))


class Traffic:
    """All services. `default_rate` is that of a service nobody has named."""

    def __init__(self, default_rate: float, seed: int) -> None:
        self._default_rate = default_rate
        self._seeds = np.random.SeedSequence(seed)
        self._services: dict[Key, ServiceTraffic] = {}
        self._routers: dict[str, set[str]] = {}  # namespace -> pods

    def service(self, key: Key, now: float) -> ServiceTraffic:
        """The traffic of a service as of `now`."""
        found = self._services.get(key)
        if found is None:
            source = np.random.default_rng(self._seeds.spawn(1)[0])
            found = self._services[key] = ServiceTraffic(self._default_rate, now, source)
            found.routers.counts.update(dict.fromkeys(self._routers.get(key[0], ()), 0))
        found.advance(now)
        return found

    def set_rate(self, key: Key, rate: float, now: float) -> None:
        """Change a service's rate from `now` on."""
        self.service(key, now).rate = rate

    def add_engine(self, key: Key, engine: EngineId, now: float) -> None:
        """Give a service one more engine; it starts to count at zero."""
        self.service(key, now).engines.counts[engine] = 0

    def remove_engine(self, key: Key, engine: EngineId, now: float) -> None:
        """Take an engine away, if it is there."""
        self.service(key, now).engines.counts.pop(engine, None)

    def add_router(self, namespace: str, pod: str, now: float) -> None:
        """Give a namespace one more router; it starts to count at zero."""
        self._routers.setdefault(namespace, set()).add(pod)
        for _, service in self._of_namespace(namespace, now):
            service.routers.counts[pod] = 0

    def remove_router(self, namespace: str, pod: str, now: float) -> None:
        """Take a router away, if it is there."""
        self._routers.get(namespace, set()).discard(pod)
        for _, service in self._of_namespace(namespace, now):
            service.routers.counts.pop(pod, None)

    def received(self, namespace: str, pod: str, now: float) -> dict[str, int]:
        """What a router has received for each service of its namespace."""
        return {name: service.routers.counts.get(pod, 0) for name, service in self._of_namespace(namespace, now)}

    def _of_namespace(self, namespace: str, now: float) -> Iterable[tuple[str, ServiceTraffic]]:
        for key in sorted(key for key in self._services if key[0] == namespace):
            yield key[1], self.service(key, now)
