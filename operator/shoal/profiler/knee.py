"""The highest rate that is still served: a search on what was measured so far. Pure.

Every function takes all open-loop points and decides again, so that an interrupted search continues where it was.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shoal.profiler.points import Point
from shoal.profiler.specs import Kind, Objective

USUAL: Final = 0.93  # of the overloaded throughput: where the knee was in every bracket measured
FIRST: Final = 0.6  # the first rate that is tried: a point a profile needs anyway
ABOVE: Final = 1.075  # step upwards where nothing is known to fail soon
LOWEST: Final = 0.02  # of the overloaded throughput: an objective not met here is out of reach
TRIES: Final = 2  # of one step, while the clients are too slow
_SAME: Final = 0.01  # rates that differ by less count as one
_INNER: Final = 0.2  # a secant stays so far (share of the bracket, in logarithms) from its ends


@dataclass(frozen=True, slots=True)
class Bracket:
    """`low` is the highest rate that is served below every one that is not, `high` the lowest that is not."""

    low: float | None
    high: float

    @property
    def width(self) -> float:
        """high/low - 1."""
        return math.inf if self.low is None else self.high / self.low - 1

    @property
    def knee(self) -> float | None:
        """The middle; None when nothing was served."""
        return None if self.low is None else math.sqrt(self.low * self.high)


def overload_of(points: Sequence[Point]) -> Point | None:
    """The point of saturation: the one with the highest throughput among those that could not keep up."""
    over = [point for point in usable(points) if point.spec.name == "overload" and not point.keeps_up]
    return max(over, key=lambda point: point.throughput, default=None)


def usable(points: Sequence[Point]) -> list[Point]:
    """Points whose clients were quick enough, and those whose clients were too slow twice: no third try helps."""
    counts = Counter(point.spec.key for point in points if point.client_failed)
    return [point for point in points if not point.client_failed or counts[point.spec.key] >= TRIES]


def find_bracket(points: Sequence[Point], objective: Objective) -> Bracket | None:
    """What is known of the knee; None before the server was overloaded.

    Several points at one rate (other seeds) vote; a tie counts as not served.
    """
    over = overload_of(points)
    if over is None or over.spec.rate is None:
        return None
    votes: dict[float, list[bool]] = defaultdict(list)
    for point in usable(points):
        if point.spec.kind is Kind.OPEN and point.spec.rate is not None:
            votes[float(f"{point.spec.rate:.6g}")].append(point.meets(objective) and point.spec.name != "overload")
    served = {rate: 2 * sum(found) > len(found) for rate, found in votes.items()}
    high = min(rate for rate, yes in served.items() if not yes)
    low = max((rate for rate, yes in served.items() if yes and rate < high), default=None)
    return Bracket(low, high)


def next_rate(points: Sequence[Point], objective: Objective, tolerance: float) -> float | None:
    """The rate to try next; None when the bracket is narrow enough, or the objective out of reach."""
    over, bracket = overload_of(points), find_bracket(points, objective)
    if over is None or bracket is None:
        return None
    top = over.throughput
    if bracket.low is None:
        if bracket.high <= LOWEST * top:
            return None
        return FIRST * top if bracket.high > FIRST * top * (1 + _SAME) else FIRST * bracket.high
    if bracket.width <= tolerance:
        return None
    return _between(points, objective, bracket, top)


def _between(points: Sequence[Point], objective: Objective, bracket: Bracket, top: float) -> float:
    low, high = bracket.low or 0.0, bracket.high
    share = _secant_share(points, objective, low, high)
    if share is not None:
        return float(low * (high / low) ** share)
    if low * (1 + _SAME) < USUAL * top < high and high > top:
        return USUAL * top
    return min(low * ABOVE if high > top else high, math.sqrt(low * high))


def _secant_share(points: Sequence[Point], objective: Objective, low: float, high: float) -> float | None:
    """Where in the bracket the latency reaches its objective, by the two nearest points; None where they do not tell.

    The logarithm of latency over objective is taken as linear in the logarithm of the rate.
    """
    known = sorted(
        (point.spec.rate, ratio)
        for point in usable(points)
        if point.spec.rate is not None and point.spec.name != "overload"
        if (ratio := point.ratio(objective)) is not None
    )
    below = [(rate, ratio) for rate, ratio in known if rate <= low * (1 + 1e-6)]
    at_high = [(rate, ratio) for rate, ratio in known if abs(rate / high - 1) < 1e-6]
    pair = [*below[-1:], *at_high] if at_high else below[-2:]
    if len(pair) < 2 or pair[-1][1] <= pair[-2][1] or pair[-1][0] <= pair[-2][0]:
        return None
    (r0, l0), (r1, l1) = pair[-2:]
    slope = math.log(l1 / l0) / math.log(r1 / r0)
    target = r1 * math.exp(-math.log(l1) / slope)
    share = math.log(target / low) / math.log(high / low)
    if not at_high and share > 1 - _INNER:
        return None  # a curve bends upwards: far beyond the last point a secant overshoots
    return min(max(share, _INNER), 1 - _INNER)
