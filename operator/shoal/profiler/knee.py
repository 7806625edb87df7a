"""The highest rate that is still served: a search on what was measured so far. Pure.

Every function takes all open-loop points and decides again, so that an interrupted search continues where it was.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shoal.profiler.points import MOST_GROWTH, Point
from shoal.profiler.specs import Kind, Objective

USUAL: Final = 0.93  # of the overloaded throughput: where the knee was in every bracket measured
TAIL: Final = 0.8  # of what load adds to the mean gap: so much more does it add to the 95th percentile
STEEP_FIRST, STEEP_GAP = 8.0, 3.0  # late first tokens, and late answers, grow with this power of the rate
FEW: Final = -2.5  # logarithm of late requests over those allowed: the knee is more than a step away
LOWEST: Final = 0.02  # of the overloaded throughput: an objective not met here is out of reach
TRIES: Final = 2  # of one step, while the clients are too slow
_SLACK: Final = 1.1  # what one window can tell is known no better
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
    tried = [point for point in usable(points) if point.spec.name == "overload" and not point.keeps_up]
    over = [point for point in tried if point.throughput > 0]  # else the server failed
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


def next_rate(points: Sequence[Point], objective: Objective, tolerance: float, *, noise: float = 0.0) -> float | None:
    """The rate to try next; None when the bracket is narrow enough, or the objective out of reach.

    Narrow enough is `tolerance`, or what one window can tell: `noise` over the root of the rate.
    """
    over, bracket = overload_of(points), find_bracket(points, objective)
    if over is None or bracket is None:
        return None
    top = over.throughput
    chance = noise / math.sqrt(min(bracket.low or bracket.high, top))
    width = max(tolerance, chance)
    if bracket.low is None:
        return _below(points, objective, bracket.high, top, width)
    if bracket.width <= max(tolerance, _SLACK * chance):
        return None
    return _between(points, objective, bracket, top, width)


def _below(points: Sequence[Point], objective: Objective, high: float, top: float, width: float) -> float | None:
    """Nothing was served yet: the guess, then down from what failed, the further the sooner it did."""
    failed = [point for point in usable(points) if point.spec.rate == high and point.spec.name != "overload"]
    if not failed:
        return guess_knee(points, objective, top) / (1 + width / 2)
    if high <= LOWEST * top:
        return None
    scores = [score for point in failed if (score := _lateness(point, high, objective)) is not None]
    steep = STEEP_FIRST if failed[0].late_first > failed[0].late_gap else STEEP_GAP
    down = math.exp(min(scores, default=0.0) / steep)
    tries = len({p.spec.rate for p in usable(points) if p.spec.kind is Kind.OPEN and p.spec.name != "overload"})
    return float(high / min(max(down, 1 + width), (1 + WIDE * width) ** tries))


def guess_knee(points: Sequence[Point], objective: Objective, top: float) -> float:
    """From a lonely request and the full batch: where the gap, linear in what runs, is as long as is allowed."""
    if not objective.is_set:
        return top / (1 - MOST_GROWTH)
    usual = USUAL * top
    idle, over = (next((p for p in points if p.spec.name == "idle" and p.gap_ms), None), overload_of(points))
    if objective.itl_ms is None or idle is None or over is None or not over.decoding or over.step_ms is None:
        return usual
    alone = idle.gap_ms or 0.0
    each = (over.step_ms - alone) / max(over.decoding - 1, 1.0)
    if each <= 0:
        return usual
    mean = _mean_gap(objective.itl_ms, alone, TAIL)
    return min(usual, max(LOWEST * top, (1 - alone / mean) * 1000 / (over.output_mean * each)))


def _mean_gap(asked: float, alone: float, tail: float) -> float:
    """The mean gap whose percentile is as asked: above the mean by `tail` of what load adds to a lonely one's."""
    return max((asked + tail * alone) / (1 + tail), 1e-9)


def _between(points: Sequence[Point], objective: Objective, bracket: Bracket, top: float, width: float) -> float:
    """Where to look so that the next answer, or the one after it, closes the bracket, if the knee is as expected.

    So it is just within `width` of an end, or half of it below the knee. A rate right at the knee would be answered by
    chance, and close neither side.
    """
    low, high = bracket.low or 0.0, bracket.high
    step = 1 + width * (1 - _SAME)
    is_open = not any(p.spec.rate == high and p.spec.name != "overload" for p in usable(points))
    expected = _expected_knee(points, objective, bracket, top)
    if bracket.width > WIDE * width and high <= top:  # what is told over so much is no more than a hint
        expected = min(max(expected, low * (high / low) ** _MIDDLE), low * (high / low) ** (1 - _MIDDLE))
    if expected < low * step**1.5:
        return float(low * (step**2 if is_open and _lowest_lateness(points, low, objective) < FEW else step))
    if expected > high / step**0.5:
        return float(high / step)
    return float(expected / step**0.5)


def _expected_knee(points: Sequence[Point], objective: Objective, bracket: Bracket, top: float) -> float:
    """By the late requests at both ends of the bracket; where they do not tell, by the gap at the lower one."""
    low, high = bracket.low or 0.0, bracket.high
    share = _secant_share(points, objective, low, high)
    if share is not None:
        return float(low * (high / low) ** share)
    if not objective.is_set:
        return top / (1 - MOST_GROWTH)
    return min(USUAL * top, _knee_by_gap(points, objective, low) or USUAL * top, high)


def _knee_by_gap(points: Sequence[Point], objective: Objective, rate: float) -> float | None:
    """The rate at which the gap alone reaches its objective; None where it does not tell.

    A step takes alpha and a time for each request that runs, so by Little's law `alpha / (1 - c * rate)` at a rate.
    """
    idle = next((point.gap_ms for point in points if point.spec.name == "idle" and point.gap_ms), None)
    here = next((p for p in usable(points) if p.spec.rate == rate and p.itl is not None and not p.stopped), None)
    if objective.itl_ms is None or idle is None or here is None or here.itl is None:
        return None
    mean, late = here.itl.mean, getattr(here.itl, f"p{objective.percentile}", here.itl.p95)
    if mean <= idle:
        return None
    asked = _mean_gap(objective.itl_ms, idle, (late / mean - 1) / (1 - idle / mean))
    return rate * (1 - idle / asked) / (1 - idle / mean)


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
    seen = _seen(point)
    late = max(point.late_first, point.late_gap) + 0.5
    return math.log(late / max(seen * point.planned * objective.allowed, 0.5))


def _lowest_lateness(points: Sequence[Point], rate: float, objective: Objective) -> float:
    scores = (_lateness(point, rate, objective) for point in usable(points))
    return min((score for score in scores if score is not None), default=0.0)


def _seen(point: Point) -> float:
    """Share of the window that was seen until the point ended."""
    spec = point.spec
    return min(max(point.took - spec.warm_up, 1.0) / spec.seconds, 1.0) if point.stopped else 1.0
