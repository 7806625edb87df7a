"""The next step from what runs to the target: new replicas first, old ones given up when the new ones serve.

At no instant are more GPUs held than allowed; a replica that is draining still holds its GPUs, and a Deployment
replaces it at once when `replicas` stays. When no GPU is free, one old replica at a time makes room, as long as the
others carry the load and the floor is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.domain.configuration import Placement
from shoal.domain.plan import Step
from shoal.domain.service import Replica, ReplicaPhase, RunningVariant
from shoal.planner.ledger import Room, Use
from shoal.planner.sizing import Fleets
from shoal.planner.thermal import derating_of

_GIVEN_UP_FIRST = (ReplicaPhase.PENDING, ReplicaPhase.STARTING, ReplicaPhase.READY)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The steps, and whether they wait for a GPU that cannot be freed without missing the load or the floor."""

    steps: tuple[Step, ...]
    blocked: bool = False


@dataclass
class _Part:
    """One Deployment: what it has, and what it shall have now. `wanted` is its share of the target."""

    placement: Placement
    wanted: int
    variant: RunningVariant | None
    desired: int
    ready: list[float] = field(default_factory=list)  # rates of the replicas that serve, rising
    draining: int = 0
    unbound: int = 0
    live: int = 0

    @property
    def size(self) -> int:
        return self.placement.configuration.gpus_per_replica

    @property
    def rate(self) -> float:
        """What its replicas carry once only `desired` are left; the slowest go first."""
        return sum(self.ready[max(0, len(self.ready) - self.desired) :])

    @property
    def serving(self) -> int:
        return min(self.desired, len(self.ready))

    @property
    def loss(self) -> float:
        """Rate lost with the next replica to go: none while there are more than serve."""
        return self.ready[len(self.ready) - self.desired] if self.desired <= len(self.ready) else 0.0

    def give_up(self) -> None:
        self.desired -= 1
        self.unbound = max(0, self.unbound - 1)


def peak_replicas(variant: RunningVariant, desired: int | None = None) -> int:
    """Replicas that may exist at one instant: draining ones are replaced before they are gone."""
    draining = sum(replica.phase is ReplicaPhase.DRAINING for replica in variant.replicas)
    return max(variant.live, (variant.desired if desired is None else desired) + draining)


def peak_uses(running: Sequence[RunningVariant], steps: Sequence[Step] = ()) -> Counter[Use]:
    """GPUs these variants may hold at one instant, now and once the steps are applied."""
    wanted = {step.variant: step.replicas for step in steps if step.variant is not None}
    uses: Counter[Use] = Counter()
    for variant in running:
        placement = variant.placement
        gpus = placement.configuration.gpus_per_replica
        for replica in variant.replicas:
            uses[Use(placement.pool, gpus, replica.node)] += 1
        most = max(peak_replicas(variant), peak_replicas(variant, wanted.get(variant.name, variant.desired)))
        uses[Use(placement.pool, gpus)] += most - variant.live
    for step in steps:
        if step.variant is None:
            uses[Use(step.placement.pool, step.placement.configuration.gpus_per_replica)] += step.replicas
    return uses


def standing_still(running: Sequence[RunningVariant]) -> tuple[Step, ...]:
    """Steps that change nothing."""
    alive = sorted((v for v in running if v.desired or v.live), key=lambda v: (v.placement, v.name))
    return tuple(Step(variant.placement, variant.desired, variant.name) for variant in alive)


def is_arrived(running: Sequence[RunningVariant], target: Mapping[Placement, int]) -> bool:
    """Whether every Deployment has been told what the target wants, and nothing old is left."""
    current = {v.placement: v for v in running if not v.outdated and (v.desired or v.live)}
    old = [v for v in running if v.outdated and (v.desired or v.live)]
    wanted = {placement: count for placement, count in target.items() if count > 0}
    return not old and {placement: variant.desired for placement, variant in current.items()} == wanted


def is_there(running: Sequence[RunningVariant], target: Mapping[Placement, int]) -> bool:
    """Whether what runs is the target, pod by pod: then there is no step to take."""
    return is_arrived(running, target) and all(
        variant.desired == variant.live == variant.ready for variant in running if variant.desired or variant.live
    )


