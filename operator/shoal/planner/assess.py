"""Everything about one service that does not depend on the others: what it asks, what it could use, how it stands."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.live import Residual
from shoal.domain.plan import Demand, NearestFeasible, RejectedOption
from shoal.domain.pool import Pool
from shoal.domain.profile import LengthMix, Profile
from shoal.domain.reasons import HoldReason, ProfileState
from shoal.domain.service import Mode, Objective, Replica, ReplicaPhase, Service
from shoal.domain.snapshot import Snapshot
from shoal.planner.checks import Needs
from shoal.planner.credit import KNEE_ERROR
from shoal.planner.demand import declared_demand, is_fresh, observed_demand
from shoal.planner.estimate import DEFAULT_MAX_NUM_BATCHED_TOKENS, DEFAULT_MAX_NUM_SEQS
from shoal.planner.frontier import BarePool, Offer, Option, Same, intern_bare, make_bare, make_key, make_offer
from shoal.planner.learning import applicable
from shoal.planner.ledger import Ledger
from shoal.planner.lengths import lengths_for
from shoal.planner.residual import compare_all, is_slower
from shoal.planner.rollout import is_arrived
from shoal.planner.rows import usable_facts
from shoal.planner.sizing import Counts
from shoal.planner.standby import compute_headroom
from shoal.planner.thermal import Fleet, derating_of, idle_fleets, make_fleet

EFFORT: Final = 0.5  # share of saturation at which the best effort of an unreachable objective is planned
LADDER: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SLOW_START: Final = 3.0  # a replica that takes so many usual start-ups is not on its way, but broken


@dataclass(frozen=True, slots=True)
class World:
    """The snapshot, indexed."""

    snapshot: Snapshot
    pools: Mapping[str, Pool]
    profiles: Mapping[tuple[str, str], tuple[Same[Profile], ...]]  # by namespace and model
    bare: Mapping[str, Same[BarePool]]

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.snapshot.now


@dataclass(frozen=True)
class Assessment:
    """One service, assessed. `nearest` is set when no option is fast enough and the objective had to be relaxed."""

    service: Service
    priority: int
    pools: tuple[str, ...]
    fleets: Mapping[Placement, Fleet]
    offer: Offer
    rejected: tuple[RejectedOption, ...]
    demand: Demand | None
    present: Counts
    least: int
    startup_seconds: float
    lengths: LengthMix
    fresh: bool
    starting: bool
    profile: ProfileState
    lasting_queues: Mapping[Placement, int] = field(default_factory=dict)
    headroom: float = 1.0
    frozen: HoldReason | None = None
    nearest: NearestFeasible | None = None
    derating: Mapping[str, float] = field(default_factory=dict)
    residuals: tuple[Residual, ...] = ()

    @property
    def slower(self) -> bool:
        """Whether engines are, right now, much slower than what is planned with."""
        return any(is_slower(residual) for residual in self.residuals)

    @cached_property
    def moving(self) -> bool:
        """Whether what runs is not yet what was decided."""
        return not is_arrived(self.service.running, self.present)

    @property
    def held_gpus(self) -> int:
        """GPUs of the replicas that serve."""
        return sum(v.ready * v.placement.configuration.gpus_per_replica for v in self.service.running)

    @property
    def order(self) -> tuple[object, ...]:
        """Whose turn it is: higher priority, then older, then by name."""
        return (-self.priority, self.service.created_at, self.service.key)


def make_world(snapshot: Snapshot) -> World:
    """Index a snapshot by pool and model."""
    profiles: dict[tuple[str, str], list[Same[Profile]]] = {}
    for profile in snapshot.profiles:
        profiles.setdefault((profile.namespace, profile.model), []).append(make_key(profile))
    return World(
        snapshot,
        {pool.name: pool for pool in snapshot.pools},
        {key: tuple(found) for key, found in profiles.items()},
        {pool.name: make_key(intern_bare(make_bare(pool, snapshot.energy_price_per_kwh))) for pool in snapshot.pools},
    )


def assess(service: Service, world: World) -> Assessment:
    """What can be said of one service without looking at the others."""
    pools = tuple(name for name in dict.fromkeys(service.pools) if name in world.pools)
    present = _present(service)
    startup = _startup_seconds(service)
    demand = _demand(service, startup)
    needs = _needs(service)
    offer = _offer(needs, service, world, present, pools)
    rejected = offer.rejected
    nearest = None
    if offer.too_slow and not offer.options:
        nearest, relaxed = _relax(service, needs.objective, world, demand, offer.too_slow)
        offer = _offer(replace(needs, objective=relaxed), service, world, present, pools)
    fleets = _fleets(service, offer)
    return Assessment(
        service=service,
        priority=_effective_priority(service, [world.pools[name] for name in pools]),
        pools=pools,
        fleets=fleets,
        offer=offer,
        rejected=rejected,
        demand=demand,
        present=present,
        least=max(0, service.limits.min_replicas),
        startup_seconds=startup,
        lengths=needs.lengths,
        fresh=_is_fresh(service),
        starting=_is_starting(service, world.now, startup),
        profile=_profile_state(fleets, present),
        lasting_queues=_lasting_queues(service, fleets, demand, startup),
        headroom=_headroom(service, fleets, startup),
        frozen=HoldReason.PAUSED if service.paused or world.snapshot.brakes.paused else None,
        nearest=nearest,
        derating=_derating(service, fleets),
        residuals=compare_all(service.running, fleets, service.objective),
    )


def _present(service: Service) -> Counts:
    """The target so far; without a memory of it, what runs."""
    if service.memory.target is not None:
        counts: Counter[Placement] = Counter()
        for placed in service.memory.target:
            counts[placed.placement] += max(0, placed.replicas)
    else:
        counts = Counter()
        for variant in service.running:
            counts[variant.placement] += max(0, variant.desired)
    return {placement: count for placement, count in sorted(counts.items()) if count > 0}


def _startup_seconds(service: Service) -> float:
    seen = service.memory.startup_p90_seconds
    seconds = seen if seen is not None and math.isfinite(seen) and seen > 0 else service.engine.startup_seconds
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _demand(service: Service, startup: float) -> Demand | None:
    """Observed arrivals; before any was ever seen, what was declared. Nothing known of what runs is None, not zero."""
    memory = service.memory
    seen = memory.traffic_seen or any(tick.count > 0 for tick in service.load.ticks)
    lost = memory.target is None and bool(service.running)
    if not seen and not (lost and not service.load.ticks):
        return declared_demand(service.workload)
    return observed_demand(service.load, startup, _stuck(service))


def _stuck(service: Service) -> int:
    objective = service.objective.ttft_ms
    if objective is None:
        return 0
    return sum(
        replica.phase is ReplicaPhase.READY
        and replica.queue_seconds is not None
        and replica.queue_seconds * 1000 > objective
        for variant in service.running
        for replica in variant.replicas
    )


def _lasting_queues(
    service: Service, fleets: Mapping[Placement, Fleet], demand: Demand | None, startup: float
) -> Mapping[Placement, int]:
    """Replicas of each placement that are stuck: whose queue will exceed the objective when a new replica is ready.

    With rate `lam` on ready replicas that together put through X, a queue of q seconds becomes
    `q + startup * (lam/X - 1)`. One that is there must also be seen to exceed the objective now: if it is gone by then,
    another replica would come too late. One that is not there yet must come even at the rate less its standard error,
    from replicas that put through KNEE_ERROR more.
    Worked: 16 of 21.5 req/s, 90 s: a queue of 2 s is gone (2 - 23 < 0), one of 60 s is not (60 - 23 = 37); at 60 req/s
    there will be one of 143 s at least (60 / 21.5 / 1.08 = 2.58).
    """
    if demand is None or not demand.observed or service.objective.ttft_ms is None:
        return {}
    ready = [
        (variant.placement, replica.queue_seconds or 0.0)
        for variant in service.running
        if variant.placement in fleets
        for replica in variant.replicas
        if replica.phase is ReplicaPhase.READY
    ]
    throughput = max(sum(fleets[placement].option.overload_rate for placement, _ in ready), 1e-9)
    bound = service.objective.ttft_ms / 1000
    if startup * ((demand.forecast - demand.standard_error) / throughput / (1 + KNEE_ERROR) - 1) > bound:
        return Counter(placement for placement, _ in ready)
    growth = startup * (demand.forecast / throughput - 1)
    return Counter(placement for placement, queue in ready if queue > bound and queue + growth > bound)


def _headroom(service: Service, fleets: Mapping[Placement, Fleet], startup: float) -> float:
    margins = (fleet.option.rating.capacity.margin for fleet in fleets.values())
    return compute_headroom(service.standby, margins, service.objective.ttft_ms, startup)


def _is_fresh(service: Service) -> bool:
    """With replicas that serve, they must have been read lately; without any there is nothing to misjudge."""
    return is_fresh(service.load) or not any(variant.ready for variant in service.running)


def _is_starting(service: Service, now: float, startup: float) -> bool:
    oldest = now - SLOW_START * max(startup, 1.0)
    return any(
        replica.phase is ReplicaPhase.STARTING and replica.created_at >= oldest
        for variant in service.running
        for replica in variant.replicas
    )


def _needs(service: Service) -> Needs:
    return Needs(
        model=service.model,
        facts=usable_facts(service.facts),
        max_context_tokens=max(1, service.max_context_tokens),
        objective=_objective(service),
        lengths=lengths_for(service.load, service.memory.lengths, service.workload.lengths),
        engine=service.engine,
        parallelism=service.parallelism,
        required=service.required_profile,
        routed_per_engine=service.routed_per_engine,
        lessons=tuple(learned.lesson for learned in applicable(service)),
    )


def _objective(service: Service) -> Objective:
    """The objective as it can be planned for. In mode Manual a person decides: no latency refuses."""
    asked = service.objective
    percentile = min(99, max(50, asked.percentile))
    if service.mode is Mode.MANUAL:
        return Objective(percentile)
    ttft, itl = (None if bound is None or math.isnan(bound) else bound for bound in (asked.ttft_ms, asked.itl_ms))
    return Objective(percentile, ttft, itl)


def _offer(needs: Needs, service: Service, world: World, present: Counts, pools: Sequence[str]) -> Offer:
    """What the pools offer. What runs, is decided, or is asked for by hand may go on with an estimate."""
    running: dict[str, set[Configuration]] = {}
    for placement in present:
        running.setdefault(placement.pool, set()).add(placement.configuration)
    kept = []
    for name in pools:
        own = running.get(name, set())
        manual = _manual(service, world.pools[name].accelerator)
        if manual is not None:
            own.add(manual)
        kept.append(tuple(sorted(own)))
    return make_offer(needs, tuple(kept), tuple(world.bare[name] for name in pools), _profiles(service, world))


def _manual(service: Service, accelerator: str) -> Configuration | None:
    manual = service.manual if service.mode is Mode.MANUAL else None
    if manual is None or (manual.tensor_parallel is None and manual.engines_per_gpu is None):
        return None
    tensor, engines = manual.tensor_parallel or 1, manual.engines_per_gpu or 1
    if min(tensor, engines) != 1:
        return None
    return Configuration(accelerator, tensor, engines, DEFAULT_MAX_NUM_SEQS, DEFAULT_MAX_NUM_BATCHED_TOKENS)


def _profiles(service: Service, world: World) -> tuple[Same[Profile], ...]:
    """Profiles of the model: of the service's own namespace, then of the operator's; never of anybody else's."""
    own, shared = service.key.namespace, world.snapshot.operator_namespace
    found = world.profiles.get((shared, service.model), ())
    return found if own == shared else world.profiles.get((own, service.model), ()) + found


