"""Ways in which a simulated engine can misbehave, for tests of those who watch it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Fault(enum.StrEnum):
    """One way."""

    HANG = "hang"  # accepts connections, answers nothing, not even /health
    CRASH = "crash"  # ends at once with status 1
    SLOW = "slow"  # every step takes VALUE times as long
    ERRORS = "errors"  # 500 to every request
    EMPTY_STREAM = "empty-stream"  # 200 and the end
    METRICS_DOWN = "metrics-down"  # /metrics answers 503
    METRICS_NAN = "metrics-nan"  # gauges are NaN


@dataclass(frozen=True, slots=True)
class ActiveFault:
    """A fault and its value, where it takes one."""

    fault: Fault
    value: float = 1.0

    @classmethod
    def parse(cls, text: str) -> ActiveFault:
        """From `slow=3` or `hang`. Raises ValueError."""
        name, _, value = text.partition("=")
        active = cls(Fault(name), float(value) if value else 1.0)
        if not active.value > 0:
            raise ValueError(f"the value of a fault is positive: {text}")
        return active