def next_steps(
    running: Sequence[RunningVariant],
    target: Mapping[Placement, int],
    fleets: Fleets,
    room: Room,
    *,
    load: float,
    least: int,
    excess_gpus: int = 0,
) -> Rollout:
    """What each Deployment shall have now.

    `room` is what may be taken in addition to what is held; `load` the rate (requests per second) that must stay
    carried; `excess_gpus` are held beyond what is allowed, and go whatever is lost by it.
    """
    parts = _parts(running, target, fleets)
    blocked = _start_new(parts, room)
    _give_up_old(parts, target, fleets, least)
    if blocked:
        blocked = not _swap(parts, room, load, least)
    _give_up_excess(parts, excess_gpus)
    together = any(part.desired < part.wanted and part.size > 1 for part in parts)
    steps = [
        _step(part, fleets, together)
        for part in parts
        if part.desired or part.live or (part.variant and part.variant.desired)
    ]
    return Rollout(tuple(steps), blocked)


def can_arrive(
    present: Mapping[Placement, int],
    target: Mapping[Placement, int],
    fleets: Fleets,
    room: Room,
    *,
    load: float,
    least: int,
) -> bool:
    """Whether these steps lead from replicas that all serve to the target: played on a copy, as if all went at once.

    `room` is what the service may hold in all.
    """
    counts = dict(present)
    for _ in range(2 * (sum(present.values()) + sum(target.values())) + 2):
        running = [_imagine(placement, count) for placement, count in sorted(counts.items())]
        rollout = next_steps(running, target, fleets, room.beside(counts), load=load, least=least)
        after = {step.placement: step.replicas for step in rollout.steps if step.replicas > 0}
        if after == target:
            return True
        if after == counts:
            return False
        counts = after
    return False


def _imagine(placement: Placement, count: int) -> RunningVariant:
    replicas = tuple(Replica(f"{placement}/{index}", ReplicaPhase.READY, 0.0) for index in range(count))
    return RunningVariant(str(placement), placement, count, replicas)


def _parts(running: Sequence[RunningVariant], target: Mapping[Placement, int], fleets: Fleets) -> list[_Part]:
    """Parts of the target first, then old ones, each in the order of names."""
    usual = _usual_rate_per_gpu(target, fleets)
    parts: list[_Part] = []
    taken: set[Placement] = set()
    ordered = sorted(running, key=lambda v: (v.outdated, -v.ready, v.name))
    for variant in ordered:
        current = not variant.outdated and variant.placement not in taken and target.get(variant.placement, 0) > 0
        if current:
            taken.add(variant.placement)
        wanted = target[variant.placement] if current else 0
        parts.append(_part_of(variant, wanted, fleets, usual))
    new = [_Part(p, n, None, 0) for p, n in sorted(target.items()) if n > 0 and p not in taken]
    return sorted(new + parts, key=lambda part: (part.wanted == 0, part.placement, part.variant is None))


def _part_of(variant: RunningVariant, wanted: int, fleets: Fleets, usual: float) -> _Part:
    fleet = fleets.get(variant.placement)
    gpus = variant.placement.configuration.gpus_per_replica
    rates = [
        fleet.option.rate * fleet.pooling * derating_of(fleet.option, replica) if fleet else usual * gpus
        for replica in variant.replicas
        if replica.phase is ReplicaPhase.READY
    ]
    phases = Counter(replica.phase for replica in variant.replicas)
    return _Part(
        variant.placement,
        wanted,
        variant,
        variant.desired,
        ready=sorted(rates),
        draining=phases[ReplicaPhase.DRAINING],
        unbound=phases[ReplicaPhase.PENDING],
        live=variant.live,
    )


def _usual_rate_per_gpu(target: Mapping[Placement, int], fleets: Fleets) -> float:
    """Stands in for the rate of a replica whose placement is no option any more."""
    options = [fleets[placement].option for placement in target if placement in fleets]
    return min((option.rate / option.gpus for option in options), default=0.0)


