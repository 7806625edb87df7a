"""The decision: one Snapshot in, one Decision for every ModelService out. Pure, synchronous, total.

Targets are chosen for all services together (`allocate.py`); steps towards them are taken from the GPUs that nobody
holds at this instant, the higher priority first, then the older service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shoal.domain.configuration import Placement
from shoal.domain.plan import Decision, PlanSet
from shoal.domain.service import Mode, Service, ServiceKey
from shoal.domain.snapshot import Snapshot
from shoal.planner.allocate import allocate
from shoal.planner.answer import Outcome, make_decision
from shoal.planner.assess import Assessment, World, assess, make_world
from shoal.planner.book import keeps_still
from shoal.planner.demand import rate_now
from shoal.planner.explain import Holding
from shoal.planner.ledger import Ledger
from shoal.planner.rollout import Rollout, is_there, next_steps, peak_uses, standing_still
from shoal.planner.stabilise import Choice


def decide(snapshot: Snapshot) -> PlanSet:
    """One Decision for every service of the snapshot, whatever it holds. The order of its services does not matter."""
    world = make_world(snapshot)
    assessments = sorted((assess(service, world) for service in snapshot.services), key=lambda a: a.order)
    allocation = allocate(assessments, world)
    choices, rooms = allocation.choices, allocation.rooms
    rollouts = _roll_out_all(assessments, choices, world)
    holders = _holders(assessments, choices)
    decisions: dict[ServiceKey, Decision] = {}
    for assessment in assessments:
        key = assessment.service.key
        outcome = Outcome(assessment, choices[key], rooms[key], rollouts[key], holders)
        decisions[key] = make_decision(outcome, world.pools)
    return PlanSet(at=snapshot.now, decisions=decisions, quality=allocation.quality)


def _roll_out_all(
    assessments: list[Assessment], choices: Mapping[ServiceKey, Choice], world: World
) -> dict[ServiceKey, Rollout]:
    """Steps of all services, from the GPUs that nobody holds at this instant."""
    if all(_is_still(assessment, choices[assessment.service.key].counts, world) for assessment in assessments):
        return {a.service.key: Rollout(standing_still(a.service.running)) for a in assessments}
    ledger = Ledger(world.pools.values())
    rollouts: dict[ServiceKey, Rollout] = {}
    for assessment in assessments:
        ledger.reserve(assessment.service.key, peak_uses(assessment.service.running))
    for assessment in assessments:
        service = assessment.service
        counts = choices[service.key].counts
        if _is_still(assessment, counts, world):
            rollouts[service.key] = Rollout(standing_still(service.running))
            continue
        excess = _excess(ledger, assessment, world)
        if excess <= 0 and is_there(service.running, counts):
            rollouts[service.key] = Rollout(standing_still(service.running))
            continue
        pools = {*assessment.pools, *(placement.pool for placement in counts)}
        limit = service.limits.max_gpus
        rollout = next_steps(
            service.running,
            counts,
            assessment.fleets,
            ledger.room(service.key, pools, limit=limit, beside_own=True),
            load=_load(assessment),
            least=assessment.least,
            excess_gpus=excess,
        )
        rollouts[service.key] = rollout
        ledger.reserve(service.key, peak_uses(service.running, rollout.steps))
    return rollouts


def _is_still(assessment: Assessment, counts: Mapping[Placement, int], world: World) -> bool:
    """Whether there is no step to take, whoever holds what: neither a limit nor a quota could ask for one."""
    service = assessment.service
    if keeps_still(assessment) or (not counts and not _is_emptied(service)):
        return True
    bounded = service.limits.max_gpus is not None or any(
        admission.namespace == service.key.namespace and admission.gpu_quota is not None
        for name in assessment.pools
        for admission in world.pools[name].admissions
    )
    return not bounded and is_there(service.running, counts)


def _is_emptied(service: Service) -> bool:
    """Whether an empty target is a wish. Otherwise nothing can be planned, and what still runs is left alone."""
    manual = service.mode is Mode.MANUAL and service.manual is not None and service.manual.replicas <= 0
    return manual or service.limits.min_replicas <= 0


def _load(assessment: Assessment) -> float:
    demand = assessment.demand
    return rate_now(demand) + demand.standard_error if demand else float("inf")


def _excess(ledger: Ledger, assessment: Assessment, world: World) -> int:
    """GPUs held beyond the service's limit or its namespace's quotas."""
    service = assessment.service
    held = ledger.held(service.key)
    limit = service.limits.max_gpus
    over = [0 if limit is None else held - limit]
    for name in assessment.pools:
        over.append(ledger.over_quota(service.key, name))
    return max(over)


def _holders(assessments: Iterable[Assessment], choices: Mapping[ServiceKey, Choice]) -> dict[str, list[Holding]]:
    """Who shall have GPUs of each pool; assessments are in the order of priority."""
    holders: dict[str, list[Holding]] = {}
    for assessment in assessments:
        key = assessment.service.key
        for placement, count in choices[key].counts.items():
            gpus = count * placement.configuration.gpus_per_replica
            if gpus:
                holders.setdefault(placement.pool, []).append(Holding(key, assessment.priority, gpus))
    return holders
