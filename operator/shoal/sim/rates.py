"""Request rates over time: pieces that are constant or change evenly, and arrivals that follow them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from itertools import pairwise

Piece = tuple[float, float] | tuple[float, float, float]
"""(seconds, requests per second), or (seconds, rate at its start, rate at its end)."""
Schedule = tuple[Piece, ...]

DIURNAL_PIECES = 96  # in one period: a quarter of an hour of a day


def ends_of(piece: Piece) -> tuple[float, float, float]:
    """Seconds, and the rates at both ends."""
    return piece if len(piece) == 3 else (piece[0], piece[1], piece[1])


def seconds_of(schedule: Schedule) -> float:
    """How long it lasts."""
    return sum(piece[0] for piece in schedule)


def rate_at(schedule: Schedule, at: float) -> float:
    """Requests per second expected at an instant; 0 outside."""
    for seconds, start, end in map(ends_of, schedule):
        if 0 <= at < seconds:
            return start + (end - start) * at / seconds
        at -= seconds
    return 0.0


def expected_requests(schedule: Schedule) -> float:
    """How many requests arrive on average."""
    return sum(seconds * (start + end) / 2 for seconds, start, end in map(ends_of, schedule))


def follow(schedule: Schedule, gaps: Iterator[float]) -> Iterator[float]:
    """Instants of arrivals: `gaps`, of mean 1, between them are stretched so that the rate is the schedule's.

    A renewal process in the number of requests expected so far; with exponential gaps it is Poisson.
    """
    began, left = 0.0, next(gaps)  # what is left of the present gap, in requests
    for seconds, start, end in map(ends_of, schedule):
        at, growth = 0.0, (end - start) / seconds
        while True:
            rate = start + growth * at
            if left >= _requests(rate, growth, seconds - at):
                left -= _requests(rate, growth, seconds - at)
                break
            at += 2 * left / (rate + math.sqrt(max(0.0, rate * rate + 2 * growth * left)))
            yield began + at
            left = next(gaps)
        began += seconds


def make_diurnal(seconds: float, low: float, high: float, period: float) -> Schedule:
    """A sine that begins at its lowest, in even pieces."""
    count = max(1, math.ceil(seconds / period * DIURNAL_PIECES))
    knots = [seconds * n / count for n in range(count + 1)]
    rates = [low + (high - low) * (1 - math.cos(2 * math.pi * at / period)) / 2 for at in knots]
    return tuple((seconds / count, one, two) for one, two in pairwise(rates))


def make_flash_crowd(
    seconds: float, low: float, high: float, *, at: float, rise: float, hold: float, fall: float
) -> Schedule:
    """A crowd that comes within `rise` seconds, stays, and leaves slowly."""
    pieces = ((at, low, low), (rise, low, high), (hold, high, high), (fall, high, low))
    rest = seconds - at - rise - hold - fall
    return tuple(piece for piece in (*pieces, (rest, low, low)) if piece[0] > 0)


def wander(schedule: Schedule, share: float, every: float, rng: random.Random) -> Schedule:
    """The same schedule with rates that drift: a factor within 1 ± share, drawn every so many seconds, even between."""
    pieces: list[Piece] = []
    began, drawn = 0.0, [rng.uniform(1 - share, 1 + share)]

    def factor(at: float) -> float:
        place, part = divmod(at / every, 1.0)
        while len(drawn) < int(place) + 2:
            drawn.append(rng.uniform(1 - share, 1 + share))
        return drawn[int(place)] * (1 - part) + drawn[int(place) + 1] * part

    for seconds, start, end in map(ends_of, schedule):
        cuts = [began, *_multiples(every, began, began + seconds), began + seconds]
        for one, two in pairwise(cuts):
            first, last = ((start + (end - start) * (at - began) / seconds) * factor(at) for at in (one, two))
            pieces.append((two - one, first, last))
        began += seconds
    return tuple(pieces)


def _multiples(step: float, low: float, high: float) -> Iterable[float]:
    """Multiples strictly between two numbers."""
    first = math.floor(low / step) + 1
    return [n * step for n in range(first, math.ceil(high / step)) if low < n * step < high]


def _requests(rate: float, growth: float, seconds: float) -> float:
    return rate * seconds + growth * seconds * seconds / 2
