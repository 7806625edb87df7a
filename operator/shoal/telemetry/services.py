"""Everything telemetry knows of one ModelService."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping

from shoal.domain.service import Load, Tick
from shoal.telemetry.arrivals import ArrivalSeries, Growth
from shoal.telemetry.engines import EngineGrowth
from shoal.telemetry.envoy_stats import ClusterCounters
from shoal.telemetry.latencies import LATENCY_SECONDS, LatencyWindow, LengthHistory

KEPT_SECONDS = 1800.0


class ServiceTracker:
    """Follows one service through its engines' and routers' answers.

    Arrivals come from the routers where the service is `routed` by Envoy, else from its engines. A change of that
    starts the ticks anew: the two count different things. `ticks_per_interval`: how often who counts is read in a
    planning interval.
    """

    def __init__(self, *, routed: bool, tick_seconds: float, ticks_per_interval: int = 1) -> None:
        self.routed = routed
        self.tick_seconds = tick_seconds
        self._ticks_per_interval = ticks_per_interval
        self._arrivals = ArrivalSeries(keep=int(KEPT_SECONDS / tick_seconds))
        self._latency = LatencyWindow()
        self._lengths = LengthHistory()
        self._routers: dict[str, ClusterCounters] = {}
        self._outcomes: deque[tuple[float, ClusterCounters]] = deque()

    def record_engines(self, growths: Mapping[str, EngineGrowth]) -> dict[str, Growth]:
        """Take in what the engines did; returns what it says of arrivals."""
        for growth in growths.values():
            self._latency.record(growth.at, growth.histograms)
            self._lengths.record(growth.at, growth.histograms)
        return {
            engine: Growth(self._tick(growth.at), growth.arrived)
            for engine, growth in growths.items()
            if growth.counted
        }

    def record_routers(self, counters: Mapping[str, ClusterCounters], now: float) -> dict[str, Growth]:
        """Take in what the routers that know the service have counted; returns what it says of arrivals."""
        growths = {}
        for router, after in counters.items():
            before, self._routers[router] = self._routers.get(router), after
            grown = None if before is None else after.since(before)
            growths[router] = Growth(self._tick(now), None if grown is None else max(grown.arrived, 0.0))
            if grown is not None:
                self._outcomes.append((now, grown))
        while self._outcomes and self._outcomes[0][0] <= now - LATENCY_SECONDS:
            self._outcomes.popleft()
        return growths

    def record_arrivals(self, now: float, growths: Mapping[str, Growth], expected: Collection[str]) -> None:
        """Close a round: who counted, and who should have."""
        self._arrivals.record(self._tick(now), growths, expected)

    def forget_routers(self, kept: Iterable[str]) -> None:
        """Drop what is known of routers that are gone."""
        names = set(kept)
        self._routers = {name: counters for name, counters in self._routers.items() if name in names}

    def outcomes(self) -> ClusterCounters | None:
        """What became of requests at the routers in the last minute; None when no router told."""
        if not self._outcomes:
            return None
        total = ClusterCounters(0.0, 0.0, 0.0, 0.0)
        for _, grown in self._outcomes:
            total = total.plus(grown)
        return total

    def last_tick(self) -> Tick | None:
        """Arrivals of the last tick that any source counted through."""
        return self._arrivals.last()

    def load(self, now: float, fresh_fraction: float) -> Load:
        """As the planner sees it."""
        return Load(
            ticks=self._arrivals.ticks(),
            tick_seconds=self.tick_seconds,
            ticks_to_settle=self._ticks_per_interval,
            fresh_fraction=fresh_fraction,
            lengths=self._lengths.mix(),
            lengths_requests=self._lengths.requests,
            ttft_mean_ms=self._latency.mean_ms("ttft", now),
            itl_mean_ms=self._latency.mean_ms("itl", now),
        )

    def _tick(self, at: float) -> int:
        return int(at // self.tick_seconds)
