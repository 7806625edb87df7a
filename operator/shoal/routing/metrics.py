"""What the ADS server does, as metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.routing.ads import AdsServer


class AdsMetrics(Collector):
    """Register it with a registry; it asks the server whenever that is scraped."""

    def __init__(self, server: AdsServer) -> None:
        self._server = server

    def collect(self) -> Iterable[Metric]:
        """Routers by namespace, and what was sent and refused."""
        stats = self._server.stats
        routers = GaugeMetricFamily("shoal_xds_routers", "Routers that are connected.", labels=("namespace",))
        current = GaugeMetricFamily("shoal_xds_routers_current", "Those that have it all.", labels=("namespace",))
        for namespace, number in stats.streams.items():
            routers.add_metric([namespace], number)
            current.add_metric([namespace], stats.current.get(namespace, 0))
        yield from (routers, current)
        yield CounterMetricFamily("shoal_xds_responses", "Messages sent to routers.", value=stats.responses)
        yield CounterMetricFamily("shoal_xds_rejections", "Messages that routers refused.", value=stats.rejections)
