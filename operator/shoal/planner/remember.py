"""What the next decision needs of this one."""

from __future__ import annotations

from dataclasses import replace

from shoal.domain.plan import Decision, Hold, Plan
from shoal.domain.profile import LengthMix
from shoal.domain.service import Memory, PlacedReplicas, Service
from shoal.planner.lengths import lengths_for


def remember(service: Service, decision: Decision, at: float) -> Memory:
    """The memory to hand to the next decision about this service, `at` being the instant of this one.

    Losing it is safe: without it what runs counts as the target, and nothing shrinks before a full window of traffic.
    """
    memory = service.memory
    seen = memory.traffic_seen or any(tick.count > 0 for tick in service.load.ticks)
    memory = replace(
        memory,
        traffic_seen=seen,
        mix_wanted_since=decision.explanation.mix_wanted_since,
        lengths=_lengths(service),
    )
    if isinstance(decision, Hold) or not decision.moved:
        return memory if memory.target is not None else replace(memory, target=_target(decision.plan))
    target = _target(decision.plan)
    placements = {placed.placement for placed in memory.target or ()}
    if memory.target is not None and placements != {placed.placement for placed in target}:
        memory = replace(memory, last_mix_change_at=at)
    return replace(memory, target=target, last_move_at=at)


def _lengths(service: Service) -> LengthMix | None:
    planned = service.memory.lengths
    return planned if service.load.lengths is None else lengths_for(service.load, planned, service.workload.lengths)


def _target(plan: Plan) -> tuple[PlacedReplicas, ...]:
    return tuple(PlacedReplicas(variant.placement, variant.replicas) for variant in plan.variants if variant.replicas)
