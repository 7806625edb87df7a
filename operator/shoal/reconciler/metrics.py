"""The operator's own numbers for Prometheus, read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.domain.configuration import Placement
from shoal.reconciler.clock import steady
from shoal.reconciler.cluster import Cluster
from shoal.reconciler.inventory import count_orphans
from shoal.reconciler.kinds import PROFILE_RUN
from shoal.reconciler.leader import Guard
from shoal.reconciler.planloop import PlanLoop
from shoal.reconciler.resync import Resync
from shoal.reconciler.run_room import count_profiling
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


class ResidualMetrics(Collector):
    """Predicted beside observed latencies of every configuration that runs; what was not told is not there."""

    def __init__(self, plans: PlanLoop) -> None:
        self._plans = plans

    def collect(self) -> Iterable[Metric]:
        """As of the last plans."""
        labels = ("namespace", "service", "pool", "configuration")
        ratio = GaugeMetricFamily("shoal_residual_time_ratio", "Times slower than predicted.", labels=labels)
        credited = GaugeMetricFamily("shoal_credited_requests_per_second", "Vouched for per engine.", labels=labels)
        predicted, observed = (
            GaugeMetricFamily(name, about, labels=(*labels, "latency"))
            for name, about in (
                ("shoal_predicted_latency_seconds", "Mean predicted for the rate of the last minute."),
                ("shoal_observed_latency_seconds", "Mean of the last minute."),
            )
        )
        for key, planned in self._plans.plans.items():
            if planned.decision is None:
                continue
            for variant in planned.decision.plan.variants:
                _add(credited, [key.namespace, key.name, *_words(variant.placement)], variant.capacity.credited)
            for residual in planned.decision.explanation.residuals:
                values, sample = [key.namespace, key.name, *_words(residual.placement)], residual.sample
                _add(ratio, values, residual.time_ratio)
                _add(predicted, [*values, "ttft"], residual.predicted_ttft_ms, 1e-3)
                _add(predicted, [*values, "itl"], residual.predicted_itl_ms, 1e-3)
                _add(observed, [*values, "ttft"], sample.ttft_mean_ms, 1e-3)
                _add(observed, [*values, "itl"], sample.itl_mean_ms, 1e-3)
        return ratio, credited, predicted, observed


def _words(placement: Placement) -> tuple[str, str]:
    return placement.pool, placement.configuration.shape


def _add(family: GaugeMetricFamily, labels: Sequence[str], value: float | None, factor: float = 1.0) -> None:
    if value is not None:
        family.add_metric(labels, value * factor)


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
        Number("shoal_plan_cost_per_hour", "Price of all targets, with moves.", lambda: plans.quality.cost),
        Number("shoal_plan_bound_per_hour", "No choice of targets costs less.", lambda: plans.quality.bound),
        Number("shoal_plan_gap_ratio", "Share that could be saved at most.", lambda: plans.quality.gap),
        Number("shoal_events_total", "Events that the watches brought.", lambda: watcher.events),
        Number("shoal_watch_restarts_total", "Times the watches were started again.", lambda: watcher.restarts),
        Number("shoal_list_failures_total", "LISTs that failed.", lambda: resync.failures),
        Number(
            "shoal_list_age_seconds",
            "Time since everything was listed.",
            lambda: math.nan if resync.listed_at is None else steady() - resync.listed_at,
        ),
        Number("shoal_orphan_claims", "Claims of engine pods that are gone.", lambda: count_orphans(store)),
        Number("shoal_profile_runs", "ProfileRuns.", lambda: store.count(PROFILE_RUN)),
        Number(
            "shoal_profile_run_gpus",
            "GPUs that Jobs of ProfileRuns hold or wait for.",
            lambda: sum(gpus.total() for gpus in count_profiling(store).values()),
        ),
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
