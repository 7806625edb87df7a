"""What one engine's successive pages say: how many requests came, how long its queue is, and what it took for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal.telemetry.engine_page import EnginePage, Histogram
from shoal.telemetry.sources import EngineReading

RATE_SECONDS: Final = 60.0
"""Completions of so long make the rate that a queue is divided by."""


HISTOGRAM_FIELDS: Final = ("ttft", "itl", "input", "output")
WINDOW_SECONDS: Final = 60.0
"""Growth of at least so long makes a window: buckets are too coarse for percentiles, and means need some requests."""
LONGEST_WINDOW: Final = 150.0
"""A window that became longer, because readings were far apart, is no longer about now."""


@dataclass(frozen=True, slots=True)
class EngineGrowth:
    """What an engine did since it told last.

    `arrived` counts requests that came: those finished, and the change of those it has. Requests that were refused, or
    wait before the engine's scheduler, are not seen: the router's count is better where there is one. None with
    `counted`: there is nothing to compare with yet. Not `counted`: it did not tell this time.
    """

    at: float
    counted: bool
    arrived: float | None
    histograms: dict[str, Histogram]


@dataclass(frozen=True, slots=True)
class QueueState:
    """An engine's or a pod's queue now. `queue_seconds`: until a request that comes now would be scheduled, about."""

    running: float
    waiting: float
    kv_usage: float | None
    queue_seconds: float


@dataclass(frozen=True, slots=True)
class EngineWindow:
    """What an engine did in its last window, which ended at `until`. Histograms without buckets; empty: not told."""

    until: float
    seconds: float
    finished: float
    arrived: float
    histograms: dict[str, Histogram]
    queue: QueueState | None = None


@dataclass(frozen=True, slots=True)
class _Slice:
    """One reading's part of a window."""

    seconds: float
    finished: float
    arrived: float
    histograms: dict[str, Histogram]


class EngineTracker:
    """Follows one engine.

    Each number is compared with its own last known value, so that one which is missing now and then loses nothing.
    """

    def __init__(self, known_since: float) -> None:
        self.known_since = known_since
        self.read_at: float | None = None  # when its numbers were true
        self._page = EnginePage()
        self._waited: float | None = None  # waiting requests in the reading before
        self._first_at: float | None = None
        self._requests: tuple[float, float] | None = None  # finished, in flight
        self._histograms: dict[str, Histogram] = {}
        self._completions: deque[tuple[float, float]] = deque()
        self._counted_at: float | None = None
        self._slices: deque[_Slice] = deque()  # since the last restart, as many as the window needs
        self._slice: tuple[float, float, float] | None = None  # seconds, finished, arrived of the present reading
        self._window: EngineWindow | None = None  # of the present reading, made when it is asked for
        self._is_window_made = False

    def record(self, reading: EngineReading, now: float) -> EngineGrowth | None:
        """Take in a reading; None when it is no newer than the last."""
        at = now - reading.age_seconds
        if self.read_at is not None and at <= self.read_at:
            return None
        self._waited = self._page.waiting
        self._page, self.read_at = reading.page, at
        self._first_at = at if self._first_at is None else self._first_at
        counted, arrived = self._count(reading.page, at)
        histograms = self._grow_histograms(reading.page)
        self._extend_window(histograms)
        self._is_window_made = False
        return EngineGrowth(at, counted, arrived, histograms)

    def queue(self) -> QueueState | None:
        """The queue as last read; None when it is not known."""
        page = self._page
        if page.running is None or page.waiting is None:
            return None
        # What waits in one reading only is a burst; a queue that cannot move is there in the next one too. Believing it
        # at once would make two moves of one step of the rate: the arrivals of its first seconds say nothing yet.
        lasting = min(page.waiting, page.waiting if self._waited is None else self._waited)
        return QueueState(page.running, page.waiting, page.kv_usage, self._queue_seconds(lasting))

    def window(self) -> EngineWindow | None:
        """The newest window; None until the engine has told for long enough, and when it told too seldom."""
        if not self._is_window_made:
            self._window, self._is_window_made = self._make_window(), True
        return self._window

    def _make_window(self) -> EngineWindow | None:
        seconds = sum(part.seconds for part in self._slices)
        if self._counted_at is None or not WINDOW_SECONDS <= seconds <= LONGEST_WINDOW:
            return None
        sums = {
            name: _sum(part.histograms[name] for part in self._slices if name in part.histograms)
            for name in HISTOGRAM_FIELDS
        }
        return EngineWindow(
            until=self._counted_at,
            seconds=seconds,
            finished=sum(part.finished for part in self._slices),
            arrived=sum(part.arrived for part in self._slices),
            histograms=sums,
            queue=self.queue(),
        )

    def _extend_window(self, histograms: dict[str, Histogram]) -> None:
        """Take the present reading into the window, and what is older than it needs out."""
        if self._slice is None:
            return
        slim = {name: Histogram(grown.total, grown.count) for name, grown in histograms.items()}
        self._slices.append(_Slice(*self._slice, slim))
        seconds = sum(part.seconds for part in self._slices)
        while seconds - self._slices[0].seconds >= WINDOW_SECONDS:
            seconds -= self._slices.popleft().seconds

    def _count(self, page: EnginePage, at: float) -> tuple[bool, float | None]:
        """(told, arrived). What an engine had when it restarted is lost, but no traffic."""
        self._slice = None
        if page.finished is None or page.running is None or page.waiting is None:
            return False, None
        since, self._counted_at = self._counted_at, at
        before, self._requests = self._requests, (page.finished, page.running + page.waiting)
        if before is None:
            return True, None
        finished, in_flight = self._requests
        if finished < before[0]:
            before = (0.0, 0.0)
            self._slices.clear()  # a window with a restart in it says nothing of the rate
        elif since is not None:
            self._slice = at - since, finished - before[0], max(finished + in_flight - sum(before), 0.0)
        self._completions.append((at, finished - before[0]))
        while self._completions[0][0] <= at - RATE_SECONDS:
            self._completions.popleft()
        return True, max(finished + in_flight - sum(before), 0.0)

    def _grow_histograms(self, page: EnginePage) -> dict[str, Histogram]:
        growths = {}
        for name in HISTOGRAM_FIELDS:
            after: Histogram | None = getattr(page, name)
            if after is not None:
                before, self._histograms[name] = self._histograms.get(name), after
                if before is not None:
                    growths[name] = after.since(before)
        return growths

    def _queue_seconds(self, waiting: float) -> float:
        """Waiting requests over the recent rate of completions.

        An engine that has finished nothing in the time it was watched is taken to finish one in as much time again: its
        estimate grows with the time for which nothing moves.
        """
        if not waiting or self.read_at is None or self._first_at is None:
            return 0.0
        watched = min(self.read_at - self._first_at, RATE_SECONDS)
        return waiting * watched / max(sum(finished for _, finished in self._completions), 1.0)


def _sum(histograms: Iterable[Histogram]) -> Histogram:
    total = count = 0.0
    for histogram in histograms:
        total, count = total + histogram.total, count + histogram.count
    return Histogram(total, count)