def _fleets(service: Service, offer: Offer) -> dict[Placement, Fleet]:
    running: dict[Placement, list[Replica]] = {}
    for variant in service.running:
        if not variant.outdated:
            running.setdefault(variant.placement, []).extend(variant.replicas)
    fleets = dict(idle_fleets(offer))
    for placement, replicas in running.items():
        if placement in fleets:
            fleets[placement] = make_fleet(fleets[placement].option, replicas)
    return fleets


def _effective_priority(service: Service, pools: Sequence[Pool]) -> int:
    caps = [
        admission.max_priority
        for pool in pools
        for admission in pool.admissions
        if admission.namespace == service.key.namespace and admission.max_priority is not None
    ]
    return min([service.priority, *caps])


def _profile_state(fleets: Mapping[Placement, Fleet], present: Counts) -> ProfileState:
    """The least trusted source among what runs, else of the cheapest option."""
    used = [fleets[p].option for p in present if p in fleets] or sorted(
        (fleet.option for fleet in fleets.values()), key=lambda o: (o.estimated, o.cost_of_rate, o.placement)
    )[:1]
    states = [option.rating.capacity.source for option in used]
    order = (ProfileState.ESTIMATED, ProfileState.STALE, ProfileState.LEARNED, ProfileState.SIMULATED)
    return next((state for state in order if state in states), states[0] if states else ProfileState.MISSING)


