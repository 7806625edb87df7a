"""Arrivals of one service in ticks, put together from sources that are read at different times and sometimes not."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shoal.domain.service import Tick

_NOBODY = ""  # no source was there to be asked


@dataclass(frozen=True, slots=True)
class Growth:
    """What a source counted up to a tick. `arrived` None: its first answer, so there is nothing to compare with."""

    tick: int
    arrived: float | None


class ArrivalSeries:
    """The last `keep` ticks.

    A tick is complete when every source that was expected in it has counted through it. A source that was silent for a
    while has still counted: when it answers again, its growth is shared evenly among the ticks in between.
    """

    def __init__(self, keep: int) -> None:
        self._ticks: deque[Tick] = deque(maxlen=keep)
        self._missing: deque[set[str]] = deque(maxlen=keep)  # who has not counted through each
        self._end: int | None = None  # the tick after the last slot
        self._seen: dict[str, int] = {}  # the tick up to which a source has counted

    def record(self, tick: int, growths: Mapping[str, Growth], expected: Collection[str]) -> None:
        """Take in one round. The first round with an answer gives no tick: a restart knows nothing of before."""
        if self._end is None:
            if growths:
                self._end = tick + 1
        else:
            self._extend(tick, expected)
        for source, growth in growths.items():
            self._fill(source, growth)
        self._seen = {s: t for s, t in self._seen.items() if s in growths or s in expected or t >= self._first}

    def ticks(self) -> tuple[Tick, ...]:
        """Oldest first. They end with the last one that any source counted through: the rest is unknown."""
        return tuple(self._ticks)[: self._known]

    def last(self) -> Tick | None:
        """The last of them."""
        return self._ticks[self._known - 1] if self._known else None

    @property
    def _known(self) -> int:
        """How many ticks some source has counted through."""
        known = max(self._seen.values(), default=self._first - 1) - self._first + 1
        return min(max(known, 0), len(self._ticks))

    @property
    def _first(self) -> int:
        return (self._end or 0) - len(self._ticks)

    def _extend(self, tick: int, expected: Collection[str]) -> None:
        assert self._end is not None
        for _ in range(self._end, tick + 1):
            self._ticks.append(Tick(0.0, complete=False))
            self._missing.append(set(expected) or {_NOBODY})
        self._end = max(self._end, tick + 1)

    def _fill(self, source: str, growth: Growth) -> None:
        since = self._seen.get(source)
        self._seen[source] = growth.tick if since is None else max(since, growth.tick)
        if since is None or growth.arrived is None:
            return
        first = min(since + 1, growth.tick)  # read twice in one tick: more of that tick
        share = growth.arrived / (growth.tick + 1 - first)
        for tick in range(max(first, self._first), min(growth.tick + 1, self._end or 0)):
            slot = tick - self._first
            self._missing[slot].discard(source)
            self._ticks[slot] = Tick(self._ticks[slot].count + share, complete=not self._missing[slot])
