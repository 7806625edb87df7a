"""Just enough of Prometheus' text format to answer as vLLM does."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

Labels = Mapping[str, str]


class Histogram:
    """Cumulative buckets, as Prometheus' own client keeps them."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = tuple(edges)
        self._counts = [0] * (len(edges) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or `times` equal ones."""
        self._counts[bisect_left(self._edges, value)] += times
        self.total += value * times

    def buckets(self) -> Iterable[tuple[float, int]]:
        """(upper edge, observations up to it), the last edge infinite."""
        below = 0
        for edge, count in zip((*self._edges, math.inf), self._counts, strict=True):
            below += count
            yield edge, below


class Page:
    """Collects metric families and writes them."""

    def __init__(self, created_at: float) -> None:
        self._created = format_number(created_at)
        self._lines: list[str] = []

    def gauge(self, name: str, about: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """A value that rises and falls."""
        self._head(name, about, "gauge")
        self._lines += [_sample(name, labels, value) for labels, value in samples]

    def counter(self, name: str, about: str, samples: Sequence[tuple[Labels, float]]) -> None:
        """A value that only rises; `name` is without `_total`."""
        self._head(f"{name}_total", about, "counter")
        self._lines += [_sample(f"{name}_total", labels, value) for labels, value in samples]
        self._head(f"{name}_created", about, "gauge")
        self._lines += [f"{name}_created{_render(labels)} {self._created}" for labels, _ in samples]

    def histogram(self, name: str, about: str, labels: Labels, histogram: Histogram) -> None:
        """A distribution."""
        self._head(name, about, "histogram")
        for edge, count in histogram.buckets():
            self._lines.append(_sample(f"{name}_bucket", {**labels, "le": format_number(edge)}, count))
        self._lines.append(_sample(f"{name}_count", labels, histogram.count))
        self._lines.append(_sample(f"{name}_sum", labels, histogram.total))
        self._head(f"{name}_created", about, "gauge")
        self._lines.append(f"{name}_created{_render(labels)} {self._created}")

    def text(self) -> str:
        """The whole page."""
        return "\n".join(self._lines) + "\n"

    def _head(self, name: str, about: str, kind: str) -> None:
        self._lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def format_number(value: float) -> str:
    """As Go writes floats, which Prometheus' Python client imitates: `1.0`, `2.5e+06`, `+Inf`, `NaN`."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    text = repr(float(value))
    whole = text.find(".")
    if value > 0 and whole > 6:
        digits = f"{text[0]}.{text[1:whole]}{text[whole + 1 :]}".rstrip("0.")
        return f"{digits}e+{whole - 1:02d}"
    return text


def _sample(name: str, labels: Labels, value: float) -> str:
    return f"{name}{_render(labels)} {format_number(value)}"


def _render(labels: Labels) -> str:
    return "{" + ",".join(f'{key}="{_escape(labels[key])}"' for key in sorted(labels)) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