def _derating(service: Service, fleets: Mapping[Placement, Fleet]) -> dict[str, float]:
    """Capacity left of every replica whose clock is known."""
    return {
        replica.name: derating_of(fleets[variant.placement].option, replica)
        for variant in service.running
        if variant.placement in fleets
        for replica in variant.replicas
        if replica.clock_mhz is not None
    }


def _relax(
    service: Service, asked: Objective, world: World, demand: Demand | None, slow: Sequence[Option]
) -> tuple[NearestFeasible, Objective]:
    """The smallest objective that would be met with what the pools have, and the one the best effort is planned for."""
    room = Ledger(world.pools.values()).room(
        service.key, service.pools, limit=service.limits.max_gpus, beside_own=False
    )
    rate = demand.forecast if demand else 0.0
    best: tuple[float, Option, float] | None = None
    for option in slow:
        most = room.most(option.placement, {})
        share = next(
            (s for s in LADDER if s * option.overload_rate * option.rating.capacity.margin * most >= rate), LADDER[-1]
        )
        excess = _excess(asked, _relaxed(asked, option, share))
        if best is None or excess < best[0]:
            best = (excess, option, share)
    assert best is not None  # called with at least one option
    _, option, share = best
    near = _relaxed(asked, option, share)
    nearest = NearestFeasible(
        ttft_ms=near.ttft_ms if near.ttft_ms != asked.ttft_ms else None,
        itl_ms=near.itl_ms if near.itl_ms != asked.itl_ms else None,
    )
    return nearest, _relaxed(asked, option, max(share, EFFORT))


def _relaxed(objective: Objective, option: Option, share: float) -> Objective:
    curve = option.rating.curve
    ttft, itl = curve.latencies(share * curve.saturation)
    return replace(
        objective,
        ttft_ms=None if objective.ttft_ms is None else max(objective.ttft_ms, math.ceil(ttft or 0.0)),
        itl_ms=None if objective.itl_ms is None else max(objective.itl_ms, math.ceil(10 * (itl or 0.0)) / 10),
    )


def _excess(objective: Objective, relaxed: Objective) -> float:
    ratios = [
        new / old
        for new, old in ((relaxed.ttft_ms, objective.ttft_ms), (relaxed.itl_ms, objective.itl_ms))
        if new is not None and old is not None and old > 0
    ]
    return max(ratios, default=1.0)
