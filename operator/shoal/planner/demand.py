"""Arrivals -> the request rate to plan for.

Counts are over-dispersed Poisson. A change-point test finds where the present rate began, a slope is believed only
above four of its standard errors, and the forecast is for the moment a new replica would be ready.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shoal.domain.plan import Demand
from shoal.domain.service import Load, Tick, Workload

WINDOW_SECONDS: Final = 300.0
CHANGE: Final = 14.0  # likelihood ratio, over dispersion, from which a change of rate is believed
MOST_CHANGES: Final = 6
SUM_SECONDS: Final = 30.0  # dispersion is taken from sums this long
MOST_DISPERSION: Final = 50.0
LEAST_DIFFERENCES: Final = 6  # fewer second differences say nothing about dispersion
SLOPE_SECONDS: Final = 60.0
SLOPE_ERRORS: Final = 4.0
TREND_SECONDS: Final = 600.0  # slow trends show only in so long a window
RECENT_SECONDS: Final = 30.0  # incomplete ticks this young bound the rate from below
FRESH: Final = 0.9  # share of engines and ticks that must be known before anything is taken away
MOST_UNCERTAIN: Final = 0.25
LEAST_UNCERTAIN: Final = 0.03  # a rate that wanders by this much for real is no reason to move either
SHORTEST_TICK: Final = 0.1
LONGEST_TICK: Final = 60.0
USUAL_TICK: Final = 5.0
_NORMAL_MAD: Final = 1.4826  # standard deviation of a normal distribution over its median absolute deviation

_COUNT = attrgetter("count")
_COMPLETE = attrgetter("complete")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What the ticks say: `rate` in requests per second over the last `seconds`, in which nothing changed abruptly."""

    rate: float
    seconds: float
    standard_error: float
    slope: float
    changing: bool = False  # see present_window
    trend: float = 0.0  # see lasting_trend
    recent: float = 0.0
    latest: float = 0.0


def uncertainty(demand: Demand) -> float:
    """Relative error within which the rate is believed to lie: three standard errors, between 3 % and a quarter."""
    if not demand.observed:
        return 0.0
    if demand.rate <= 0:
        return MOST_UNCERTAIN
    return min(MOST_UNCERTAIN, max(LEAST_UNCERTAIN, 3 * demand.standard_error / demand.rate))


def rate_now(demand: Demand) -> float:
    """The rate at the end of the window, a trend included."""
    return max(0.0, demand.rate + demand.slope * demand.window_seconds / 2)


def slope_bound(demand: Demand) -> float:
    """The steepest slope of the window that noise and wander could make, as in `_believed_slope`."""
    if demand.window_seconds <= 0:
        return 0.0
    noise = SLOPE_ERRORS * math.sqrt(12) * demand.standard_error
    return (noise + 3 * LEAST_UNCERTAIN * demand.rate) / demand.window_seconds


def declared_demand(workload: Workload) -> Demand:
    """The demand before any traffic was seen: what was declared or assumed, without error or trend."""
    rate = _positive(workload.rate)
    return Demand(rate=rate, forecast=rate, standard_error=0.0, slope=0.0, window_seconds=0.0, observed=False)


def observed_demand(load: Load, startup_seconds: float, stuck_replicas: int) -> Demand | None:
    """The demand behind the ticks; None when no tick tells anything.

    Incomplete ticks are lower bounds: the law is applied to complete ones, and what arrived at least in the last ticks
    counts where it is more.
    """
    tick_seconds = _tick_seconds(load)
    if not load.ticks:
        return None
    counts, complete = _read(load.ticks)
    whole = counts if complete.all() else counts[complete]
    arrivals = estimate_arrivals(whole, tick_seconds, _settled(load)) if whole.size else None
    lower = None if whole is counts else _lower_bound(counts, complete, tick_seconds)
    if lower is not None and (arrivals is None or lower.rate - lower.standard_error > arrivals.rate):
        arrivals = lower
    if arrivals is None:
        return None
    now = max(0.0, arrivals.rate + arrivals.slope * arrivals.seconds / 2)
    return Demand(
        rate=arrivals.rate,
        forecast=now + max(0.0, arrivals.slope, arrivals.trend) * max(0.0, startup_seconds),
        standard_error=arrivals.standard_error,
        slope=arrivals.slope,
        window_seconds=arrivals.seconds,
        observed=True,
        stuck_replicas=stuck_replicas,
        changing=arrivals.changing,
        trend=arrivals.trend,
        recent=arrivals.recent,
        latest=arrivals.latest,
    )


