"""How a router chooses an engine for a request. `engines` is the same list until the engines or weights change."""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection, Sequence
from typing import Protocol

from shoal.sim.fleet_parts import SimEngine
from shoal.sim.scenario import Routing

LARGEST_WEIGHT = 1000  # weights are whole numbers up to this, as the router is told
REPICKS = 10  # times that a retry is drawn again when it meets an engine that has refused already


class Balancer(Protocol):
    """Chooses one of at least one engine."""

    def pick(self, engines: Sequence[SimEngine]) -> SimEngine:
        """The engine for the next request."""
        ...


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._next = 0

    def pick(self, engines: Sequence[SimEngine]) -> SimEngine:
        """The next in turn."""
        self._next += 1
        return engines[(self._next - 1) % len(engines)]


class LeastRequest:
    """Weighted least request, as Envoy does it.

    With equal weights the one of two engines, drawn with replacement, that has fewer requests. Otherwise a schedule of
    earliest deadlines: an engine's turn comes again after (active + 1) / weight, taken when it is picked.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(f"router {seed}")
        self._known: Sequence[SimEngine] | None = None
        self._weights: dict[SimEngine, int] = {}
        self._equal = True
        self._turns: list[tuple[float, int, SimEngine]] = []
        self._counter = 0

    def pick(self, engines: Sequence[SimEngine]) -> SimEngine:
        """The engine for the next request."""
        if engines is not self._known:
            self._learn(engines)
        if self._equal:
            one, other = (engines[int(self._random.random() * len(engines))] for _ in range(2))
            return other if other.active < one.active else one
        return self._pick_by_deadline()

    def _learn(self, engines: Sequence[SimEngine]) -> None:
        top = max(engine.weight for engine in engines)
        self._known = engines
        self._weights = {e: max(1, round(LARGEST_WEIGHT * e.weight / top)) if top > 0 else 1 for e in engines}
        self._equal = len(set(self._weights.values())) == 1
        self._turns, self._counter = [], 0
        if not self._equal:
            for engine in engines:
                self._schedule(engine, 0.0)
            for _ in range(self._random.randrange(len(engines))):
                self._pick_by_deadline()

    def _pick_by_deadline(self) -> SimEngine:
        now, _, engine = heapq.heappop(self._turns)
        self._schedule(engine, now)
        return engine

    def _schedule(self, engine: SimEngine, now: float) -> None:
        self._counter += 1
        heapq.heappush(self._turns, (now + (engine.active + 1) / self._weights[engine], self._counter, engine))


def make_balancer(routing: Routing, seed: str) -> Balancer:
    """A balancer for one service."""
    return RoundRobin() if routing is Routing.ROUND_ROBIN else LeastRequest(seed)


def pick_another(balancer: Balancer, engines: Sequence[SimEngine], refused: Collection[SimEngine]) -> SimEngine:
    """An engine for a retry: drawn again, up to a limit, while it meets one that has refused."""
    engine = balancer.pick(engines)
    for _ in range(REPICKS):
        if engine not in refused:
            break
        engine = balancer.pick(engines)
    return engine
