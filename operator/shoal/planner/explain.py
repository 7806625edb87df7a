"""Sentences with the numbers of a decision, and the way out where something is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.domain.configuration import Placement
from shoal.domain.plan import Demand, NearestFeasible
from shoal.domain.pool import Pool
from shoal.domain.reasons import Binding, HoldReason, ProfileState
from shoal.domain.service import RequiredProfile, ServiceKey
from shoal.domain.words import count
from shoal.planner.assess import Assessment
from shoal.planner.demand import FRESH
from shoal.planner.stabilise import Change, Choice
from shoal.planner.thermal import Fleet

MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Holding:
    """GPUs of one pool that a service shall have."""

    service: ServiceKey
    priority: int
    gpus: int


def describe(counts: Mapping[Placement, int]) -> str:
    """`3xTP1 in l40s + 1xTP2 in h100`."""
    parts = [f"{n}x{p.configuration.shape} in {p.pool}" for p, n in sorted(counts.items()) if n > 0]
    return " + ".join(parts) or "nothing"


def explain_demand(demand: Demand | None, *, declared: bool = True) -> str:
    """Where the rate comes from, in words."""
    if demand is None:
        return "no arrivals are known"
    if not demand.observed:
        return f"{demand.rate:.3g} req/s {'declared' if declared else 'assumed'}, no traffic seen yet"
    text = f"{demand.rate:.3g} req/s over {demand.window_seconds:.0f} s"
    if demand.forecast > demand.rate * 1.02:
        text += f", {demand.forecast:.3g} expected when a new replica would be ready"
    if demand.stuck_replicas:
        text += f", {count(demand.stuck_replicas, 'replica')} with a queue longer than the TTFT objective"
    return text


def explain_choice(assessment: Assessment, choice: Choice, carried: float) -> str:
    """Why the target is what it is."""
    demand = explain_demand(assessment.demand, declared=assessment.service.workload.declared)
    if assessment.headroom > 1:
        demand += f", {assessment.headroom:.3g} times that as standby"
    lengths = f"{assessment.lengths.input_mean:.0f}+{assessment.lengths.output_mean:.0f} tokens"
    what = f"{describe(choice.counts)} for {demand}; carries {carried:.3g} of {lengths}"
    before = describe(assessment.present)
    reason = {
        Change.NONE: "",
        Change.FIRST: "",
        Change.GROW: f"; was {before}",
        Change.SHRINK: f"; was {before}, and the lower rate has lasted",
        Change.MIX: f"; was {before}, which costs more than the move",
        Change.FORCED: f"; was {before}, which may not be used any more",
        Change.TRIM: f"; was {before}, and less is left for it",
    }[choice.change]
    return f"{what}{reason}.{_profile_hint(assessment)}{_heat_hint(assessment)}"


def explain_hold(assessment: Assessment, reason: HoldReason) -> str:
    """Why the target is frozen, and until when."""
    target = describe(assessment.present)
    detail = {
        HoldReason.METRICS_STALE: (
            f"less than {FRESH:.0%} of the engines and ticks are known "
            f"({max(0.0, assessment.service.load.fresh_fraction):.0%} of the engines answered lately); replicas may be "
            "added but not taken away until they are"
        ),
        HoldReason.INVENTORY_UNREADABLE: "the GPUs of its pools cannot be listed; what it has, it keeps",
        HoldReason.PAUSED: "paused; remove the annotation shoal.dev/paused or the operator-wide pause to go on",
        HoldReason.MOVES_LIMITED: "a better plan waits until fewer services are moving",
        HoldReason.MOVE_IN_FLIGHT: "a cheaper mix waits until the present move has ended",
    }[reason]
    return f"Keeps {target}: {detail}."


def explain_shortage(
    assessment: Assessment, binding: Binding, carried: float, needed_gpus: int | None, pools: Mapping[str, Pool]
) -> str:
    """What binds, who holds what, what is served nevertheless, and what would help."""
    demand = assessment.demand
    rate = demand.forecast if demand else 0.0
    served = f"Serving {min(carried, rate):.3g} of {rate:.3g} req/s"
    if assessment.nearest is not None:
        return f"{explain_latency(assessment, assessment.nearest)} {served} as fast as can be."
    serving = f"{served} within the objective."
    if binding is Binding.LIMIT:
        limit = assessment.service.limits.max_gpus
        return f"needs {_needs(needed_gpus)} GPUs; limits.maxGPUs allows {limit}. {serving} Raise limits.maxGPUs."
    names = assessment.pools
    if binding is Binding.QUOTA:
        return (
            f"needs {_needs(needed_gpus)} GPUs; the namespace's quota in {', '.join(names)} is spent. {serving} Ask "
            "for more gpuQuota."
        )
    holders = "; ".join(explain_stock(pools[name]) for name in names if name in pools)
    return f"needs {_needs(needed_gpus)} {_either(names)}; {holders}. {serving}"


def explain_preferred(holdings: Sequence[Holding]) -> str:
    """Who of higher priority has the GPUs that are missing."""
    names = [f"{h.service} (priority {h.priority}) has {h.gpus}" for h in holdings[:MOST_NAMED]]
    more = len(holdings) - MOST_NAMED
    return f" Of higher priority: {', '.join(names)}{f' and {more} more' if more > 0 else ''}."


def explain_nearest(assessment: Assessment, nearest: NearestFeasible) -> str:
    """The objective that all requests could have with what there is."""
    objective = assessment.service.objective
    parts = [
        f"a {name} of {value:g} ms"
        for name, value in (("TTFT", nearest.ttft_ms), ("ITL", nearest.itl_ms))
        if value is not None
    ]
    return f" All of it could be served with {' and '.join(parts)} (p{objective.percentile})." if parts else ""


def explain_latency(assessment: Assessment, nearest: NearestFeasible) -> str:
    """Which objective no configuration reaches, and which one could be met."""
    parts = []
    objective = assessment.service.objective
    if nearest.ttft_ms is not None:
        parts.append(f"TTFT of {objective.ttft_ms:g} ms is out of reach, {nearest.ttft_ms:g} ms could be met")
    if nearest.itl_ms is not None:
        parts.append(f"ITL of {objective.itl_ms:g} ms is out of reach, {nearest.itl_ms:g} ms could be met")
    source = "" if assessment.profile is not ProfileState.ESTIMATED else " (by an estimate: measure to be sure)"
    return f"p{objective.percentile} {' and '.join(parts)}{source}."


def explain_impossible(assessment: Assessment, binding: Binding) -> str:
    """Why there is no configuration at all, and what to do."""
    service = assessment.service
    if binding is Binding.POOL:
        refused = "; ".join(f"{name}: {why}" for name, why in service.refused_pools)
        missing = [name for name in service.pools if name not in assessment.pools]
        known = f"pools {', '.join(missing)} do not exist" if missing else "no pool admits this namespace"
        return f"No pool may be used: {refused or known}. Name another pool, or ask its administrator."
    if binding is Binding.MEMORY:
        first = min(assessment.rejected, key=lambda r: r.placement, default=None)
        detail = first.message if first else "no GPU is large enough"
        return f"The model fits nowhere: {detail}. Use larger GPUs, a smaller maxContextTokens or a quantised model."
    if binding is Binding.PROFILE:
        reasons = sorted({r.message for r in assessment.rejected if "profile" in r.message or "size" in r.message})
        or_any = ", or set profile.require to Any" if service.required_profile is RequiredProfile.MEASURED else ""
        return (
            f"No usable profile: {'; '.join(reasons) or 'none found'}. Measure one with a ProfileRun or "
            f"`shoal profile`, or import one{or_any}."
        )
    reasons = sorted({r.message for r in assessment.rejected})
    return f"No configuration may be used: {'; '.join(reasons[:4])}."


def explain_stock(pool: Pool) -> str:
    """`24 exist: 17 Shoal, 6 ml/train-*, 1 hot`."""
    if pool.stock is None:
        return f"the GPUs of {pool.name} cannot be listed"
    holders = ", ".join(f"{holder.gpus} {holder.name}" for holder in pool.stock.holders if holder.gpus)
    free = pool.stock.existing - sum(holder.gpus for holder in pool.stock.holders)
    parts = [part for part in (holders, f"{free} free" if free > 0 else "") if part]
    text = f"{pool.stock.existing} exist" + (f": {', '.join(parts)}" if parts else "")
    return text if pool.max_gpus is None else f"{text}; maxGPUs {pool.max_gpus}"


def explain_blocked(assessment: Assessment) -> str:
    """Why a move cannot go on."""
    return (
        " The move waits: no GPU is free for a new replica, and the running ones cannot spare one without missing the "
        f"load or minReplicas {assessment.least}. Free a GPU, or allow one more."
    )


def explain_notes(counts: Mapping[Placement, int], fleets: Mapping[Placement, Fleet]) -> str:
    """Where the capacities of the plan leave what was measured or checked; nothing where they do not."""
    used = [fleets[placement].option.rating.capacity for placement in sorted(counts) if placement in fleets]
    notes = dict.fromkeys(note for capacity in used for note in capacity.notes)
    return f" Beyond what was measured: {'; '.join(notes)}." if notes else ""


def explain_costlier(need: int, cost: float, rate: str, chosen: str) -> str:
    """Why an option that could serve was not taken: what so many replicas of it would cost for the rate."""
    return f"{count(need, 'replica')} for {rate} req/s cost {cost:.4g}/h; the plan costs {chosen}/h"


def _needs(gpus: int | None) -> str:
    return "more" if gpus is None else str(gpus)


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(names) if names else "GPUs"


def _profile_hint(assessment: Assessment) -> str:
    if assessment.profile is not ProfileState.ESTIMATED:
        return ""
    return " Estimated, not measured: a ProfileRun or `shoal profile` measures it; until then nothing is taken away."


def _heat_hint(assessment: Assessment) -> str:
    slow = {name: left for name, left in assessment.derating.items() if left < 1.0}
    if not slow:
        return ""
    worst = min(slow, key=lambda name: (slow[name], name))
    return f" Slowed by their clocks: {count(len(slow), 'replica')}; {worst} carries {slow[worst]:.0%}."
