"""Which request lengths to plan for."""

from __future__ import annotations

import math
from typing import Final

from shoal.domain.profile import LengthMix
from shoal.domain.service import Load
from shoal.planner.rows import is_usable_mix

USUAL_LENGTHS: Final = LengthMix(512.0, 128.0, 1024.0, 256.0)  # when nothing usable was declared or seen
LEAST_DRIFT: Final = math.log(1.1)
"""Observed means count as unchanged within 10 %.

Every smaller change would be a new capacity, and replicas would go back and forth under constant load.
"""
LENGTH_SPREAD: Final = (
    1.0  # standard deviation over mean of request lengths: that of an exponential, chat logs have less
)
ERRORS: Final = 3.0
"""Standard errors of the mean that are no change either.

Lengths are counted when a request ends: after a step of the rate, or when the operator has just begun to read, the
short answers are counted first (100 tokens on average looked like 63 over 5 s in the demo).
"""
TAIL_DRIFT: Final = 2.5  # 95th percentiles wander so much more than means


def planned_lengths(
    observed: LengthMix | None, planned: LengthMix | None, requests: float = math.inf
) -> LengthMix | None:
    """The observed mix to plan for: the one planned for so far until the observed one has moved away from it.

    `requests`: how many the observed mix rests on; of few, only a large difference is believed.
    """
    planned = planned if planned is not None and is_usable_mix(planned) else None
    if observed is None or not is_usable_mix(observed):
        return planned
    if planned is None:
        return observed
    drifts = [
        abs(math.log(now / then))
        for now, then in (
            (observed.input_mean, planned.input_mean),
            (observed.output_mean, planned.output_mean),
            (observed.input_p95, planned.input_p95),
            (observed.output_p95, planned.output_p95),
        )
    ]
    tolerance = max(LEAST_DRIFT, ERRORS * LENGTH_SPREAD / math.sqrt(max(requests, 1.0)))
    same = max(drifts[:2]) <= tolerance and max(drifts[2:]) <= TAIL_DRIFT * tolerance
    return planned if same else observed


def lengths_for(load: Load, planned: LengthMix | None, declared: LengthMix) -> LengthMix:
    """What to plan for: what was observed, where that differs from what was planned for or declared."""
    declared = declared if is_usable_mix(declared) else USUAL_LENGTHS
    return planned_lengths(load.lengths, planned or declared, load.lengths_requests) or declared
