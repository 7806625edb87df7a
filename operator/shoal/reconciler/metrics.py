"""The operator's own numbers for Prometheus, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Read = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Number:
    """One number without labels. A counter's name ends in `_total`."""

    name: str
    about: str
    read: Read

    def make(self) -> Metric:
        """As the registry wants it."""
        family = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        return family(self.name, self.about, value=self.read())


class OwnMetrics(Collector):
    """Register it with a registry."""

    def __init__(self, numbers: Sequence[Number]) -> None:
        self._numbers = tuple(numbers)

    def collect(self) -> Iterable[Metric]:
        """Every number as it is now."""
        return [number.make() for number in self._numbers]
