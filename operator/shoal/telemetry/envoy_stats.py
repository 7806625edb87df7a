"""What a router counted for each of its clusters, which are the ModelServices of its namespace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shoal.telemetry.scan import find_label, label_pattern, scan

_COUNTERS: Final = "rq_total|rq_retry|rq_pending_failure_eject|cx_none_healthy|rq_5xx|rq_429"
QUERY: Final = {"filter": rf"^cluster\..*\.upstream_({_COUNTERS})$"}
"""Parameters of `GET /stats/prometheus`: the page then has a few lines per cluster instead of some hundred."""

_CLUSTER: Final = label_pattern("envoy_cluster_name")
_CODE: Final = label_pattern("envoy_response_code")
_CLASS: Final = label_pattern("envoy_response_code_class")

_SENT = b"envoy_cluster_upstream_rq_total"
_UNREACHABLE = b"envoy_cluster_upstream_rq_pending_failure_eject"
_NO_ENGINE = b"envoy_cluster_upstream_cx_none_healthy"
_RETRIES = b"envoy_cluster_upstream_rq_retry"
_BY_CODE = b"envoy_cluster_upstream_rq"
_BY_CLASS = b"envoy_cluster_upstream_rq_xx"
_ALWAYS: Final = (_SENT, _UNREACHABLE, _NO_ENGINE, _RETRIES)
_WANTED: Final = frozenset((*_ALWAYS, _BY_CODE, _BY_CLASS))


@dataclass(frozen=True, slots=True)
class ClusterCounters:
    """Requests of one service at one router since that router knows the service.

    `sent` tries that reached an engine, `unreachable` tries that found no connection, `no_engine` tries that found no
    engine to choose, `retries` tries after the first; `failed` answers of class 5xx and `refused` answers 429 that
    reached a client.
    """

    sent: float
    unreachable: float
    no_engine: float
    retries: float
    failed: float = 0.0
    refused: float = 0.0

    @property
    def arrived(self) -> float:
        """Requests that clients sent: every try that is not a retry, whatever became of it.

        Tried against Envoy 1.40 with retries, refused connections and no engine: equal to the requests sent, and
        counted when they come, not when they are answered.
        """
        return self.sent + self.unreachable + self.no_engine - self.retries

    def since(self, earlier: ClusterCounters) -> ClusterCounters:
        """What was counted after `earlier`; after a restart of the router, what it has counted since."""
        pairs = [(getattr(self, name), getattr(earlier, name)) for name in self.__slots__]
        if any(now < before for now, before in pairs):
            return self
        return ClusterCounters(*(now - before for now, before in pairs))

    def plus(self, other: ClusterCounters) -> ClusterCounters:
        """Both together."""
        return ClusterCounters(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


def parse_stats_page(page: bytes) -> dict[str, ClusterCounters]:
    """Counters by cluster. A cluster of which a counter is missing or no number is left out: unknown, not zero."""
    found: dict[str, dict[str, float | None]] = {}
    for name, labels, value in scan(page, _WANTED):
        cluster, key = find_label(labels, _CLUSTER), _find_field(name, labels)
        if cluster is not None and key is not None:
            found.setdefault(cluster.decode(), {})[key] = value
    return {cluster: counters for cluster, fields in found.items() if (counters := _make_counters(fields))}


def _find_field(name: bytes, labels: bytes) -> str | None:
    if name == _BY_CODE:
        return "refused" if find_label(labels, _CODE) == b"429" else None
    if name == _BY_CLASS:
        return "failed" if find_label(labels, _CLASS) == b"5" else None
    return dict(zip(_ALWAYS, ("sent", "unreachable", "no_engine", "retries"), strict=True))[name]


def _make_counters(fields: dict[str, float | None]) -> ClusterCounters | None:
    known = {name: value for name, value in fields.items() if value is not None}
    required = {"sent", "unreachable", "no_engine", "retries"}
    if len(known) < len(fields) or not required <= known.keys():
        return None
    return ClusterCounters(**known)
