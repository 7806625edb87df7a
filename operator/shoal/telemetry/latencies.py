"""Live latencies and request lengths of one service, from what its engines' histograms grew by."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final

from shoal.domain.profile import LengthMix
from shoal.telemetry.engine_page import Histogram

LATENCY_SECONDS: Final = 60.0
"""Latencies are the means of so long: short enough to see a step, long enough to be a mean."""

LENGTHS_SECONDS: Final = 300.0
"""Time constant with which old requests fade from the length mix, which changes slowly and sets the capacity."""

FEWEST_REQUESTS: Final = 20.0
"""Of fewer requests (faded ones counting less) a percentile cannot be told: the declared mix counts instead."""


class LatencyWindow:
    """Mean TTFT and ITL of the last minute, in milliseconds."""

    def __init__(self) -> None:
        self._growths: deque[tuple[float, Mapping[str, Histogram]]] = deque()

    def record(self, at: float, growth: Mapping[str, Histogram]) -> None:
        """Take in what one engine's histograms grew by (seconds)."""
        slim = {name: Histogram(growth[name].total, growth[name].count) for name in ("ttft", "itl") if name in growth}
        if any(histogram.count for histogram in slim.values()):
            self._growths.append((at, slim))

    def mean_ms(self, name: str, now: float) -> float | None:
        """Mean over the requests that told in the window; None without any."""
        while self._growths and self._growths[0][0] <= now - LATENCY_SECONDS:
            self._growths.popleft()
        parts = [growth[name] for _, growth in self._growths if name in growth]
        count = sum(part.count for part in parts)
        return 1000.0 * sum(part.total for part in parts) / count if count > 0 else None


class LengthHistory:
    """Request lengths, newer ones counting more."""

    def __init__(self) -> None:
        self._input = Histogram()
        self._output = Histogram()
        self._at: float | None = None

    def record(self, at: float, growth: Mapping[str, Histogram]) -> None:
        """Take in what one engine's histograms grew by (tokens); only both together, or the mix would be lopsided."""
        if "input" not in growth or "output" not in growth or not growth["input"].count:
            return
        now = at if self._at is None else max(at, self._at)
        factor = math.exp(((self._at or now) - now) / LENGTHS_SECONDS)
        self._at = now
        self._input = self._input.plus(growth["input"], factor)
        self._output = self._output.plus(growth["output"], factor)

    @property
    def requests(self) -> float:
        """Requests the mix rests on; faded ones count less."""
        return min(self._input.count, self._output.count)

    def mix(self) -> LengthMix | None:
        """The mix; None until enough requests were seen."""
        inputs, outputs = self._input.mean, self._output.mean
        if inputs is None or outputs is None or self.requests < FEWEST_REQUESTS:
            return None
        return LengthMix(inputs, outputs, find_p95(self._input), find_p95(self._output))


def find_p95(histogram: Histogram) -> float:
    """The 95th percentile, by straight lines inside buckets as Prometheus has it.

    Twice the mean where its bucket has no upper edge or there are no buckets, but never below the last finite edge
    that it is known to exceed.
    """
    wanted = 0.95 * histogram.count
    last, below = 0.0, 0.0
    for edge, count in sorted(histogram.buckets.items()):
        if math.isinf(edge):
            break
        if count >= wanted:
            return last + (edge - last) * (wanted - below) / max(count - below, 1e-9)
        last, below = edge, count
    return max(last, 2 * (histogram.mean or 0.0))
