"""Scaling laws of other autoscalers: from what they see to a number of replicas. Nothing here knows the simulator.

A law is an object with a memory. `desired` is called every `interval_seconds` with the present signals and answers how
many replicas there shall be. Bounds (at least, at most) are the caller's.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

KEDA_SECONDS, KPA_SECONDS, HPA_SECONDS = 15.0, 2.0, 15.0  # how often each is asked


@dataclass(frozen=True, slots=True)
class Signals:
    """What a law may look at, at one instant. Rates and latencies are of the interval since the last call.

    `active`: requests that run or wait, in all engines together. `ttft_share`, `itl_share`: 90th percentile over the
    objective (None: there is no objective, or no request to tell). `desired` counts replicas that still start.
    """

    now: float  # seconds
    desired: int
    ready: int
    rate: float  # arrivals per second
    active: float
    ttft_share: float | None = None
    itl_share: float | None = None


class Law(Protocol):
    """How many replicas there shall be."""

    interval_seconds: float

    def desired(self, seen: Signals) -> int:
        """The number wanted now."""
        ...


@dataclass(slots=True)
class Static:
    """Always the same number."""

    replicas: int
    interval_seconds: float = 60.0

    def desired(self, seen: Signals) -> int:
        """The number, whatever is seen."""
        return self.replicas


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`spec.behavior` of a HorizontalPodAutoscaler, `selectPolicy: Max`.

    Windows and periods in seconds; per period at most the larger of so many pods or such a share of those at its start.
    """

    up_window: float = 0.0
    up_pods: int = 4
    up_share: float = 1.0
    up_period: float = 15.0
    down_window: float = 300.0
    down_pods: int = 0
    down_share: float = 1.0
    down_period: float = 15.0


