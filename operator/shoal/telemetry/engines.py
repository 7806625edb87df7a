"""What one engine's successive pages say: how many requests came, how long its queue is, and what it took for them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from shoal.telemetry.engine_page import EnginePage, Histogram
from shoal.telemetry.sources import EngineReading

RATE_SECONDS: Final = 60.0
"""Completions of so long make the rate that a queue is divided by."""


HISTOGRAM_FIELDS: Final = ("ttft", "itl", "input", "output")


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

    def record(self, reading: EngineReading, now: float) -> EngineGrowth | None:
        """Take in a reading; None when it is no newer than the last."""
        at = now - reading.age_seconds
        if self.read_at is not None and at <= self.read_at:
            return None
        self._waited = self._page.waiting
        self._page, self.read_at = reading.page, at
        self._first_at = at if self._first_at is None else self._first_at
        counted, arrived = self._count(reading.page, at)
        return EngineGrowth(at, counted, arrived, self._grow_histograms(reading.page))

    def queue(self) -> QueueState | None:
        """The queue as last read; None when it is not known."""
        page = self._page
        if page.running is None or page.waiting is None:
            return None
        # What waits in one reading only is a burst; a queue that cannot move is there in the next one too. Believing it
        # at once would make two moves of one step of the rate: the arrivals of its first seconds say nothing yet.
        lasting = min(page.waiting, page.waiting if self._waited is None else self._waited)
        return QueueState(page.running, page.waiting, page.kv_usage, self._queue_seconds(lasting))

    def _count(self, page: EnginePage, at: float) -> tuple[bool, float | None]:
        """(told, arrived). What an engine had when it restarted is lost, but no traffic."""
        if page.finished is None or page.running is None or page.waiting is None:
            return False, None
        before, self._requests = self._requests, (page.finished, page.running + page.waiting)
        if before is None:
            return True, None
        finished, in_flight = self._requests
        if finished < before[0]:
            before = (0.0, 0.0)
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