def is_fresh(load: Load) -> bool:
    """Whether enough is known to take something away: engines read lately, and ticks of the last minutes complete."""
    recent = load.ticks[-int(WINDOW_SECONDS / _tick_seconds(load)) :]
    _, complete = _read(recent)
    return load.fresh_fraction >= FRESH and int(complete.sum()) >= FRESH * len(recent)


def is_surge(tick: Tick, tick_seconds: float, demand: Demand) -> bool:
    """Whether a tick holds so much more than the rate planned for that the next plan should not wait for its turn.

    Half the likelihood ratio, over dispersion, from which the law believes in a change: the ticks around share the
    rest. A window without requests is taken for one with a single request.
    """
    usual = max(demand.rate, 1 / WINDOW_SECONDS) * tick_seconds
    if not math.isfinite(tick.count) or tick.count <= usual:
        return False
    phi = max(1.0, demand.standard_error**2 * demand.window_seconds / demand.rate) if demand.rate > 0 else 1.0
    return tick.count * math.log(tick.count / usual) - (tick.count - usual) > phi * CHANGE / 2


def estimate_arrivals(counts: Floats, tick_seconds: float, settled: int = 1) -> Arrivals:
    """The law of arrivals on counts per tick, oldest first (at least one). `settled`: see present_window."""
    phi = dispersion(counts, tick_seconds)
    window, changing = present_window(counts, phi, tick_seconds, settled)
    seconds = len(window) * tick_seconds
    rate = float(window.sum()) / seconds
    return Arrivals(
        rate=rate,
        seconds=seconds,
        standard_error=math.sqrt(phi * rate / seconds),
        slope=_believed_slope(window, phi, tick_seconds),
        changing=changing,
        trend=lasting_trend(counts, phi, tick_seconds),
        recent=_mean_of_last(counts, WINDOW_SECONDS, tick_seconds),
        latest=_mean_of_last(counts, SLOPE_SECONDS, tick_seconds),
    )


def lasting_trend(counts: Floats, phi: float, tick_seconds: float) -> float:
    """Slope over TREND_SECONDS in requests per second, per second; 0 where none is believed (`_believed_slope`).

    A rate that changed abruptly in that time has no trend: a step has ended.
    """
    longest = int(TREND_SECONDS / tick_seconds)
    window = counts[-longest:]
    slope = _believed_slope(window, phi, tick_seconds) if len(window) == longest else 0.0
    if slope:
        _, ratio = _best_split(window)
        if ratio / phi > CHANGE and not _is_ramp(window, phi, tick_seconds, ratio):
            return 0.0
    return slope


def _mean_of_last(counts: Floats, seconds: float, tick_seconds: float) -> float:
    window = counts[-max(1, int(seconds / tick_seconds)) :]
    return float(window.sum()) / (len(window) * tick_seconds)


def present_window(counts: Floats, phi: float, tick_seconds: float, settled: int = 1) -> tuple[Floats, bool]:
    """The ticks in which the present rate ruled, and whether it is just changing.

    The tick of a change holds both rates: its count would make two moves of one step. So that tick is left out, and a
    new rate counts once it has lasted `settled` ticks after it; until then the one before does. Where several ticks in
    a row were each a change, the first of them is the one that holds both: a rate that rises in every tick is followed.
    The first tick ever is such a change.
    """
    if len(counts) <= settled:
        return counts, True
    longest = int(WINDOW_SECONDS / tick_seconds)
    start = window_start(counts, phi, tick_seconds)
    if start <= max(0, len(counts) - longest):
        return counts[start:], False
    began = start
    while len(counts) - began <= settled and began > 1 and window_start(counts[:began], phi, tick_seconds) == began - 1:
        began -= 1
    if len(counts) - began > settled:
        return counts[max(start, began + 1) :], False
    return counts[window_start(counts[:began], phi, tick_seconds) : began], True


