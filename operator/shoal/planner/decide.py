"""The decision: one Snapshot in, one Decision for every ModelService out. Pure, synchronous, total.

The order: what is frozen keeps its GPUs; then everybody's floor; then, from the highest priority down, what each
service has already, and what it needs more. Within one priority nobody takes from another what that one has; free GPUs
go to the older service. Steps are taken in the same order from the GPUs that nobody holds at this instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby

from shoal.domain.configuration import Placement
from shoal.domain.plan import Decision, PlanSet
from shoal.domain.reasons import HoldReason
from shoal.domain.service import Mode, RunningVariant, Service, ServiceKey
from shoal.domain.snapshot import Snapshot
from shoal.planner.answer import Outcome, make_decision
from shoal.planner.assess import Assessment, World, assess, make_world
from shoal.planner.demand import rate_now
from shoal.planner.ledger import Ledger, Room, Use
from shoal.planner.manual import choose_manually
from shoal.planner.rollout import Rollout, next_steps, peak_uses, standing_still
from shoal.planner.sizing import Counts, size, total_gpus, trim
from shoal.planner.stabilise import Change, Choice, Situation, choose_target


def decide(snapshot: Snapshot) -> PlanSet:
    """One Decision for every service of the snapshot, whatever it holds. The order of its services does not matter."""
    world = make_world(snapshot)
    assessments = sorted((assess(service, world) for service in snapshot.services), key=lambda a: a.order)
    choices, rooms = _choose_all(assessments, world)
    rollouts = _roll_out_all(assessments, choices, world)
    decisions: dict[ServiceKey, Decision] = {}
    for assessment in assessments:
        key = assessment.service.key
        outcome = Outcome(
            assessment, choices[key], rooms[key], rollouts[key], _contested(assessment, assessments, choices)
        )
        decisions[key] = make_decision(outcome, world.pools)
    return PlanSet(at=snapshot.now, decisions=decisions)


def _choose_all(assessments: list[Assessment], world: World) -> tuple[dict[ServiceKey, Choice], dict[ServiceKey, Room]]:
    """Targets of all services, and the room each one had."""
    ledger = Ledger(world.pools.values(), _held(assessments))
    choices: dict[ServiceKey, Choice] = {}
    rooms: dict[ServiceKey, Room] = {}
    _reserve_frozen_and_floors(assessments, ledger)
    moving = sum(a.moving and bool(a.present) for a in assessments)
    most = world.snapshot.brakes.max_concurrent_moves
    for _, same in groupby(assessments, key=lambda a: a.priority):
        equals = list(same)
        for assessment in equals:
            if not _keeps_still(assessment):
                _reserve_present(ledger, assessment)
        for assessment in equals:
            key = assessment.service.key
            rooms[key] = _room(ledger, assessment)
            may_move = most is None or moving < most or assessment.moving
            choice = _choose(assessment, rooms[key], may_move, world)
            moving += choice.change in (Change.SHRINK, Change.MIX) and not assessment.moving
            choices[key] = choice
            if not _keeps_still(assessment):
                _reserve(ledger, assessment, choice.counts)
    return choices, rooms


def _reserve_frozen_and_floors(assessments: Iterable[Assessment], ledger: Ledger) -> None:
    for assessment in assessments:
        if _keeps_still(assessment):
            ledger.reserve(assessment.service.key, peak_uses(assessment.service.running))
        elif assessment.demand is None or not assessment.fresh:
            _reserve_present(ledger, assessment)
    for assessment in assessments:
        if not _keeps_still(assessment) and not ledger.held(assessment.service.key):
            _reserve(ledger, assessment, _floor(ledger, assessment))


def _keeps_still(assessment: Assessment) -> bool:
    """Whether nothing about this service changes now, so that what it holds is simply held."""
    return assessment.frozen is not None or assessment.service.mode is Mode.OBSERVE


def _floor(ledger: Ledger, assessment: Assessment) -> Counts:
    """minReplicas of the service: of what it has, else of what it would have."""
    room = _room(ledger, assessment)
    kept = {p: n for p, n in assessment.present.items() if p in assessment.fleets}
    if not kept:
        return dict(size(assessment.fleets, 0.0, assessment.least, room).counts)
    counts: Counts = {}
    for placement, count in trim(assessment.fleets, kept, room).items():
        counts[placement] = min(count, max(0, assessment.least - sum(counts.values())))
    return counts


def _reserve_present(ledger: Ledger, assessment: Assessment) -> None:
    """What the service has already, as far as it still fits; less than its floor does not count."""
    usable = {p: n for p, n in assessment.present.items() if p in assessment.fleets}
    counts = trim(assessment.fleets, usable, _room(ledger, assessment))
    if total_gpus(counts) >= ledger.held(assessment.service.key):
        _reserve(ledger, assessment, counts)


def _held(assessments: Iterable[Assessment]) -> dict[tuple[ServiceKey, str], int]:
    held: Counter[tuple[ServiceKey, str]] = Counter()
    for assessment in assessments:
        for variant in assessment.service.running:
            held[assessment.service.key, variant.placement.pool] += variant.gpus_held
    return held


def _room(ledger: Ledger, assessment: Assessment) -> Room:
    service = assessment.service
    return ledger.room(service.key, assessment.pools, limit=service.limits.max_gpus, beside_own=False)


def _reserve(ledger: Ledger, assessment: Assessment, counts: Mapping[Placement, int]) -> None:
    """Write down a target: replicas that run stay on their nodes, the others may go to any."""
    uses: dict[Use, int] = {}
    for placement, count in counts.items():
        gpus = placement.configuration.gpus_per_replica
        nodes = _nodes(assessment.service.running, placement)[:count]
        for node in (*nodes, *(None for _ in range(count - len(nodes)))):
            use = Use(placement.pool, gpus, node)
            uses[use] = uses.get(use, 0) + 1
    ledger.reserve(assessment.service.key, uses)


def _nodes(running: Iterable[RunningVariant], placement: Placement) -> list[str]:
    return sorted(
        replica.node
        for variant in running
        if variant.placement == placement and not variant.outdated
        for replica in variant.replicas
        if replica.node is not None
    )


def _choose(assessment: Assessment, room: Room, may_move: bool, world: World) -> Choice:
    service = assessment.service
    if assessment.frozen is not None:
        return Choice(assessment.present, Change.NONE, enough=True, hold=assessment.frozen)
    if not assessment.fleets:
        return Choice({}, Change.NONE, enough=False)
    if service.mode is Mode.MANUAL and service.manual is not None:
        return choose_manually(service.manual, assessment.present, assessment.fleets, room)
    choice = choose_target(_situation(assessment, room, may_move, world))
    return _hold_unreadable(assessment, choice, world)


def _situation(assessment: Assessment, room: Room, may_move: bool, world: World) -> Situation:
    return Situation(
        now=world.now,
        present=assessment.present,
        fleets=assessment.fleets,
        room=room,
        demand=assessment.demand,
        least=assessment.least,
        memory=assessment.service.memory,
        shrink_after=world.snapshot.brakes.shrink_after_seconds,
        startup_seconds=assessment.startup_seconds,
        fresh=assessment.fresh,
        starting=assessment.starting,
        moving=assessment.moving,
        may_move=may_move,
        held_gpus=assessment.held_gpus,
        slower=assessment.slower,
    )


def _hold_unreadable(assessment: Assessment, choice: Choice, world: World) -> Choice:
    """When pools that cannot be read are all there is, the target is frozen: unreadable is not empty."""
    if any(world.pools[name].stock is not None for name in assessment.pools):
        return choice
    return Choice(assessment.present, Change.NONE, choice.enough, hold=HoldReason.INVENTORY_UNREADABLE)


def _roll_out_all(
    assessments: list[Assessment], choices: Mapping[ServiceKey, Choice], world: World
) -> dict[ServiceKey, Rollout]:
    """Steps of all services, from the GPUs that nobody holds at this instant."""
    ledger = Ledger(world.pools.values())
    rollouts: dict[ServiceKey, Rollout] = {}
    for assessment in assessments:
        ledger.reserve(assessment.service.key, peak_uses(assessment.service.running))
    for assessment in assessments:
        service = assessment.service
        counts = choices[service.key].counts
        if _keeps_still(assessment) or (not counts and not _is_emptied(service)):
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
            excess_gpus=_excess(ledger, assessment, world),
        )
        rollouts[service.key] = rollout
        ledger.reserve(service.key, peak_uses(service.running, rollout.steps))
    return rollouts


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


def _contested(
    assessment: Assessment, assessments: Iterable[Assessment], choices: Mapping[ServiceKey, Choice]
) -> frozenset[str]:
    """Pools in which services of higher priority have a part."""
    return frozenset(
        placement.pool
        for other in assessments
        if other.priority > assessment.priority
        for placement in choices[other.service.key].counts
    )
