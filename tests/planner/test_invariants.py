"""What holds of every decision, whatever the snapshot holds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planner_world import (
    H100,
    L40S,
    MIX,
    NOW,
    QWEN_FACTS,
    Fleet,
    make_load,
    make_pool,
    make_profile,
    make_row,
    make_service,
    snapshot,
)

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import Hold, Infeasible, Scale
from shoal.domain.pool import Admission, ClaimKind, Datasheet, NodeStock, Pool, Stock
from shoal.domain.profile import (
    LengthMix,
    Link,
    ModelFacts,
    Profile,
    ProfileRow,
    Quantiles,
    RatePoint,
    Source,
    StepModel,
)
from shoal.domain.service import (
    EngineFacts,
    Limits,
    Load,
    ManualPlan,
    Memory,
    Mode,
    Objective,
    Parallelism,
    PlacedReplicas,
    Replica,
    ReplicaPhase,
    RequiredProfile,
    RunningVariant,
    Service,
    ServiceKey,
    Tick,
    Workload,
)
from shoal.domain.snapshot import Brakes, Snapshot
from shoal.planner.decide import decide
from shoal.planner.groups import partition
from shoal.planner.remember import remember
from shoal.planner.rollout import peak_uses

NAN = float("nan")
numbers = st.one_of(
    st.floats(0.01, 100), st.sampled_from([0.0, -1.0, NAN, float("inf"), -float("inf"), 1e-9, 1e6, 1e12])
)
POOLS = ("h100", "l40s", "dark")
configurations = st.builds(
    lambda accelerator, shape, seqs: Configuration(accelerator, *shape, seqs, 2048),
    st.sampled_from([H100, L40S]),
    st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 2), (1, 4)]),
    st.sampled_from([64, 256]),
)
placements = st.builds(Placement, st.sampled_from([*POOLS, "gone"]), configurations)
mixes = st.builds(LengthMix, numbers, numbers, numbers, numbers)
quantiles = st.builds(Quantiles, numbers, p95=st.none() | numbers, p99=st.none() | numbers)
models = st.builds(StepModel, numbers, numbers, numbers, numbers, numbers, st.none() | numbers)
rows = st.builds(
    lambda shape, **more: ProfileRow(*shape, **more),
    st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2), (0, 1), (3, 1)]),
    max_num_seqs=st.sampled_from([1, 64, 256, 10**6]),
    max_num_batched_tokens=st.sampled_from([1, 512, 2048]),
    kv_cache_tokens=st.sampled_from([1e5, 1e6]) | numbers,
    lengths=st.just(MIX) | mixes,
    overload_rate=st.none() | numbers,
    points=st.lists(st.builds(RatePoint, numbers, quantiles, quantiles, st.none() | numbers), max_size=3).map(tuple),
    steps=st.none() | st.just(StepModel(8, 0.02, 2e-5)) | models,
    api_servers=st.sampled_from([-1, 0, 1, 2, 10**6]),
    mps=st.booleans(),
)
facts = st.just(QWEN_FACTS) | st.builds(ModelFacts, numbers, numbers, numbers, st.integers(1, 10**6))
profiles = st.builds(
    Profile,
    name=st.sampled_from("pq"),
    namespace=st.sampled_from(["ml", "shoal-system", "others"]),
    model=st.sampled_from(["m", "n"]),
    accelerator=st.sampled_from([H100, L40S]),
    engine=st.just("vllm"),
    engine_version=st.sampled_from(["0.30.1", "0.29.0", "", "new"]),
    source=st.sampled_from(Source),
    facts=facts,
    rows=st.lists(rows, max_size=4).map(tuple),
    link=st.sampled_from(Link),
    clock_mhz=st.none() | st.just(2000.0) | numbers,
)
stocks = st.none() | st.lists(st.integers(0, 8), max_size=3).map(
    lambda sizes: Stock(tuple(NodeStock(f"n{i}", size, max(0, size - i)) for i, size in enumerate(sizes)))
)
pools = st.builds(
    Pool,
    name=st.just("?"),
    accelerator=st.sampled_from([H100, L40S, "Frog"]),
    memory_bytes=st.sampled_from([0.0, 16e9, 40e9, 80e9]) | numbers,
    reserve_bytes=st.sampled_from([0.0, 2e9, 1e12]),
    claim=st.sampled_from(ClaimKind),
    price_per_gpu_hour=st.sampled_from([0.0, 1.0, 3.0, -1.0, NAN, float("inf")]),
    stock=stocks,
    max_gpus=st.none() | st.integers(0, 20),
    link=st.sampled_from(Link),
    island_size=st.none() | st.integers(1, 4),
    unified_memory=st.booleans(),
    mps=st.booleans(),
    datasheet=st.none() | st.builds(Datasheet, numbers, numbers),
    derate=st.booleans(),
    admissions=st.lists(
        st.builds(Admission, st.just("ml"), st.none() | st.integers(0, 6), st.none() | st.integers(-1, 5)), max_size=1
    ).map(tuple),
)
replicas = st.builds(
    Replica,
    name=st.uuids().map(str),
    phase=st.sampled_from(ReplicaPhase),
    created_at=st.sampled_from([0.0, NOW - 10]),
    node=st.none() | st.sampled_from(["n0", "n1", "gone"]),
    clock_mhz=st.none() | st.sampled_from([2000.0, 1400.0]) | numbers,
    queue_seconds=st.none() | numbers,
)
variants = st.builds(
    RunningVariant,
    name=st.uuids().map(str),
    placement=placements,
    desired=st.integers(0, 5),
    replicas=st.lists(replicas, max_size=4).map(tuple),
    outdated=st.booleans(),
)
loads = st.builds(
    Load,
    ticks=st.lists(st.builds(Tick, numbers, st.booleans()), max_size=40).map(tuple),
    tick_seconds=st.just(5.0) | numbers,
    fresh_fraction=st.sampled_from([0.0, 0.5, 1.0, NAN]),
    lengths=st.none() | st.just(MIX) | mixes,
)
memories = st.builds(
    Memory,
    target=st.none() | st.lists(st.builds(PlacedReplicas, placements, st.integers(-1, 5)), max_size=2).map(tuple),
    last_move_at=st.none() | st.sampled_from([NOW - 10, NOW - 1000, NOW + 1000]),
    startup_p90_seconds=st.none() | numbers,
    mix_wanted_since=st.none() | st.just(NOW - 60),
    traffic_seen=st.booleans(),
)
services = st.builds(
    Service,
    key=st.just(ServiceKey("ml", "?")),
    uid=st.just("u"),
    generation=st.just(1),
    created_at=st.sampled_from([0.0, 1.0]),
    model=st.sampled_from(["m", "n", "unknown"]),
    facts=st.none() | facts,
    max_context_tokens=st.integers(-1, 32768),
    objective=st.builds(Objective, st.integers(1, 100), st.none() | numbers, st.none() | numbers),
    workload=st.builds(Workload, numbers, st.just(MIX) | mixes),
    engine=st.just(EngineFacts("vllm", "0.30.1")),
    pools=st.lists(st.sampled_from([*POOLS, "unknown"]), max_size=4).map(tuple),
    limits=st.builds(Limits, st.integers(0, 4), st.none() | st.integers(0, 12)),
    parallelism=st.sampled_from(
        [Parallelism(), Parallelism((1,), (1,)), Parallelism((2, 4), (1, 2)), Parallelism((), ())]
    ),
    required_profile=st.sampled_from(RequiredProfile),
    priority=st.integers(-1, 5),
    mode=st.sampled_from(Mode),
    manual=st.none()
    | st.builds(ManualPlan, st.integers(-1, 9), st.none() | st.sampled_from(POOLS), st.none() | st.just(2)),
    paused=st.booleans(),
    routed_per_engine=st.booleans(),
    running=st.lists(variants, max_size=2, unique_by=lambda variant: variant.name).map(tuple),
    load=loads,
    memory=memories,
)
worlds = st.builds(
    lambda found, named, profiles, brakes: Snapshot(
        NOW,
        tuple(replace(service, key=ServiceKey("ml", f"s{i}")) for i, service in enumerate(found)),
        tuple(replace(pool, name=name) for name, pool in zip(POOLS, named, strict=False)),
        tuple(profiles),
        brakes=brakes,
    ),
    st.lists(services, min_size=1, max_size=4),
    st.lists(pools, max_size=3),
    st.lists(profiles, max_size=3),
    st.builds(Brakes, st.booleans(), st.none() | st.integers(0, 2), st.sampled_from([0.0, 30.0, 120.0])),
)
strange = settings(derandomize=True, max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@strange
@given(worlds)
def test_every_service_of_any_snapshot_gets_exactly_one_decision(world):
    plans = decide(world)
    assert set(plans.decisions) == {service.key for service in world.services}
    assert 0 <= plans.quality.bound <= plans.quality.cost < math.inf
    for service in world.services:
        decision = plans.decisions[service.key]
        assert isinstance(decision, Scale | Hold | Infeasible)
        assert decision.explanation.message
        assert math.isfinite(decision.plan.cost_per_hour)
        names = [step.variant for step in decision.steps if step.variant]
        alive = {variant.name for variant in service.running if variant.desired or variant.live}
        assert len(names) == len(set(names))
        assert set(names) == alive
        assert all(step.replicas >= 0 for step in decision.steps)
        assert all(variant.replicas > 0 for variant in decision.plan.variants)
        remember(service, decision, world.now)


@strange
@given(worlds)
def test_steps_never_add_gpus_beyond_stock_limits_and_quota(world):
    """What is held may be too much already (a limit was lowered); then nothing is added to it."""
    plans = decide(world)
    before, after = {}, {}
    for service in world.services:
        for held, steps in ((before, ()), (after, plans.decisions[service.key].steps)):
            for use, count in peak_uses(service.running, steps).items():
                for key in (use.pool, service.key):
                    held[key] = held.get(key, 0) + use.gpus * count
        limit = service.limits.max_gpus
        if limit is not None and service.mode is not Mode.OBSERVE:
            assert after.get(service.key, 0) <= max(limit, before.get(service.key, 0))
    for pool in world.pools:
        free = pool.stock.usable if pool.stock else 0
        if pool.stock and pool.max_gpus is not None:
            free += max(0, pool.max_gpus - pool.stock.existing)
        bounds = [free, *(a.gpu_quota for a in pool.admissions if a.gpu_quota is not None)]
        if pool.max_gpus is not None:
            bounds.append(pool.max_gpus)
        bound_elsewhere = sum(
            variant.placement.configuration.gpus_per_replica
            for service in world.services
            for variant in service.running
            if variant.placement.pool == pool.name
            for replica in variant.replicas
            if replica.node is not None
        )
        allowed = max(min(bounds) + bound_elsewhere, before.get(pool.name, 0))
        assert after.get(pool.name, 0) <= allowed


@strange
@given(worlds, st.randoms())
def test_the_order_of_services_pools_and_the_hour_of_asking_do_not_matter(world, random):
    shuffled_services, shuffled_pools = list(world.services), list(world.pools)
    random.shuffle(shuffled_services)
    random.shuffle(shuffled_pools)
    other = replace(world, services=tuple(shuffled_services), pools=tuple(shuffled_pools))
    assert repr(sorted(decide(world).decisions.items())) == repr(sorted(decide(other).decisions.items()))
    assert repr(decide(world)) == repr(decide(world))


@strange
@given(worlds)
def test_groups_are_decided_alike_alone_and_together(world):
    world = replace(world, brakes=replace(world.brakes, max_concurrent_moves=None))
    together = decide(world).decisions
    parts = partition(world)
    apart = {key: decision for part in parts for key, decision in decide(part).decisions.items()}
    assert sorted(s.key for part in parts for s in part.services) == sorted(together)
    assert repr(sorted(together.items())) == repr(sorted(apart.items()))
    for one, other in pairwise(parts):
        assert not {p.name for p in one.pools} & {p.name for p in other.pools}


PROFILES = [
    make_profile([make_row(10), make_row(18, tp=2), make_row(6, k=2)], facts=ModelFacts(0.5e9, 1e9, 12_288, 32768)),
    make_profile([make_row(5)], L40S, name="q", facts=ModelFacts(0.5e9, 1e9, 12_288, 32768)),
]


def plain_service(name, pools, **more):
    return make_service(name, pools=pools, facts=PROFILES[0].facts, objective=Objective(95, 1000), **more)


@st.composite
def fleets(draw):
    """Services that begin with nothing, on pools that may be scarce, and rates that change while they run."""
    some_pools = [
        make_pool(gpus=draw(st.integers(0, 9)), per_node=draw(st.sampled_from([2, 4, 8]))),
        make_pool("l40s", L40S, gpus=draw(st.integers(0, 6)), price=1.0, memory=48, claim=ClaimKind.EXTENDED),
    ]
    if draw(st.booleans()):
        some_pools[0] = replace(some_pools[0], admissions=(Admission("ml", draw(st.integers(0, 6))),))
    some_services = [
        plain_service(
            f"s{i}",
            draw(st.sampled_from([("h100",), ("l40s",), ("h100", "l40s")])),
            rate=draw(st.floats(0, 60)),
            priority=draw(st.integers(0, 2)),
            limits=Limits(draw(st.integers(1, 2)), draw(st.none() | st.integers(2, 6))),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    rates = draw(st.lists(st.lists(st.floats(0, 80), min_size=3, max_size=3), min_size=1, max_size=3))
    return Fleet(snapshot(some_services, some_pools, PROFILES, shrink_after_seconds=30.0), startup=10.0), rates


@settings(derandomize=True, max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(fleets())
def test_a_fleet_stays_within_every_bound_at_every_tick_and_comes_to_rest(given_fleet):
    fleet, rates = given_fleet
    for phase in rates:
        loads = {s.key: make_load(phase[i]) for i, s in enumerate(fleet.snapshot.services)}
        seen = []
        for _ in range(60):
            fleet.tick(loads=loads)
            assert all(left >= 0 for left in fleet.free().values())
            held = fleet.held()
            for pool in fleet.snapshot.pools:
                quota = [a.gpu_quota for a in pool.admissions if a.gpu_quota is not None]
                assert held.get(pool.name, 0) <= min([pool.stock.usable, *quota])
            for service in fleet.snapshot.services:
                mine = sum(v.live * v.placement.configuration.gpus_per_replica for v in service.running)
                assert service.limits.max_gpus is None or mine <= service.limits.max_gpus
            seen.append(
                tuple(
                    (s.key.name, tuple((v.placement, v.desired, v.ready) for v in s.running))
                    for s in fleet.snapshot.services
                )
            )
        assert len(set(seen[-10:])) == 1, "it has not come to rest"
        for service in fleet.snapshot.services:
            decision = fleet.plans.decisions[service.key]
            target = {v.placement: v.replicas for v in decision.plan.variants}
            assert {v.placement: v.ready for v in service.running} == target


@settings(derandomize=True, max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds, st.sampled_from([Load(), Load((Tick(0.0, complete=False),) * 9, 5.0, 0.0)]))
def test_missing_metrics_never_take_away_what_serves(world, blind):
    """Without metrics the replicas that serve stay, unless a limit, quota or higher priority leaves less."""
    fleet = Fleet(snapshot([plain_service("a", ("h100",), rate=40)], [make_pool()], PROFILES))
    for _ in range(20):
        fleet.tick(loads={fleet.snapshot.services[0].key: make_load(40)})
    before = fleet.held()
    for _ in range(3):
        fleet.tick(loads={fleet.snapshot.services[0].key: blind})
        assert fleet.held() == before
