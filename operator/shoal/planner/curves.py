"""Latency of one engine against its request rate."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Final

KNEE: Final = 0.93  # knee over overloaded throughput: inside or within 8 % of every bracket measured
_STEEPEST: Final = 0.98  # beyond this utilisation the extrapolated latency is no longer meaningful


@dataclass(frozen=True, slots=True)
class Line:
    """A latency (ms) at rising rates (requests per second), never falling. Empty: nothing is known.

    Below the first rate it is flat; beyond the last it grows as `1/(1 - rate/saturation)`, the shape of any queue.
    """

    rates: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        """Whether it says anything."""
        return bool(self.rates)

    def at(self, rate: float, saturation: float) -> float:
        """Latency at a rate, in milliseconds."""
        place = bisect.bisect_left(self.rates, rate)
        if place == 0:
            return self.values[0]
        if place < len(self.rates):
            left, right = self.rates[place - 1], self.rates[place]
            share = (rate - left) / (right - left)
            return self.values[place - 1] + share * (self.values[place] - self.values[place - 1])
        return self.values[-1] * _headroom(self.rates[-1], saturation) / _headroom(rate, saturation)

    def highest_rate(self, bound: float | None, saturation: float) -> float:
        """Highest rate with a latency within `bound`: 0 when none has, infinite when nothing is asked or known."""
        if bound is None or not self.known:
            return math.inf
        if self.values[0] > bound:
            return 0.0
        place = bisect.bisect_right(self.values, bound)
        if place < len(self.values):
            low, high = self.values[place - 1], self.values[place]
            share = (bound - low) / (high - low)
            return self.rates[place - 1] + share * (self.rates[place] - self.rates[place - 1])
        headroom = self.values[-1] * _headroom(self.rates[-1], saturation) / bound
        return max(self.rates[-1], saturation * (1 - headroom))


def _headroom(rate: float, saturation: float) -> float:
    return max(1 - rate / saturation, 1 - _STEEPEST)


def make_line(points: list[tuple[float, float]]) -> Line:
    """A line through (rate, latency) points in any order: sorted, one value for each rate, made to never fall."""
    rates: list[float] = []
    values: list[float] = []
    highest = 0.0
    for rate, value in sorted(points):
        highest = max(highest, value)
        if rates and rates[-1] == rate:
            values[-1] = highest
        else:
            rates.append(rate)
            values.append(highest)
    return Line(tuple(rates), tuple(values))


@dataclass(frozen=True, slots=True)
class Curve:
    """What one engine does at any rate: latencies at the objective's percentile, and where throughput ends.

    `saturation` is the throughput when overloaded, `ceiling` the highest rate to be planned (before margins), `limit`
    what sets it.
    """

    ttft: Line
    itl: Line
    saturation: float
    ceiling: float
    limit: str

    def highest_rate(self, ttft_ms: float | None, itl_ms: float | None) -> tuple[float, str]:
        """The highest rate within both objectives, and what binds it."""
        candidates = (
            (self.ttft.highest_rate(ttft_ms, self.saturation), "TTFT"),
            (self.itl.highest_rate(itl_ms, self.saturation), "ITL"),
            (self.ceiling, self.limit),
        )
        return min(candidates, key=lambda candidate: candidate[0])

    def latencies(self, rate: float) -> tuple[float | None, float | None]:
        """TTFT and ITL at a rate, in milliseconds; None where unknown."""
        ttft = self.ttft.at(rate, self.saturation) if self.ttft.known else None
        itl = self.itl.at(rate, self.saturation) if self.itl.known else None
        return ttft, itl
