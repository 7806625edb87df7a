"""Which request lengths to plan for."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Final

from shoal.domain.profile import LengthMix
from shoal.planner.rows import is_usable_mix

USUAL_LENGTHS: Final = LengthMix(512.0, 128.0, 1024.0, 256.0)  # when nothing usable was declared or seen
MOST_DRIFT: Final = math.log(1.1)
"""Observed lengths count as unchanged within 10 %, the error of their mean over 50 requests.

Every smaller change would be a new capacity, and replicas would go back and forth under constant load.
"""
MOST_TAIL_DRIFT: Final = math.log(1.25)
"""The same for their 95th percentiles, which wander more."""


def planned_lengths(observed: LengthMix | None, planned: LengthMix | None) -> LengthMix | None:
    """The observed mix to plan for: the one planned for so far until the observed one has moved away from it."""
    planned = planned if planned is not None and is_usable_mix(planned) else None
    if observed is None or not is_usable_mix(observed):
        return planned
    if planned is None:
        return observed
    drifts = [abs(math.log(now / then)) for now, then in zip(astuple(observed), astuple(planned), strict=True)]
    same = max(drifts[:2]) <= MOST_DRIFT and max(drifts[2:]) <= MOST_TAIL_DRIFT
    return planned if same else observed


def lengths_for(observed: LengthMix | None, planned: LengthMix | None, declared: LengthMix) -> LengthMix:
    """What to plan for: what was observed, where that differs from what was declared; else what was declared."""
    declared = declared if is_usable_mix(declared) else USUAL_LENGTHS
    return planned_lengths(observed, planned or declared) or declared
