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
UPPER: Final = 0.65  # of a bracket (in logarithms): where nothing tells, knees are nearer to saturation than to rest
ABOVE: Final = 1.075  # step upwards where nothing is known to fail soon
LOWEST: Final = 0.02  # of the overloaded throughput: an objective not met here is out of reach
TRIES: Final = 2  # of one step, while the clients are too slow
_NEAR: Final = 1e-5  # rates are rounded to six digits
_SAME: Final = 0.01  # rates that differ by less count as one
WIDE: Final = 4.0  # tolerances
_MIDDLE: Final = 0.35
_INNER: Final = 0.1  # a secant stays so far (share of the bracket, in logarithms) from its ends


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
    return _between(points, objective, bracket, top, tolerance)


def _between(points: Sequence[Point], objective: Objective, bracket: Bracket, top: float, tolerance: float) -> float:
    low, high = bracket.low or 0.0, bracket.high
    share = _secant_share(points, objective, low, high)
    if share is not None and bracket.width > WIDE * tolerance:  # a secant over so much is no more than a hint
        return float(low * (high / low) ** min(max(share, _MIDDLE), 1 - _MIDDLE))
    if share is not None:
        return _closing_rate(low, high, float(low * (high / low) ** share), tolerance)
    if low * (1 + _SAME) < USUAL * top < high and high > top:
        return USUAL * top
    return min(low * ABOVE if high > top else high, float(low * (high / low) ** UPPER))


def _closing_rate(low: float, high: float, expected: float, tolerance: float) -> float:
    """Where to look so that the next two answers close the bracket, if the knee is where it is expected.

    An end that is already near stays one: the other is tried just within the tolerance of it. A rate right at the knee
    would be answered by chance, and close neither side.
    """
    nearly = 1 + tolerance * (1 - _SAME)
    if high / expected <= nearly and high / nearly > low:
        return high / nearly
    if expected / low <= nearly and low * nearly < high:
        return low * nearly
    return float(max(expected / (1 + tolerance / 2), low * (high / low) ** _INNER))


def _secant_share(points: Sequence[Point], objective: Objective, low: float, high: float) -> float | None:
    """Where in the bracket as many requests would be late as may be; None where that cannot be told.

    The logarithm of the late requests is taken as linear in the logarithm of the rate.
    """
    ends = [
        [score for point in usable(points) if (score := _lateness(point, rate, objective)) is not None]
        for rate in (low, high)
    ]
    if not all(ends):
        return None
    below, above = (sum(scores) / len(scores) for scores in ends)
    if above <= below:
        return None
    return min(max(-below / (above - below), _INNER), 1 - _INNER)


def _lateness(point: Point, rate: float, objective: Objective) -> float | None:
    """Logarithm of the late requests over those that may be late, of what was seen of the window until it stopped."""
    spec = point.spec
    if not objective.is_set or spec.name == "overload" or spec.rate is None or abs(spec.rate / rate - 1) > _NEAR:
        return None
    seen = min(max(point.took - spec.warm_up, 1.0) / spec.seconds, 1.0) if point.stopped else 1.0
    late = max(point.late_first, point.late_gap) + 0.5
    return math.log(late / max(seen * point.planned * objective.allowed, 0.5))
