"""What is written down while targets are chosen: who holds which GPUs, and what was chosen so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from shoal.domain.configuration import Placement
from shoal.domain.reasons import HoldReason
from shoal.domain.service import Mode, RunningVariant, ServiceKey
from shoal.planner.assess import Assessment, World
from shoal.planner.ledger import Ledger, Room, Use
from shoal.planner.manual import choose_manually
from shoal.planner.rollout import peak_uses
from shoal.planner.sizing import Counts, smallest, total_gpus, trim
from shoal.planner.stabilise import Change, Choice, Situation, choose_target


class Book:
    """The ledger with what is frozen and everybody's floor, and the choices made."""

    def __init__(self, assessments: Sequence[Assessment], world: World) -> None:
        self.assessments, self.world = assessments, world
        self.held = _held(assessments)
        self.ledger = Ledger(world.pools.values(), self.held)
        self.choices: dict[ServiceKey, Choice] = {}
        self.rooms: dict[ServiceKey, Room] = {}
        self.moving = sum(a.moving and bool(a.present) for a in assessments)

    @classmethod
    def with_floors(cls, assessments: Sequence[Assessment], world: World) -> Book:
        """What is frozen, and everybody's floor."""
        book = cls(assessments, world)
        book._reserve_frozen_and_floors()
        return book

    @classmethod
    def with_present(cls, assessments: Sequence[Assessment], world: World) -> Book | None:
        """What is frozen, and what everybody has; None when that is more than there is."""
        book = cls(assessments, world)
        for assessment in assessments:
            if keeps_still(assessment):
                book.ledger.reserve(assessment.service.key, peak_uses(assessment.service.running))
                continue
            usable = {p: n for p, n in assessment.present.items() if p in assessment.fleets}
            limit = assessment.service.limits.max_gpus
            if limit is not None and total_gpus(usable) > limit:
                return None
            book.reserve(assessment, usable)
        return None if book.ledger.overdrawn else book

    def room(self, assessment: Assessment) -> Room:
        """What a service may hold in all beside what is written down for the others."""
        service = assessment.service
        return self.ledger.room(service.key, assessment.pools, limit=service.limits.max_gpus, beside_own=False)

    def choose(self, assessment: Assessment) -> Choice:
        """The service's own best target in the room it has now."""
        key = assessment.service.key
        room = self.rooms[key] = self.room(assessment)
        choice = self.wish(assessment, room)
        self.moving += choice.change in (Change.SHRINK, Change.MIX) and not assessment.moving
        self.choices[key] = choice
        return choice

    def wish(self, assessment: Assessment, room: Room) -> Choice:
        """What the service would choose in some room."""
        most = self.world.snapshot.brakes.max_concurrent_moves
        may_move = most is None or self.moving < most or assessment.moving
        return _choose(assessment, room, may_move, self.world)

    def reserve(self, assessment: Assessment, counts: Mapping[Placement, int]) -> None:
        """Write down a target: replicas that run stay on their nodes, the others may go to any."""
        self.ledger.reserve(assessment.service.key, make_uses(assessment, counts))

    def reserve_present(self, assessment: Assessment) -> None:
        """What the service has already, as far as it still fits; less than its floor does not count."""
        usable = {p: n for p, n in assessment.present.items() if p in assessment.fleets}
        counts = trim(assessment.fleets, usable, self.room(assessment))
        if total_gpus(counts) >= self.ledger.held(assessment.service.key):
            self.reserve(assessment, counts)

    def _reserve_frozen_and_floors(self) -> None:
        for assessment in self.assessments:
            if keeps_still(assessment):
                self.ledger.reserve(assessment.service.key, peak_uses(assessment.service.running))
            elif assessment.demand is None or not assessment.fresh:
                self.reserve_present(assessment)
        for assessment in self.assessments:
            key = assessment.service.key
            if not keeps_still(assessment) and not self.ledger.held(key):
                self.reserve(assessment, _floor(assessment, self.room(assessment)))


def write_down(book: Book, active: Sequence[Assessment]) -> list[Assessment]:
    """Reserve the chosen targets, after giving back what none of them keeps; those that do not fit are returned."""
    for assessment in active:
        counts = book.choices[assessment.service.key].counts
        if counts != assessment.present:
            kept = {p: min(n, counts.get(p, 0)) for p, n in assessment.present.items() if p in assessment.fleets}
            book.reserve(assessment, kept)
    refused = []
    for assessment in active:
        counts = book.choices[assessment.service.key].counts
        if counts == assessment.present or can_hold(book.room(assessment), counts):
            book.reserve(assessment, counts)
        else:
            refused.append(assessment)
    return refused


def can_hold(room: Room, counts: Mapping[Placement, int]) -> bool:
    """Whether all these replicas fit into a room."""
    taken: Counts = {}
    for placement, count in counts.items():
        if count > room.most(placement, taken):
            return False
        taken[placement] = count
    return True


def keeps_still(assessment: Assessment) -> bool:
    """Whether nothing about this service changes now, so that what it holds is simply held."""
    return assessment.frozen is not None or assessment.service.mode is Mode.OBSERVE


def make_uses(assessment: Assessment, counts: Mapping[Placement, int]) -> dict[Use, int]:
    """What replicas take, those that run on the nodes where they are."""
    uses: dict[Use, int] = {}
    for placement, count in counts.items():
        gpus = placement.configuration.gpus_per_replica
        nodes = _nodes(assessment.service.running, placement)[:count]
        for node, replicas in Counter(nodes).items():
            uses[Use(placement.pool, gpus, node)] = uses.get(Use(placement.pool, gpus, node), 0) + replicas
        if count > len(nodes):
            floating = Use(placement.pool, gpus)
            uses[floating] = uses.get(floating, 0) + count - len(nodes)
    return uses


def _floor(assessment: Assessment, room: Room) -> Counts:
    """minReplicas of the service: of what it has, else of what it would have."""
    kept = {p: n for p, n in assessment.present.items() if p in assessment.fleets}
    if not kept:
        return smallest(assessment.fleets, assessment.least, room)
    counts: Counts = {}
    for placement, count in trim(assessment.fleets, kept, room).items():
        counts[placement] = min(count, max(0, assessment.least - sum(counts.values())))
    return counts


def _held(assessments: Iterable[Assessment]) -> dict[tuple[ServiceKey, str], int]:
    held: Counter[tuple[ServiceKey, str]] = Counter()
    for assessment in assessments:
        for variant in assessment.service.running:
            held[assessment.service.key, variant.placement.pool] += variant.gpus_held
    return held


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
        lasting_queues=assessment.lasting_queues,
        headroom=assessment.headroom,
        slower=assessment.slower,
        offer=assessment.offer,
        max_loss=world.snapshot.brakes.max_capacity_loss,
    )


def _hold_unreadable(assessment: Assessment, choice: Choice, world: World) -> Choice:
    """When pools that cannot be read are all there is, the target is frozen: unreadable is not empty."""
    if any(world.pools[name].stock is not None for name in assessment.pools):
        return choice
    return Choice(assessment.present, Change.NONE, choice.enough, hold=HoldReason.INVENTORY_UNREADABLE)
