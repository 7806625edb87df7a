"""Virtual time: actions in the order of (time, priority, sequence), so that the same inputs give the same run."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

Action = Callable[[], None]


class Kernel:
    """A clock that jumps from one action to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, int, Action]] = []
        self._sequence = itertools.count()

    def at(self, time: float, action: Action, *, priority: int = 0) -> None:
        """Do something at an instant; lower priorities first among equal instants. Raises ValueError for the past."""
        if time < self.now:
            raise ValueError(f"{time} is before now, {self.now}")
        heapq.heappush(self._queue, (time, priority, next(self._sequence), action))

    def run(self, until: float) -> None:
        """Do everything due up to and including an instant, which is `now` afterwards."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, _, action = heapq.heappop(self._queue)
            action()
        self.now = until
