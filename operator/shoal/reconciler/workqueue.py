"""A de-duplicating queue of keys: a key is worked on by one worker at a time and comes back after a failure."""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from shoal.reconciler.clock import Now, steady

K = TypeVar("K", bound=Hashable)
logger = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 0.2
_LAST_RETRY_SECONDS = 60.0


class WorkFailedError(Exception):
    """Raised by a handler for a failure that it has told already: the key comes back, no stack is logged."""


class RequeueError(Exception):
    """Raised by a handler that wants its key again after `seconds`, without calling it a failure."""

    def __init__(self, seconds: float, why: str) -> None:
        super().__init__(why)
        self.seconds = seconds


@dataclass
class QueueStats:
    """Counters and gauges of a queue, for metrics and liveness. `advanced_at` is on the queue's clock."""

    added: int = 0
    handled: int = 0
    failed: int = 0
    latency_seconds: float = 0.0  # sum over handled keys: from being due to being taken
    work_seconds: float = 0.0
    advanced_at: float = 0.0


class RateLimit:
    """A token bucket: `rate` per second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int, now: Now) -> None:
        self._rate, self._burst, self._now = rate, burst, now
        self._tokens, self._at = float(burst), now()

    def reserve(self, tokens: float = 1.0) -> float:
        """Take tokens and return the seconds to wait until they are there."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._rate)


class WorkQueue(Generic[K]):
    """Keys that wait for work.

    A key added while it waits is one key; added while it is worked on, it comes again afterwards. Failures come back
    after 0.2 s, doubling to a minute, with jitter; success forgets them.
    """

    def __init__(self, *, rate: float = 50.0, burst: int = 400, now: Now = steady) -> None:
        self._now = now
        self._limit = RateLimit(rate, burst, now)
        self._ready: deque[K] = deque()
        self._due: dict[K, float] = {}  # waiting in _ready -> since when
        self._later: list[tuple[float, int, K]] = []
        self._later_at: dict[K, float] = {}
        self._sequence = 0
        self._active: dict[K, float] = {}
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._wakeup = asyncio.Event()
        self.stats = QueueStats(advanced_at=now())

    def add(self, key: K) -> None:
        """Ask for work on `key` as soon as possible."""
        if key in self._active:
            self._again.add(key)
        elif key not in self._due:
            self.stats.added += 1
            self._later_at.pop(key, None)
            self._due[key] = self._now()
            self._ready.append(key)
            self._wakeup.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for work on `key` in `seconds`, or earlier if that was asked for already."""
        at = self._now() + seconds
        if key in self._due or self._later_at.get(key, at + 1) <= at:
            return
        self._later_at[key] = at
        self._sequence += 1
        heapq.heappush(self._later, (at, self._sequence, key))
        self._wakeup.set()

    async def get(self) -> K:
        """Wait for a key that is due, and take it. Call `done` with it afterwards."""
        while True:
            self._promote()
            if self._ready:
                key = self._ready.popleft()
                now = self._now()
                self.stats.latency_seconds += now - self._due.pop(key)
                self.stats.advanced_at = now
                self._active[key] = now
                if self._ready:
                    self._wakeup.set()
                return key
            self._wakeup.clear()
            await self._wait_for_more()

    def done(self, key: K, *, failed: bool) -> None:
        """Give `key` back. Failed ones come again by themselves."""
        self.stats.work_seconds += self._now() - self._active.pop(key)
        self.stats.handled += 1
        self.stats.advanced_at = self._now()
        if failed:
            self.stats.failed += 1
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            self.add_after(key, self._backoff(failures))
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            if not failed:
                self.add(key)

    def forget(self, key: K) -> None:
        """Drop the memory of failures of a key that no longer exists."""
        self._failures.pop(key, None)

    @property
    def depth(self) -> int:
        """Keys due and not taken."""
        return len(self._ready)

    @property
    def oldest_wait(self) -> float:
        """Seconds the first due key has waited."""
        return self._now() - self._due[self._ready[0]] if self._ready else 0.0

    def failures(self, key: K) -> int:
        """How often `key` failed in a row."""
        return self._failures.get(key, 0)

    async def work(self, handle: Callable[[K], Awaitable[None]]) -> None:
        """Be one worker, for ever. `handle` may raise anything; RequeueError asks for a certain delay."""
        while True:
            key = await self.get()
            failed = False
            try:
                await asyncio.sleep(self._limit.reserve())
                await handle(key)
            except RequeueError as again:
                self.add_after(key, again.seconds)
            except WorkFailedError:
                failed = True
            except Exception:
                failed = True
                logger.exception("working on %s failed, attempt %d", key, self.failures(key) + 1)
            finally:
                self.done(key, failed=failed)

    def _promote(self) -> None:
        now = self._now()
        while self._later and self._later[0][0] <= now:
            at, _, key = heapq.heappop(self._later)
            if self._later_at.get(key) == at:
                del self._later_at[key]
                self.add(key)

    async def _wait_for_more(self) -> None:
        timeout = max(0.0, self._later[0][0] - self._now()) if self._later else None
        try:
            await asyncio.wait_for(self._wakeup.wait(), timeout)
        except TimeoutError:
            return

    @staticmethod
    def _backoff(failures: int) -> float:
        delay = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16))
        return delay * random.uniform(0.75, 1.25)
