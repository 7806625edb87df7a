"""What the collector knows, as metrics: the live numbers that statuses are too slow for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as MetricCollector

from shoal.domain.service import Load, ServiceKey
from shoal.telemetry.collector import Collector

RATE_TICKS: Final = 12


def compute_rate(load: Load) -> float | None:
    """Requests per second over the last complete ticks of about a minute; None when nothing is known."""
    counts = [tick.count for tick in load.ticks[-RATE_TICKS:] if tick.complete]
    return sum(counts) / (len(counts) * load.tick_seconds) if counts else None


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000.0


_GAUGES: Final[tuple[tuple[str, str, Callable[[Load], float | None]], ...]] = (
    ("shoal_service_requests_per_second", "Arrivals over the last minute.", compute_rate),
    (
        "shoal_service_fresh_ratio",
        "Share of engines and routers that were read lately.",
        lambda load: load.fresh_fraction,
    ),
    ("shoal_service_ttft_mean_seconds", "Mean TTFT over the last minute.", lambda load: _seconds(load.ttft_mean_ms)),
    ("shoal_service_itl_mean_seconds", "Mean ITL over the last minute.", lambda load: _seconds(load.itl_mean_ms)),
)


class TrafficMetrics(MetricCollector):
    """Register it with a registry; it reads the collector whenever that is scraped."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        """A gauge for each number of each service; what is not known is not there."""
        loads = {service: self._collector.load_of(service) for service in self._collector.services}
        for name, about, get in _GAUGES:
            family = GaugeMetricFamily(name, about, labels=("namespace", "service"))
            for service, load in loads.items():
                value = get(load)
                if value is not None:
                    family.add_metric([service.namespace, service.name], value)
            yield family
        yield from self._outcomes(loads)
        rounds = GaugeMetricFamily("shoal_telemetry_round_seconds", "How long the last round of reads took.")
        rounds.add_metric([], self._collector.round_seconds)
        yield rounds
        up = GaugeMetricFamily("shoal_telemetry_up", "0: the metrics source as a whole does not answer.")
        up.add_metric([], float(self._collector.problem is None))
        yield up

    def _outcomes(self, services: Iterable[ServiceKey]) -> Iterable[Metric]:
        """What routers answered with an error in the last minute."""
        family = GaugeMetricFamily(
            "shoal_service_errors", "Answers of the last minute by class.", labels=("namespace", "service", "code")
        )
        for service in services:
            outcomes = self._collector.outcomes_of(service)
            if outcomes is not None:
                family.add_metric([service.namespace, service.name, "5xx"], outcomes.failed)
                family.add_metric([service.namespace, service.name, "429"], outcomes.refused)
        yield family
