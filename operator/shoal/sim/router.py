"""Weighted least request, as Envoy balances: of two engines drawn at random the one with less work for its weight."""

from __future__ import annotations

import random
from collections.abc import Sequence

from shoal.sim.fleet import SimEngine


class Router:
    """Chooses engines for requests. `seed` fixes its draws."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"router {seed}")

    def order(self, engines: Sequence[SimEngine]) -> list[SimEngine]:
        """The engine to try first, then those to retry on when it refuses."""
        if len(engines) < 2:
            return list(engines)
        drawn = self._random.sample(engines, 2)
        first = min(drawn, key=load)
        return [first, *sorted((engine for engine in engines if engine is not first), key=load)]


def load(engine: SimEngine) -> float:
    """Requests an engine would have for its weight if it got one more."""
    return (engine.active + 1) / max(engine.weight, 1e-3)
