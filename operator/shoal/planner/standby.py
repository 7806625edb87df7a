"""Spare capacity for a step of the rate that nobody announced, from the loss the owner allows.

The rate `lam` multiplies by f at once. New replicas carry their share D seconds later (a start-up, and the ticks until
the step is seen). Until then n replicas, each of which keeps the objective up to K requests per second, have f*lam. A
queue grows evenly on each of them at `f*lam/n - K`; whoever comes waits `t*(f*lam/(n*K) - 1)` seconds after time t, and
keeps a TTFT objective of T until

    t1 = T / (f*lam/(n*K) - 1)

So the share 1 - t1/D of the requests of those D seconds misses. At most m of them do exactly when t1 >= (1 - m)*D, or

    n >= f*lam / (K * (1 + T/((1 - m)*D)))

and any n will do when m = 1. Since a replica is planned at C = margin*K, this is n = ceil(h*lam/C) with the headroom

    h = max(1, f * margin / (1 + T/((1 - m)*D)))

Worked: 10 req/s may become 30 (f = 3), a start-up of 90 s seen after 10 s (D = 100), T = 0.5 s, m = 0.05, replicas of
C = 9 and K = 10: h = 3 * 0.9 / (1 + 0.5/95) = 2.686, n = ceil(26.86/9) = 3 (2 without standby); with 2 replicas t1 is
1 s, and 99 % would miss. So one queue decides nearly all: m matters only where T is not small against D.

h multiplies rate, forecast and standard error alike, so the law keeps its relative uncertainty and its bound on moves
(stabilise.py) holds with h*lam in place of lam. Range: one step at a time, from empty queues; requests that were queued
do not move to new replicas. Source: the fluid model of the law; tests/planner/test_standby.py holds the formula against
a simulation tick by tick.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from shoal.domain.plan import Demand
from shoal.domain.service import Standby

REACTION_SECONDS: Final = 10.0  # from a step to the decision: the tick of the step and the next one
MOST_HEADROOM: Final = 20.0


def compute_headroom(
    standby: Standby | None, margins: Iterable[float], ttft_ms: float | None, startup_seconds: float
) -> float:
    """How many times the present rate to plan for; 1 without a standby. `margins`: of the options, the largest counts.

    Without a TTFT objective every request beyond K makes the gaps of all others too long: T is 0.
    """
    if standby is None or not standby.step_factor > 1:
        return 1.0
    kept = 1 - min(1.0, max(0.0, standby.max_miss))
    if kept <= 0:
        return 1.0
    until_relief = kept * (max(0.0, startup_seconds) + REACTION_SECONDS)
    patience = (ttft_ms or 0.0) / 1000
    headroom = standby.step_factor * max(margins, default=1.0) / (1 + patience / until_relief)
    return min(MOST_HEADROOM, max(1.0, headroom)) if math.isfinite(headroom) else 1.0


def with_headroom(demand: Demand | None, headroom: float) -> Demand | None:
    """The demand to plan for, everything in proportion."""
    if demand is None or headroom == 1.0:
        return demand
    return replace(
        demand,
        rate=headroom * demand.rate,
        forecast=headroom * demand.forecast,
        standard_error=headroom * demand.standard_error,
        slope=headroom * demand.slope,
        trend=headroom * demand.trend,
        recent=headroom * demand.recent,
        latest=headroom * demand.latest,
    )
