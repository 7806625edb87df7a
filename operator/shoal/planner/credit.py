"""How far live traffic is believed: the margin it earns, and the rate it vouches for.

An estimate may be wrong by a factor of two in either direction: the logarithm of the residual (observed over predicted)
has a standard deviation of ln 2 before anything was seen. Requests of one window share their batches, so about fifty of
them make one independent look, and looks spread by 30 %: `LOOK` = 50 * 0.3^2. With n requests, by Bayes' rule for
normal errors,

    u(n) = 1 / sqrt(1/ln(2)^2 + n/LOOK)        rho(n) = 0.8 - 0.3 * u(n)/ln(2)

Worked: u(0) = 0.69, rho = 0.50; n = 140: u = 0.17, rho = 0.72; n = 1,000: rho = 0.77; n = 10,000: rho = 0.79. The
spread and the fifty are assumed, not measured.
"""

from __future__ import annotations

import math
from typing import Final

from shoal.domain.live import Evidence

MARGIN_MEASURED: Final = 0.9
MARGIN_MODELLED: Final = 0.8
MARGIN_ESTIMATED: Final = 0.5
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