class Brake:
    """Holds recommendations to a Behaviour, as the HorizontalPodAutoscaler does.

    Up: the least recommendation of the window; down: the greatest. Then the limits on change per period.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._wanted: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def hold(self, now: float, present: int, wanted: int) -> int:
        """The number to set, from the present one and the one recommended now."""
        behaviour = self._behaviour
        self._wanted.append((now, wanted))
        least = min(n for at, n in self._wanted if at > now - behaviour.up_window or at == now)
        most = max(n for at, n in self._wanted if at > now - behaviour.down_window or at == now)
        number = least if present < least else most if present > most else present
        number = max(min(number, self._highest(now, present)), self._lowest(now, present), 0)
        if number != present:
            self._changes.append((now, number - present))
        self._forget(now)
        return number

    def _highest(self, now: float, present: int) -> int:
        behaviour = self._behaviour
        start = present - self._changed(now - behaviour.up_period)
        return max(start + behaviour.up_pods, math.ceil(start * (1 + behaviour.up_share)), present)

    def _lowest(self, now: float, present: int) -> int:
        behaviour = self._behaviour
        start = present - self._changed(now - behaviour.down_period)
        return min(start - behaviour.down_pods, math.floor(start * (1 - behaviour.down_share)), present)

    def _changed(self, since: float) -> int:
        return sum(change for at, change in self._changes if at > since)

    def _forget(self, now: float) -> None:
        behaviour = self._behaviour
        while self._wanted and self._wanted[0][0] < now - max(behaviour.up_window, behaviour.down_window):
            self._wanted.popleft()
        while self._changes and self._changes[0][0] < now - max(behaviour.up_period, behaviour.down_period):
            self._changes.popleft()


@dataclass(slots=True)
class HpaLaw:
    """A HorizontalPodAutoscaler on requests per second per replica: `ceil(n * value / target)` beyond the tolerance."""

    target: float  # requests per second of one replica
    behaviour: Behaviour = Behaviour()
    tolerance: float = 0.1
    interval_seconds: float = HPA_SECONDS
    _brake: Brake = field(init=False)

    def __post_init__(self) -> None:
        self._brake = Brake(self.behaviour)

    def desired(self, seen: Signals) -> int:
        """The number after stabilisation and limits."""
        ratio = seen.rate / (self.target * max(seen.desired, 1))
        wanted = seen.desired if abs(ratio - 1) <= self.tolerance else math.ceil(seen.rate / self.target)
        return self._brake.hold(seen.now, seen.desired, wanted)


# As llm-d publishes it: up by 100 % or 4 a minute after 30 s, down by 1 in two minutes after three.
LLM_D_BEHAVIOUR = Behaviour(
    up_window=30.0, up_pods=4, up_share=1.0, up_period=60.0, down_window=180.0, down_pods=1, down_share=0.0,
    down_period=120.0,
)  # fmt: skip


@dataclass(slots=True)
class KedaLaw:
    """llm-d's law on latency over objective.

    Every 15 s: s = mean over 45 s of min(2, max(P90 TTFT/SLO, P90 TPOT/SLO)). Above 0.55: n + ceil(n(s/0.55 - 1));
    below 0.40: n - floor(n(1 - s/0.40)). An interval in which nobody was answered while requests were there counts as
    nothing seen; one without requests as 0.
    """

    interval_seconds: float = KEDA_SECONDS
    window_seconds: float = 45.0
    high: float = 0.55
    low: float = 0.40
    cap: float = 2.0
    _brake: Brake = field(init=False)
    _samples: deque[tuple[float, float]] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        self._brake = Brake(LLM_D_BEHAVIOUR)

    def desired(self, seen: Signals) -> int:
        """The number after stabilisation and limits."""
        share = self._sample(seen)
        wanted = seen.desired if share is None else self._wanted(share, seen.desired)
        return self._brake.hold(seen.now, seen.desired, wanted)

    def _sample(self, seen: Signals) -> float | None:
        shares = [share for share in (seen.ttft_share, seen.itl_share) if share is not None]
        if shares or not seen.active:
            self._samples.append((seen.now, min(self.cap, max(shares, default=0.0))))
        while self._samples and self._samples[0][0] <= seen.now - self.window_seconds:
            self._samples.popleft()
        return sum(share for _, share in self._samples) / len(self._samples) if self._samples else None

    def _wanted(self, share: float, present: int) -> int:
        if share > self.high:
            return present + math.ceil(present * (share / self.high - 1))
        if share < self.low:
            return present - math.floor(present * (1 - share / self.low))
        return present


@dataclass(slots=True)
class KpaLaw:
    """Knative's concurrency law: mean active requests over a stable and a panic window, over a target per replica.

    Panic when the short window wants at least `threshold` times the ready replicas: then the number only rises, until
    a stable window has passed without panic.
    """

    target: float  # active requests of one replica
    interval_seconds: float = KPA_SECONDS
    stable_seconds: float = 60.0
    panic_seconds: float = 6.0
    threshold: float = 2.0
    most_up: float = 1000.0  # times the ready replicas, in one call
    most_down: float = 2.0  # the ready replicas over this, in one call
    _samples: deque[tuple[float, float]] = field(init=False, default_factory=deque)
    _panic_since: float | None = field(init=False, default=None)
    _panic_most: int = field(init=False, default=0)

    def desired(self, seen: Signals) -> int:
        """The number for the present window."""
        self._samples.append((seen.now, seen.active))
        while self._samples[0][0] <= seen.now - self.stable_seconds:
            self._samples.popleft()
        ready = max(seen.ready, 1)
        stable, panic = (self._wanted(seen.now - s, ready) for s in (self.stable_seconds, self.panic_seconds))
        if self._mean(seen.now - self.panic_seconds) / self.target >= self.threshold * ready:
            self._panic_since = seen.now
        elif self._panic_since is not None and seen.now - self._panic_since > self.stable_seconds:
            self._panic_since, self._panic_most = None, 0
        if self._panic_since is None:
            return stable
        self._panic_most = max(self._panic_most, panic)
        return self._panic_most

    def _wanted(self, since: float, ready: int) -> int:
        wanted = math.ceil(self._mean(since) / self.target)
        return int(max(math.floor(ready / self.most_down), min(wanted, math.ceil(ready * self.most_up))))

    def _mean(self, since: float) -> float:
        values = [active for at, active in self._samples if at > since]
        return sum(values) / len(values)
