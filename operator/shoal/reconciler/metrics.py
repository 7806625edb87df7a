"""The operator's own numbers for Prometheus, read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.reconciler.clock import steady
from shoal.reconciler.cluster import Cluster
from shoal.reconciler.inventory import count_orphans
from shoal.reconciler.leader import Guard
from shoal.reconciler.planloop import PlanLoop
from shoal.reconciler.resync import Resync
from shoal.reconciler.store import Store
from shoal.reconciler.watch import Watcher
from shoal.reconciler.workqueue import WorkQueue

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


def make_numbers(
    *,
    guard: Guard,
    queue: WorkQueue[Any],
    plans: PlanLoop,
    cluster: Cluster,
    watcher: Watcher,
    resync: Resync,
    store: Store,
) -> tuple[Number, ...]:
    """Everything about the operator itself; a number that is not known yet is NaN."""
    return (
        Number("shoal_leader", "1 while this replica holds the lease.", lambda: float(guard.is_leader)),
        Number("shoal_writes_total", "Requests that change objects.", lambda: cluster.writes),
        *_queue_numbers(queue),
        Number("shoal_plan_rounds_total", "Planning rounds.", lambda: plans.rounds),
        Number("shoal_plan_failures_total", "Rounds or groups that could not be decided.", lambda: plans.failures),
        Number("shoal_plan_round_seconds", "How long the last round took.", lambda: plans.round_seconds),
        Number("shoal_events_total", "Events that the watches brought.", lambda: watcher.events),
        Number("shoal_watch_restarts_total", "Times the watches were started again.", lambda: watcher.restarts),
        Number("shoal_list_failures_total", "LISTs that failed.", lambda: resync.failures),
        Number(
            "shoal_list_age_seconds",
            "Time since everything was listed.",
            lambda: math.nan if resync.listed_at is None else steady() - resync.listed_at,
        ),
        Number("shoal_orphan_claims", "Claims of engine pods that are gone.", lambda: count_orphans(store)),
    )


def _queue_numbers(queue: WorkQueue[Any]) -> tuple[Number, ...]:
    stats = queue.stats
    return (
        Number("shoal_queue_depth", "Keys that wait for a worker.", lambda: queue.depth),
        Number("shoal_queue_oldest_seconds", "How long the first of them has waited.", lambda: queue.oldest_wait),
        Number("shoal_queue_handled_total", "Keys that were worked on.", lambda: stats.handled),
        Number("shoal_queue_failed_total", "Of these, failures that come again.", lambda: stats.failed),
        Number("shoal_queue_wait_seconds_total", "Waits of all keys.", lambda: stats.latency_seconds),
        Number("shoal_queue_work_seconds_total", "Work on all keys.", lambda: stats.work_seconds),
    )
