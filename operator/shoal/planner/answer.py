"""From a choice and its steps to the Decision that is published: typed numbers, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from shoal.domain.configuration import Placement
from shoal.domain.plan import (
    Capacity,
    Decision,
    Demand,
    Explanation,
    Hold,
    Infeasible,
    NearestFeasible,
    Plan,
    PlannedVariant,
    Prediction,
    RejectedOption,
    Scale,
)
from shoal.domain.pool import Pool
from shoal.domain.reasons import Binding, HoldReason, ProfileState, Rejection
from shoal.domain.service import Mode, RequiredProfile
from shoal.planner import explain
from shoal.planner.assess import Assessment
from shoal.planner.curves import KNEE
from shoal.planner.explain import Holding
from shoal.planner.frontier import Offer
from shoal.planner.ledger import UNBOUNDED, PoolRoom, Room, padded_size
from shoal.planner.manual import choose_manually
from shoal.planner.rollout import Rollout
from shoal.planner.sizing import size, total_cost, total_gpus, total_rate
from shoal.planner.stabilise import Choice
from shoal.planner.thermal import idle_fleets

MOST_UTILISED: float = 1000.0  # stands for a demand without any capacity
UNKNOWN = Capacity(0.0, 0.0, None, None, 0.0, ProfileState.MISSING, None, "unknown")
NO_DEMAND = Demand(rate=0.0, forecast=0.0, standard_error=0.0, slope=0.0, window_seconds=0.0, observed=False)


@dataclass(frozen=True)
class Outcome:
    """All that was found out about one service. `holders`: who has GPUs of each pool, the highest priority first."""

    assessment: Assessment
    choice: Choice
    room: Room
    rollout: Rollout
    holders: Mapping[str, Sequence[Holding]]

    @property
    def preferred(self) -> list[Holding]:
        """What services of higher priority have in the pools this one may use, the highest first."""
        own = self.assessment.priority
        found = [h for name in self.assessment.pools for h in self.holders.get(name, ()) if h.priority > own]
        return sorted(found, key=lambda h: (-h.priority, -h.gpus, h.service))

    @cached_property
    def carried(self) -> float:
        """Requests per second the target carries within the objective."""
        fleets = self.assessment.fleets
        return total_rate({p: n for p, n in self.choice.counts.items() if p in fleets}, fleets)


def make_decision(outcome: Outcome, pools: Mapping[str, Pool]) -> Decision:
    """The closed answer for one service."""
    assessment, choice = outcome.assessment, outcome.choice
    if choice.hold is HoldReason.PAUSED:
        return _hold(outcome, HoldReason.PAUSED)
    if not assessment.fleets or (not choice.counts and not choice.enough and choice.hold is None):
        return _impossible(outcome, pools)
    if choice.hold is HoldReason.INVENTORY_UNREADABLE:
        return _hold(outcome, choice.hold)
    if not choice.enough or assessment.nearest is not None:
        return _short(outcome, pools)
    if choice.hold is not None:
        return _hold(outcome, choice.hold)
    return _scale(outcome)


def _scale(outcome: Outcome) -> Scale:
    assessment = outcome.assessment
    plan = _plan(outcome, _usual_binding(outcome))
    message = explain.explain_choice(assessment, outcome.choice, outcome.carried)
    return Scale(
        service=assessment.service.key,
        plan=plan,
        steps=outcome.rollout.steps,
        explanation=_explanation(outcome, message),
        moved=_moved(outcome),
    )


def _hold(outcome: Outcome, reason: HoldReason) -> Hold:
    message = explain.explain_hold(outcome.assessment, reason)
    return Hold(
        service=outcome.assessment.service.key,
        reason=reason,
        plan=_plan(outcome, Binding.DEMAND),
        steps=outcome.rollout.steps,
        explanation=_explanation(outcome, message),
    )


def _short(outcome: Outcome, pools: Mapping[str, Pool]) -> Infeasible:
    """Something runs, or shall, but it is too little or too slow."""
    assessment = outcome.assessment
    needed = _needed_gpus(assessment)
    binding = Binding.LATENCY if assessment.nearest is not None else _shortage(outcome)
    plan = _plan(outcome, binding)
    nearest = assessment.nearest or _nearest(outcome, plan.predicted, needed)
    message = explain.explain_shortage(assessment, binding, outcome.carried, needed, pools)
    if binding is Binding.PRIORITY:
        message += explain.explain_preferred(outcome.preferred)
    message += explain.explain_nearest(assessment, nearest) if assessment.nearest is None else ""
    return Infeasible(
        service=assessment.service.key,
        binding=binding,
        plan=plan,
        steps=outcome.rollout.steps,
        explanation=_explanation(outcome, message),
        nearest=nearest,
        moved=_moved(outcome),
    )


def _nearest(outcome: Outcome, predicted: Prediction, needed: int | None) -> NearestFeasible:
    """What could be met instead: a lower rate, more GPUs, or, while the queue would not grow, a looser objective."""
    objective, fleets = outcome.assessment.service.objective, outcome.assessment.fleets
    overload = sum(fleets[p].option.overload_rate * n for p, n in outcome.choice.counts.items() if p in fleets)
    demand = (outcome.assessment.demand or NO_DEMAND).forecast
    ttft = itl = None
    if demand < KNEE * overload and outcome.carried > 0:
        ttft = _looser(objective.ttft_ms, predicted.ttft_ms)
        itl = _looser(objective.itl_ms, predicted.itl_ms)
    return NearestFeasible(ttft_ms=ttft, itl_ms=itl, rate=outcome.carried, gpus=needed)


def _looser(asked: float | None, predicted: float | None) -> float | None:
    return math.ceil(predicted) if asked is not None and predicted is not None and predicted > asked else None


def _impossible(outcome: Outcome, pools: Mapping[str, Pool]) -> Infeasible:
    """Nothing can be planned; what runs is left alone, and memory keeps its target."""
    assessment = outcome.assessment
    if assessment.fleets:
        needed = _needed_gpus(assessment)
        binding = _shortage(outcome)
        message = explain.explain_shortage(assessment, binding, 0.0, needed, pools)
        if binding is Binding.PRIORITY:
            message += explain.explain_preferred(outcome.preferred)
        nearest = NearestFeasible(rate=0.0, gpus=needed)
    else:
        binding = _obstacle(assessment)
        message = explain.explain_impossible(assessment, binding)
        nearest = NearestFeasible()
    return Infeasible(
        service=assessment.service.key,
        binding=binding,
        plan=Plan((), _predict(outcome), 0.0, binding),
        steps=outcome.rollout.steps,
        explanation=_explanation(outcome, message),
        nearest=nearest,
        moved=False,
    )


def _plan(outcome: Outcome, binding: Binding) -> Plan:
    fleets, counts = outcome.assessment.fleets, outcome.choice.counts
    variants = tuple(
        PlannedVariant(p, n, fleets[p].option.rating.capacity if p in fleets else UNKNOWN)
        for p, n in sorted(counts.items())
        if n > 0
    )
    cost = total_cost({p: n for p, n in counts.items() if p in fleets}, fleets)
    return Plan(variants, _predict(outcome), round(cost, 4), binding)


def _predict(outcome: Outcome) -> Prediction:
    """Latencies at the present demand, loaded in proportion to what replicas carry; the slowest counts."""
    demand = outcome.assessment.demand or NO_DEMAND
    if outcome.carried <= 0:
        return Prediction(None, None, MOST_UTILISED if demand.rate > 0 else 0.0)
    share = demand.rate / outcome.carried
    ttft: list[float] = []
    itl: list[float] = []
    for placement in outcome.choice.counts:
        fleet = outcome.assessment.fleets.get(placement)
        if fleet is None:
            continue
        rating = fleet.option.rating
        for values, value in zip((ttft, itl), rating.curve.latencies(share * rating.capacity.rate), strict=True):
            if value is not None:
                values.append(value)
    return Prediction(max(ttft, default=None), max(itl, default=None), min(MOST_UTILISED, share))


def _explanation(outcome: Outcome, message: str) -> Explanation:
    assessment = outcome.assessment
    if outcome.rollout.blocked:
        message += explain.explain_blocked(assessment)
    message += explain.explain_notes(outcome.choice.counts, assessment.fleets)
    return Explanation(
        demand=assessment.demand or NO_DEMAND,
        profile=assessment.profile,
        frontier=assessment.offer.frontier,
        rejected=(*assessment.rejected, *_not_taken(outcome)),
        message=message,
        derating=assessment.derating,
        mix_wanted_since=outcome.choice.mix_wanted_since,
        residuals=assessment.residuals,
    )


def _not_taken(outcome: Outcome) -> tuple[RejectedOption, ...]:
    """Options that could serve and are not in the plan, each with its reason."""
    assessment, counts, cheaper = outcome.assessment, outcome.choice.counts, outcome.choice.cheaper
    fleets, room = assessment.fleets, outcome.room
    rate = (assessment.demand or NO_DEMAND).forecast
    chosen = total_cost({p: n for p, n in counts.items() if p in fleets}, fleets)
    return _reasons(
        assessment.offer,
        tuple(placement for placement, count in counts.items() if count),
        assessment.least,
        (frozenset(room.pools), room.full),
        (f"{rate:.3g}", f"{chosen:.4g}"),
        cheaper=(tuple(cheaper.counts.items()), f"{cheaper.cost:.4g}") if cheaper else None,
    )


@lru_cache(maxsize=2048)
def _reasons(
    offer: Offer,
    taken: tuple[Placement, ...],
    least: int,
    room: tuple[frozenset[str], frozenset[tuple[str, int]]],
    numbers: tuple[str, str],
    *,
    cheaper: tuple[tuple[tuple[Placement, int], ...], str] | None,
) -> tuple[RejectedOption, ...]:
    """Why not the options that are not `taken`; remembered, as a rate that wanders within its last digit changes none.

    `least`: replicas in any case; `room`: pools there are, and sizes of which none is left in them; `numbers`: the
    demand and the plan's price as they are told; `cheaper`: a mix that would cost less, and its price.
    """
    (pools, full), (asked, plan) = room, numbers
    mix, saved = (dict(cheaper[0]), cheaper[1]) if cheaper else ({}, "")
    rejected = []
    for placement, fleet in idle_fleets(offer).items():
        option = fleet.option
        if placement in taken:
            continue
        if (placement.pool, padded_size(option.gpus)) in full or placement.pool not in pools:
            verdict = Rejection.NO_STOCK, "no GPU is left for it"
        elif placement in mix:
            verdict = (
                Rejection.MOVE_NOT_WORTH_IT,
                f"{explain.describe(mix)} would cost {saved}/h against {plan}/h; the saving must outweigh the move, in "
                "three successive plans",
            )
        else:
            need = max(fleet.need(float(asked)), least)
            verdict = Rejection.COSTLIER, explain.explain_costlier(need, option.cost * need, asked, plan)
        rejected.append(RejectedOption(placement, *verdict))
    return tuple(rejected)


def _moved(outcome: Outcome) -> bool:
    memory = outcome.assessment.service.memory
    before: dict[Placement, int] = {}
    for placed in memory.target or ():
        before[placed.placement] = before.get(placed.placement, 0) + placed.replicas
    after = {p: n for p, n in outcome.choice.counts.items() if n > 0}
    return memory.target is None or {p: n for p, n in before.items() if n > 0} != after


def _usual_binding(outcome: Outcome) -> Binding:
    assessment = outcome.assessment
    if assessment.service.mode is Mode.MANUAL and assessment.service.manual is not None:
        return Binding.MANUAL
    count = sum(outcome.choice.counts.values())
    demand = assessment.demand or NO_DEMAND
    needs_fewer = count > 0 and demand.forecast <= outcome.carried * (count - 1) / count
    return Binding.FLOOR if count <= assessment.least and needs_fewer else Binding.DEMAND


def _shortage(outcome: Outcome) -> Binding:
    """Which bound keeps the next replica out."""
    assessment, counts, room = outcome.assessment, outcome.choice.counts, outcome.room
    smallest = min(fleet.option.gpus for fleet in assessment.fleets.values())
    if room.limit - total_gpus(counts) < smallest:
        return Binding.LIMIT
    by_quota = False
    for name, pool_room in room.pools.items():
        used = total_gpus({p: n for p, n in counts.items() if p.pool == name})
        by_quota = by_quota or pool_room.quota - used < smallest <= pool_room.stock - used
    if by_quota:
        return Binding.QUOTA
    return Binding.PRIORITY if outcome.preferred else Binding.STOCK


def _obstacle(assessment: Assessment) -> Binding:
    """Why there is no option at all."""
    reasons = {rejected.reason for rejected in assessment.rejected}
    if not assessment.pools:
        return Binding.POOL
    unprofiled = {Rejection.NOT_MEASURED, Rejection.ESTIMATE_MAY_NOT_SHARE}
    if assessment.service.required_profile is RequiredProfile.MEASURED and reasons & unprofiled:
        return Binding.PROFILE
    if Rejection.DOES_NOT_FIT in reasons and Rejection.NOT_MEASURED not in reasons:
        return Binding.MEMORY
    return Binding.PROFILE if reasons & unprofiled else Binding.POOL


def _needed_gpus(assessment: Assessment) -> int | None:
    """GPUs the demand, or a person, needs if there were enough of all; None when that cannot be said."""
    open_pool = PoolRoom(UNBOUNDED, groups=(UNBOUNDED, UNBOUNDED, UNBOUNDED, UNBOUNDED))
    room = Room(dict.fromkeys(assessment.pools, open_pool))
    service = assessment.service
    if service.mode is Mode.MANUAL and service.manual is not None:
        return total_gpus(choose_manually(service.manual, assessment.present, assessment.fleets, room).counts)
    rate = (assessment.demand or NO_DEMAND).forecast
    sized = size(assessment.fleets, rate, assessment.least, room)
    return total_gpus(sized.counts) if sized.enough else None