def dispersion(counts: Floats, tick_seconds: float) -> float:
    """Variance over mean of arrivals, from second differences of 30 s sums, in which steady ramps cancel."""
    per_sum = max(1, round(SUM_SECONDS / tick_seconds))
    whole = len(counts) // per_sum
    if whole < LEAST_DIFFERENCES + 2:
        return 1.0
    sums = counts[len(counts) - whole * per_sum :].reshape(whole, per_sum).sum(axis=1)
    mean = float(sums.sum()) / whole
    if mean <= 0:
        return 1.0
    differences = np.sort(np.abs(sums[2:] - 2 * sums[1:-1] + sums[:-2]))
    deviation = _NORMAL_MAD * float(differences[len(differences) // 2])
    return min(MOST_DISPERSION, max(1.0, deviation * deviation / (6 * mean)))


def window_start(counts: Floats, phi: float, tick_seconds: float) -> int:
    """Index where the present rate, or the present trend, began; at most WINDOW_SECONDS ago.

    That is after the last believed change of rate. A steady ramp is no change: a straight line explains it better than
    any step does (its likelihood ratio is 4/3 of the best split's; that of a true step in the middle is 3/4 of it).
    """
    start = max(0, len(counts) - int(WINDOW_SECONDS / tick_seconds))
    for _ in range(MOST_CHANGES):
        split, ratio = _best_split(counts[start:])
        if ratio / phi <= CHANGE or _is_ramp(counts[start:], phi, tick_seconds, ratio):
            break
        start += split
    return start


def _best_split(counts: Floats) -> tuple[int, float]:
    """The split that two Poisson rates explain best against one, and the logarithm of that likelihood ratio."""
    n = len(counts)
    if n < 2:
        return 0, 0.0
    before = np.cumsum(counts)
    total = float(before[-1])
    if total <= 0:
        return 0, 0.0
    left = before[:-1]
    right = total - left
    sizes = np.arange(1, n, dtype=np.float64)
    ratio = _entropy(left, sizes) + _entropy(right, n - sizes) - total * math.log(total / n)
    best = int(ratio.argmax())
    return best + 1, float(ratio[best])


def _is_ramp(counts: Floats, phi: float, tick_seconds: float, split_ratio: float) -> bool:
    slope = _believed_slope(counts, phi, tick_seconds) * tick_seconds  # requests per second, per tick
    n = len(counts)
    gain = (slope * tick_seconds) ** 2 * (n**3 - n) / 12 / (2 * float(counts.sum()) / n) if slope else 0.0
    return gain >= split_ratio


def _entropy(sums: Floats, sizes: Floats) -> Floats:
    return np.asarray(sums * np.log(np.maximum(sums, 1e-12) / sizes), dtype=np.float64)


def _believed_slope(window: Floats, phi: float, tick_seconds: float) -> float:
    """Least-squares slope in requests per second, per second; 0 where noise and wander could explain it.

    Noise: four standard errors. Wander: a rate that stays within 1 ± w of a constant has a slope of at most
    3*w*rate/T over a window of T seconds (the worst function is -w in its first half and +w in its second).
    """
    n = len(window)
    if n * tick_seconds < SLOPE_SECONDS or n < 3:
        return 0.0
    times, spread = _centred_times(n, tick_seconds)
    slope = float(times @ window) / tick_seconds / spread
    mean = float(window.sum()) / n / tick_seconds
    noise = SLOPE_ERRORS * math.sqrt(phi * mean / tick_seconds / spread)
    wander = 3 * LEAST_UNCERTAIN * mean / (n * tick_seconds)
    return slope if abs(slope) > noise + wander else 0.0


@lru_cache(maxsize=1024)
def _centred_times(n: int, tick_seconds: float) -> tuple[Floats, float]:
    """Times of ticks around their middle, in seconds, and the sum of their squares."""
    times: Floats = (np.arange(n, dtype=np.float64) - (n - 1) / 2) * tick_seconds
    times.setflags(write=False)
    return times, float(times @ times)


def _lower_bound(counts: Floats, complete: NDArray[np.bool_], tick_seconds: float) -> Arrivals | None:
    """What arrived at least, over the last ticks, when one of them is incomplete."""
    recent = max(1, round(RECENT_SECONDS / tick_seconds))
    if complete[-recent:].all():
        return None
    counts = counts[-recent:]
    seconds = len(counts) * tick_seconds
    rate = float(counts.sum()) / seconds
    return Arrivals(rate, seconds, math.sqrt(rate / seconds), 0.0)


def _tick_seconds(load: Load) -> float:
    """Length of a tick; what no planning interval can be is taken for the usual one."""
    return load.tick_seconds if SHORTEST_TICK <= load.tick_seconds <= LONGEST_TICK else USUAL_TICK


def _settled(load: Load) -> int:
    """Whole ticks after a change; no more than one of the usual length is waited for."""
    return min(max(1, load.ticks_to_settle), max(1, round(USUAL_TICK / _tick_seconds(load))))


def _read(ticks: Sequence[Tick]) -> tuple[Floats, NDArray[np.bool_]]:
    """Counts, and which of them are complete. What can be no count is incomplete, and nothing."""
    counts = np.fromiter(map(_COUNT, ticks), np.float64, len(ticks))
    whole = all(map(_COMPLETE, ticks))
    complete = np.ones(len(ticks), np.bool_) if whole else np.fromiter(map(_COMPLETE, ticks), np.bool_, len(ticks))
    possible = np.isfinite(counts) & (counts >= 0)
    if possible.all():
        return counts, complete
    return np.where(possible, counts, 0.0), complete & possible


def _positive(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else 0.0