def _start_new(parts: Sequence[_Part], room: Room) -> bool:
    """Start what the target lacks, as far as there is room. Whether something is lacking and nothing is on its way."""
    taken: Counter[Placement] = Counter()
    lacking = False
    for part in parts:
        missing = part.wanted - part.desired
        if missing <= 0:
            continue
        spare = max(0, part.live - part.desired - part.draining)  # deleted in spec, not yet marked: still there to keep
        grown = min(missing, spare + room.most(part.placement, taken))
        taken[part.placement] += max(0, grown - spare)
        part.desired += grown
        lacking = lacking or grown < missing
    on_the_way = any(part.wanted and part.serving < part.desired for part in parts)
    return lacking and not on_the_way


def _give_up_old(parts: Sequence[_Part], target: Mapping[Placement, int], fleets: Fleets, least: int) -> None:
    """Take away what the target does not want, as far as what then serves carries what the target does, and the floor.

    Replicas that could not be placed, and those beyond the target's number that do not serve yet, go at once: they
    hold nothing up.
    """
    complete = all(part.serving >= part.wanted for part in parts)
    aim = sum(fleets[p].rate(n) for p, n in target.items() if p in fleets)
    rate, serving = sum(part.rate for part in parts), sum(part.serving for part in parts)
    for part in sorted(parts, key=lambda p: (p.wanted > 0, p.placement, p.variant.name if p.variant else "")):
        while part.desired > part.wanted:
            loss = part.loss
            idle = loss == 0.0 and (part.wanted > 0 or part.unbound > 0)
            spare = serving > least and rate - loss >= aim * (1 - 1e-9)
            if not (complete or idle or spare):
                break
            part.give_up()
            rate -= loss
            serving -= loss > 0.0


def _swap(parts: Sequence[_Part], room: Room, load: float, least: int) -> bool:
    """Free GPUs for one new replica by giving up old ones, if the rest carries the load. Whether that is under way."""
    waiting = next(part for part in parts if part.desired < part.wanted)
    old = [part for part in parts if part.desired > part.wanted]
    pool = waiting.placement.pool
    leaving = sum((p.live - min(p.live, p.desired)) * p.size for p in parts if p.placement.pool == pool)
    if leaving >= waiting.size:
        return True
    serving, rate = sum(p.serving for p in parts), sum(p.rate for p in parts)
    for part in old:
        if part.loss == 0.0 or (serving - 1 >= least and rate - part.loss >= load):
            part.give_up()
            return True
    return False


def _give_up_excess(parts: Sequence[_Part], excess_gpus: int) -> None:
    """What is held beyond a limit goes: first what nobody wants, then from the target's own surplus."""
    leaving = sum(max(0, p.live - p.desired) * p.size for p in parts)
    for part in reversed(parts):
        while excess_gpus > leaving and part.desired > part.wanted:
            part.give_up()
            leaving += part.size


def _step(part: _Part, fleets: Fleets, together: bool) -> Step:
    name = part.variant.name if part.variant else None
    return Step(part.placement, part.desired, name, _doomed(part, fleets, together))


def _doomed(part: _Part, fleets: Fleets, together: bool) -> tuple[str, ...]:
    """Replicas to give up: those that do not serve, then hot, idle and newest ones.

    `together`: an engine over several GPUs waits for room; GPUs freed on different nodes would not help it, so the
    emptiest node goes on being emptied.
    """
    if part.variant is None:
        return ()
    fleet = fleets.get(part.placement)
    beside = Counter(r.node for r in part.variant.replicas if r.phase is not ReplicaPhase.DRAINING)

    def rank(replica: Replica) -> tuple[object, ...]:
        speed = derating_of(fleet.option, replica) if fleet else 1.0
        queue = replica.queue_seconds if replica.queue_seconds is not None else 0.0
        neighbours = beside[replica.node] if together else 0
        return (_GIVEN_UP_FIRST.index(replica.phase), speed, neighbours, queue, -replica.created_at, replica.name)

    alive = sorted((r for r in part.variant.replicas if r.phase is not ReplicaPhase.DRAINING), key=rank)
    return tuple(replica.name for replica in alive[: max(0, len(alive) - part.desired)])
