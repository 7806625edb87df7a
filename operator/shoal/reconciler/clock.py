"""One clock for everything: seconds since the epoch that never jump."""

from __future__ import annotations

import time
from collections.abc import Callable

Now = Callable[[], float]

# Counts on while the machine is suspended, where the system has such a clock.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> float:
    """Seconds of a clock that only goes forward, also while process or machine sleep. Its zero means nothing."""
    return time.clock_gettime(_STEADY)


def make_clock() -> Now:
    """Make a clock that starts at the wall clock's present time and then follows the steady one.

    Somebody who sets the wall clock while we run changes no decision.
    """
    offset = time.time() - steady()
    return lambda: steady() + offset
