"""What one read of an engine tells, whichever version of vLLM it is and whoever carried the numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from shoal.telemetry.scan import find_label, label_pattern, scan

VALUES: Final = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "finished": ("vllm:request_success_total",),
}
"""Field -> metric names, newest first: an engine that has several is read by the first."""

HISTOGRAMS: Final = {
    "ttft": ("vllm:time_to_first_token_seconds",),
    # The objective is about each request's mean gap; engines before that metric offer the gaps themselves.
    "itl": (
        "vllm:request_time_per_output_token_seconds",
        "vllm:time_per_output_token_seconds",
        "vllm:inter_token_latency_seconds",
    ),
    "input": ("vllm:request_prompt_tokens",),
    "output": ("vllm:request_generation_tokens",),
}
WITH_BUCKETS: Final = ("input", "output")

_LARGEST: Final = frozenset(VALUES["kv_usage"])  # of an engine's ranks; everything else is summed over them
_LE: Final = label_pattern("le")


@dataclass(frozen=True, slots=True)
class Histogram:
    """A cumulative histogram, or what it grew by. `buckets`: upper edge -> observations up to it."""

    total: float = 0.0
    count: float = 0.0
    buckets: dict[float, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean of the observations; None without any."""
        return self.total / self.count if self.count > 0 else None

    def since(self, earlier: Histogram) -> Histogram:
        """What was observed after `earlier`; after a restart of the engine, what it has observed since."""
        if self.count < earlier.count or self.total < earlier.total:
            return self
        buckets = {edge: max(n - earlier.buckets.get(edge, 0.0), 0.0) for edge, n in self.buckets.items()}
        return Histogram(self.total - earlier.total, self.count - earlier.count, buckets)

    def plus(self, other: Histogram, factor: float = 1.0) -> Histogram:
        """Both together, this one's observations counted `factor` times."""
        edges = self.buckets.keys() | other.buckets.keys()
        buckets = {edge: self.buckets.get(edge, 0.0) * factor + other.buckets.get(edge, 0.0) for edge in edges}
        return Histogram(self.total * factor + other.total, self.count * factor + other.count, buckets)


@dataclass(frozen=True, slots=True)
class EnginePage:
    """One read. None: not there, or not a number; that is unknown, never zero.

    `running`, `waiting`, `finished` count requests, `kv_usage` is a share, histograms are in seconds or tokens.
    """

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    finished: float | None = None
    ttft: Histogram | None = None
    itl: Histogram | None = None
    input: Histogram | None = None
    output: Histogram | None = None


class PageBuilder:
    """Collects samples of one engine, in any order. One bad sample makes its metric unknown: a part is not the sum."""

    def __init__(self) -> None:
        self._values: dict[str, float | None] = {}
        self._buckets: dict[str, dict[float, float | None]] = {}

    def add(self, name: str, le: float | None, value: float | None) -> None:
        """Take in a sample by its full name (`..._sum`); `le` is the edge of a bucket."""
        if le is not None:
            buckets = self._buckets.setdefault(name, {})
            buckets[le] = _add(buckets.get(le, 0.0), value)
        elif name in _LARGEST:
            before = self._values.get(name, 0.0)
            self._values[name] = None if before is None or value is None else max(before, value)
        else:
            self._values[name] = _add(self._values.get(name, 0.0), value)

    def build(self) -> EnginePage:
        """The page."""
        return EnginePage(
            running=self._first_value(VALUES["running"]),
            waiting=self._first_value(VALUES["waiting"]),
            kv_usage=self._first_value(VALUES["kv_usage"]),
            finished=self._first_value(VALUES["finished"]),
            ttft=self._first_histogram(HISTOGRAMS["ttft"]),
            itl=self._first_histogram(HISTOGRAMS["itl"]),
            input=self._first_histogram(HISTOGRAMS["input"]),
            output=self._first_histogram(HISTOGRAMS["output"]),
        )

    def _first_value(self, aliases: tuple[str, ...]) -> float | None:
        return next((self._values[name] for name in aliases if name in self._values), None)

    def _first_histogram(self, aliases: tuple[str, ...]) -> Histogram | None:
        name = next((name for name in aliases if f"{name}_count" in self._values), None)
        if name is None:
            return None
        total, count = self._values.get(f"{name}_sum"), self._values[f"{name}_count"]
        buckets = self._buckets.get(f"{name}_bucket", {})
        known = {edge: n for edge, n in buckets.items() if n is not None}
        if total is None or count is None or len(known) < len(buckets):
            return None
        return Histogram(total, count, known)


def _add(before: float | None, value: float | None) -> float | None:
    return None if before is None or value is None else before + value


def parse_edge(text: bytes) -> float | None:
    """A bucket's upper edge; +Inf is one."""
    try:
        edge = float(text)
    except ValueError:
        return None
    return None if math.isnan(edge) else edge


def parse_engine_page(page: bytes) -> EnginePage:
    """Read a `/metrics` page of vLLM."""
    builder = PageBuilder()
    for name, labels, value in scan(page, _WANTED):
        le = None
        if name in _BUCKETS:
            edge = find_label(labels, _LE)
            le = None if edge is None else parse_edge(edge)
            if le is None:
                continue
        builder.add(_WANTED[name], le, value)
    return builder.build()


def metric_names() -> tuple[str, ...]:
    """Full names of all samples that `PageBuilder` knows."""
    values = [name for aliases in VALUES.values() for name in aliases]
    for field_name, aliases in HISTOGRAMS.items():
        suffixes = ("_sum", "_count", "_bucket") if field_name in WITH_BUCKETS else ("_sum", "_count")
        values += [alias + suffix for alias in aliases for suffix in suffixes]
    return tuple(values)


_WANTED: Final = {name.encode(): name for name in metric_names()}
_BUCKETS: Final = frozenset(name for name in _WANTED if name.endswith(b"_bucket"))
