"""Mode Manual: a person, HPA or KEDA says how many replicas; Shoal chooses what they leave open."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.domain.configuration import Placement
from shoal.domain.service import ManualPlan
from shoal.planner.ledger import Room
from shoal.planner.sizing import Counts, Fleets
from shoal.planner.stabilise import Change, Choice


def choose_manually(manual: ManualPlan, present: Mapping[Placement, int], fleets: Fleets, room: Room) -> Choice:
    """So many replicas of the placement asked for, as far as there is room.

    What is left open stays as it is, else becomes the cheapest.
    """
    asked = max(0, manual.replicas)
    candidates = [placement for placement in fleets if _is_asked(manual, placement)]
    if not candidates:
        return Choice({}, Change.NONE, enough=asked == 0)
    best = min(candidates, key=lambda p: (p not in present, fleets[p].option.cost_of_rate, p))
    count = min(asked, room.most(best, {}))
    counts: Counts = {best: count} if count else {}
    change = Change.NONE if counts == dict(present) else Change.GROW
    return Choice(counts, change, enough=count == asked)


def _is_asked(manual: ManualPlan, placement: Placement) -> bool:
    configuration = placement.configuration
    return (
        manual.pool in (None, placement.pool)
        and manual.tensor_parallel in (None, configuration.tensor_parallel)
        and manual.engines_per_gpu in (None, configuration.engines_per_gpu)
    )
