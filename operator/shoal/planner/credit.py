"""How far live traffic is believed: the margin it earns, and the rate it vouches for.

An estimate may be wrong by a factor of two in either direction: the logarithm of the residual (observed over predicted)
has a standard deviation of ln 2 before anything was seen. Requests of one window share their batches, so about fifty of
them make one independent look, and looks spread by 30 %: `LOOK` = 50 * 0.3^2. With n requests, by Bayes' rule for
normal errors,

    u(n) = 1 / sqrt(1/ln(2)^2 + n/LOOK)        rho(n) = 0.8 - 0.3 * u(n)/ln(2)

Worked: u(0) = 0.69, rho = 0.50; n = 140: u = 0.17, rho = 0.72; n = 1,000: rho = 0.77; n = 10,000: rho = 0.79. The
spread and the fifty are assumed, not measured.

**Pooling.** A measured knee is the highest rate at which the objective's percentile is met under Poisson arrivals, and
may be `KNEE_ERROR` too high. So n replicas meet it whenever `(1 + KNEE_ERROR)*rate/n <= knee`: up to 1/1.08 = 0.926 of
the knee each. The rest of the margin of 0.9 is for one replica alone, which has no other beside it. A margin below 0.9
(other lengths, a model, an estimate) is there for errors that all replicas share, so pooling ends with it at 0.8.

Worked: 60 req/s on replicas with a knee of 32.9 (planned: 29.6 each, 2.03 of them). Two get 30.0 each; 1.08*30.0 = 32.4
is below the knee: two are enough.
"""

from __future__ import annotations

import math
from typing import Final

from shoal.domain.live import Evidence

MARGIN_MEASURED: Final = 0.9
MARGIN_MODELLED: Final = 0.8
MARGIN_ESTIMATED: Final = 0.5
KNEE_ERROR: Final = 0.08  # 0.93 of the overloaded throughput was inside or within 8 % of every measured bracket
PRIOR: Final = math.log(2.0)
LOOK: Final = 50 * 0.3**2
MOST_CREDIT: Final = 1.25  # over the highest rate at which the objective was seen to be met
CERTAIN: Final = PRIOR / 4  # from this uncertainty on an estimate counts as learned: about 140 requests
MOST_TTFT_RATIO: Final = 2.0


def uncertainty(requests: float) -> float:
    """Standard deviation of the residual's logarithm after so many requests."""
    return 1 / math.sqrt(1 / PRIOR**2 + max(0.0, requests) / LOOK)


def margin(requests: float) -> float:
    """Share of the knee to plan for: 0.5 as for any estimate, towards 0.8 as the uncertainty falls."""
    return MARGIN_MODELLED - (MARGIN_MODELLED - MARGIN_ESTIMATED) * uncertainty(requests) / PRIOR


def pooled_share(margin: float) -> float:
    """Times the planned rate (margin times knee) that a replica beside others may get; 1 without a measured knee."""
    measured = min(1.0, max(0.0, (margin - MARGIN_MODELLED) / (MARGIN_MEASURED - MARGIN_MODELLED)))
    return 1 + measured * (1 / (1 + KNEE_ERROR) / MARGIN_MEASURED - 1)


def is_learned(evidence: Evidence) -> bool:
    """Whether the evidence makes more of an estimate than an estimate."""
    return evidence.highest_rate > 0 and uncertainty(evidence.requests) <= CERTAIN


def credited_rate(knee: float, evidence: Evidence, gain: float = 1.0) -> float:
    """Rate of one engine that live traffic vouches for, with its knee brought to what was observed.

    `gain`: rates at the present lengths over rates at those of the evidence.
    """
    return min(margin(evidence.requests) * knee, MOST_CREDIT * evidence.highest_rate * gain)


def planned_rate(knee: float, evidence: Evidence, gain: float = 1.0) -> float:
    """Rate of one engine to grow by: what is credited, and never less than an estimate would have."""
    return max(MARGIN_ESTIMATED * knee, credited_rate(knee, evidence, gain))


def usable_ttft_ratio(evidence: Evidence) -> float:
    """TTFT counts only where it is longer than predicted: at a low rate it is mostly the server's own constant time."""
    return min(MOST_TTFT_RATIO, max(1.0, evidence.ttft_ratio))
