"""Requests that nobody sends: Poisson arrivals of each service, shared out to its engines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

Key = tuple[str, str]  # namespace and name of a ModelService
EngineId = tuple[str, int]  # UID of the pod, index of the engine


@dataclass(slots=True)
class ServiceTraffic:
    """Arrivals of one service since `at` (seconds of any steady clock) at `rate` requests per second."""

    rate: float
    at: float
    source: np.random.Generator
    arrived: int = 0
    engines: dict[EngineId, int] = field(default_factory=dict)  # requests each engine has finished
    _turn: int = 0

    def advance(self, now: float) -> None:
        """Let requests arrive until `now`; those that find no engine are refused by the router."""
        arrivals = int(self.source.poisson(self.rate * max(0.0, now - self.at)))
        self.at = max(self.at, now)
        self.arrived += arrivals
        if not self.engines:
            return
        each, rest = divmod(arrivals, len(self.engines))
        for place, engine in enumerate(self.engines):
            self.engines[engine] += each + ((place - self._turn) % len(self.engines) < rest)
        self._turn += rest

    @property
    def engine_rate(self) -> float:
        """Requests per second of one engine."""
        return self.rate / len(self.engines) if self.engines else 0.0


class Traffic:
    """All services. `default_rate` is that of a service nobody has named."""

    def __init__(self, default_rate: float, seed: int) -> None:
        self._default_rate = default_rate
        self._seeds = np.random.SeedSequence(seed)
        self._services: dict[Key, ServiceTraffic] = {}

    def service(self, key: Key, now: float) -> ServiceTraffic:
        """The traffic of a service as of `now`."""
        found = self._services.get(key)
        if found is None:
            source = np.random.default_rng(self._seeds.spawn(1)[0])
            found = self._services[key] = ServiceTraffic(self._default_rate, now, source)
        found.advance(now)
        return found

    def set_rate(self, key: Key, rate: float, now: float) -> None:
        """Change a service's rate from `now` on."""
        self.service(key, now).rate = rate

    def add_engine(self, key: Key, engine: EngineId, now: float) -> None:
        """Give a service one more engine; it starts to count at zero."""
        self.service(key, now).engines[engine] = 0

    def remove_engine(self, key: Key, engine: EngineId, now: float) -> None:
        """Take an engine away, if it is there."""
        self.service(key, now).engines.pop(engine, None)

    def of_namespace(self, namespace: str, now: float) -> Iterable[tuple[str, ServiceTraffic]]:
        """Names and traffic of the services of one namespace."""
        for key in sorted(key for key in self._services if key[0] == namespace):
            yield key[1], self.service(key, now)
