"""One decision for a thousand services that share pools: how long it takes, and how far from the bound it is.

Everything is made from fixed seeds: 40 models on four GPU types at published prices, five configurations on each.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.run import Measured, Say
from bench.spread import Target, make_figure
from shoal.domain.configuration import Placement
from shoal.domain.plan import PlanSet, Scale
from shoal.domain.pool import ClaimKind, NodeStock, Pool, Stock
from shoal.domain.profile import LengthMix, Link, ModelFacts, Profile, ProfileRow, Quantiles, RatePoint, Source
from shoal.domain.service import (
    EngineFacts,
    Load,
    Memory,
    Objective,
    Replica,
    ReplicaPhase,
    RunningVariant,
    Service,
    ServiceKey,
    Tick,
    Workload,
)
from shoal.domain.snapshot import Snapshot
from shoal.planner.decide import decide
from shoal.planner.remember import remember
from shoal.reconciler.__main__ import COLLECT_AFTER

TITLE = "One decision for all services of a large cluster"
MODELS: Final = 40
TICK_SECONDS: Final = 5.0
TICKS: Final = 360  # of each service: half an hour
NODE: Final = 8
LENGTHS: Final = LengthMix(512, 128, 1024, 256)
GPUS: Final = (
    ("l4", 0.70, 0.22, 24e9),
    ("a10g", 1.01, 0.32, 24e9),
    ("a100", 3.67, 0.7, 80e9),
    ("h100", 7.516, 1, 80e9),
)
"""Pool, price of a GPU for an hour, speed against an H100 (made up), bytes."""
SHAPES: Final = ((1, 1, 1.0, 1.0), (2, 1, 1.75, 0.65), (4, 1, 3.1, 0.45), (1, 2, 0.58, 1.3), (1, 4, 0.31, 1.7))
"""Tensor parallelism, engines per GPU, rate of one engine and its latency against one whole GPU (made up)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`rounds` decisions after every rate moved by 1 %, for each of `seeds` worlds of so many services.

    In `gap_seeds` worlds, those included, all are new and then all dirty: for the gap to the bound.
    """

    services: int = 1000
    seeds: int = 3
    rounds: int = 20
    gap_seeds: int = 20


QUICK = Settings(services=40, seeds=1, rounds=2, gap_seeds=2)


@dataclass
class Times:
    """Seconds on the clock and of the processor, and gaps in percent."""

    wall: list[float]
    processor: list[float]
    gap: list[float]


@dataclass
class _Node:
    name: str
    free: int


def run(settings: Settings, directory: Path, say: Say) -> Measured:
    """Measure, with garbage collected as the operator does; the last rounds as the interpreter does by itself."""
    own = gc.get_threshold()
    new, dirty, noise, collected = (Times([], [], []) for _ in range(4))
    with _collecting_after(COLLECT_AFTER):
        cut = _measure(settings, say, (new, dirty, noise, collected), own)
    return Measured(
        figures=(
            make_figure("all new, nothing cached", "s", new.wall, Target(2.0, "max")),
            make_figure("all dirty: every rate between half and twice", "s", dirty.wall, Target(2.0, "max")),
            make_figure("every rate moved by 1 %", "s", noise.wall, Target(0.3, "p95")),
            make_figure("gap to the bound, all new", "%", new.gap, Target(1.0, "max")),
            make_figure("gap to the bound, all dirty", "%", dirty.gap, Target(1.0, "max")),
            make_figure("all new, processor", "s", new.processor, Target(2.0, "max")),
            make_figure("all dirty, processor", "s", dirty.processor, Target(2.0, "max")),
            make_figure("every rate moved by 1 %, processor", "s", noise.processor, Target(0.3, "p95")),
            make_figure("every rate moved by 1 %, processor, collecting by default", "s", collected.processor),
        ),
        setting={
            "services": settings.services,
            "configurations each": len(GPUS) * len(SHAPES),
            "worlds": settings.seeds,
            "worlds for the gap": settings.gap_seeds,
            "ticks of each": TICKS,
            "services not served in full, all worlds": cut,
        },
        notes=(
            "Profiles and rates are made up (simulated); prices of the four GPU types are published ones. The two "
            "cheapest pools hold about half of what all services would take of them.",
            "Decisions only: nothing is observed or applied. The bound is over the candidate plans of each service.",
            "Garbage is collected as rarely as in the operator; in the last row as the interpreter does by itself.",
        ),
    )


@contextmanager
def _collecting_after(thresholds: tuple[int, int, int]) -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*thresholds)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _measure(
    settings: Settings, say: Say, times: tuple[Times, Times, Times, Times], default: tuple[int, int, int]
) -> int:
    """All worlds; how many services were not served in full."""
    new, dirty, noise, collected = times
    cut = 0
    for seed in range(settings.gap_seeds):
        rng = random.Random(seed)
        world = make_world(settings.services, rng)
        plans = _timed(world, new)
        world = _arrive(world, plans)
        cut += sum(not isinstance(decision, Scale) for decision in plans.decisions.values())
        say(f"world {seed + 1} of {settings.gap_seeds}: new {new.wall[-1]:.2f} s, gap {new.gap[-1]:.3f} %")
        for moved in _noisy(world, rng, settings.rounds if seed < settings.seeds else 0):
            _timed(moved, noise)
        with _collecting_after(default):
            for moved in _noisy(world, random.Random(seed), settings.rounds if seed < settings.seeds else 0):
                _timed(moved, collected)
        changed = _with_rates(world, {s.key: _rate(s) * rng.uniform(0.5, 2.0) for s in world.services})
        _timed(changed, dirty)
    return cut


def make_world(count: int, rng: random.Random) -> Snapshot:
    """Services that were never decided for, pools of which the cheap ones are too small."""
    sizes = (0.9, 0.9, 1.2, 1.5)
    pools = tuple(
        Pool(
            name,
            name.upper(),
            memory,
            2e9,
            ClaimKind.DRA,
            price,
            Stock(tuple(NodeStock(f"{name}-{n}", NODE, NODE) for n in range(int(size * count / NODE) + 1))),
            link=Link.NVLINK,
        )
        for (name, price, _, memory), size in zip(GPUS, sizes, strict=True)
    )
    profiles = tuple(
        _profile(f"model-{model}", name, 12 * rng.uniform(0.5, 2) * speed * rng.uniform(0.8, 1.2))
        for model in range(MODELS)
        for name, _, speed, _ in GPUS
    )
    services = tuple(
        Service(
            key=ServiceKey("ml", f"service-{index:04}"),
            uid=str(index),
            generation=1,
            created_at=float(index),
            model=f"model-{index % MODELS}",
            facts=ModelFacts(0.5e9, 1e9, 12_288, 32_768),
            max_context_tokens=8192,
            objective=Objective(95, 1000, 60),
            workload=Workload(1.0, LENGTHS),
            engine=EngineFacts("vllm", "0.30.1"),
            pools=tuple(pool.name for pool in pools),
            load=_load(min(60.0, rng.lognormvariate(1.6, 0.9)), TICKS),
            memory=Memory(traffic_seen=True),
        )
        for index in range(count)
    )
    return Snapshot(1_000_000.0, services, pools, profiles)


def _profile(model: str, pool: str, knee: float) -> Profile:
    rows = []
    for tensor, engines, rate, latency in SHAPES:
        points = tuple(
            RatePoint(share * rate * knee, _spread(slow * latency * 80), _spread(slow * latency * 9))
            for share, slow in ((0.2, 1.0), (0.6, 1.4), (0.9, 2.0))
        )
        rows.append(ProfileRow(tensor, engines, 256, 2048, 400_000, LENGTHS, rate * knee / 0.93, points))
    facts = ModelFacts(0.5e9, 1e9, 12_288, 32_768)
    name = f"{model}-{pool}"
    return Profile(
        name, "shoal-system", model, pool.upper(), "vllm", "0.30.1", Source.MEASURED, facts, tuple(rows), Link.NVLINK
    )


def _spread(p95: float) -> Quantiles:
    return Quantiles(p95 / 1.5, p95=p95)


def _load(rate: float, ticks: int) -> Load:
    return Load((Tick(rate * TICK_SECONDS),) * ticks, TICK_SECONDS, 1.0, LENGTHS)


def _rate(service: Service) -> float:
    return service.load.ticks[-1].count / TICK_SECONDS


def _timed(world: Snapshot, times: Times) -> PlanSet:
    began, processor = time.perf_counter(), time.process_time()
    plans = decide(world)
    times.wall.append(time.perf_counter() - began)
    times.processor.append(time.process_time() - processor)
    times.gap.append(100 * plans.quality.gap)
    return plans


def _arrive(world: Snapshot, plans: PlanSet) -> Snapshot:
    """The same world ten minutes later, when everything that was decided serves."""
    free = {pool.name: [_Node(n.node, n.usable) for n in pool.stock.nodes] for pool in world.pools if pool.stock}
    services = []
    for service in world.services:
        decision = plans.decisions[service.key]
        running = tuple(
            RunningVariant(
                f"{service.key.name}-{place}",
                variant.placement,
                variant.replicas,
                tuple(_replicas(service, variant.placement, variant.replicas, free)),
            )
            for place, variant in enumerate(decision.plan.variants)
        )
        services.append(replace(service, running=running, memory=remember(service, decision, world.now)))
    return replace(world, now=world.now + 600, services=tuple(services))


def _replicas(service: Service, placement: Placement, count: int, free: dict[str, list[_Node]]) -> Iterator[Replica]:
    gpus = placement.configuration.gpus_per_replica
    for index in range(count):
        at = next((node for node in free[placement.pool] if node.free >= gpus), None)
        if at is not None:
            at.free -= gpus
        name = f"{service.key.name}-{placement.pool}-{gpus}-{index}"
        yield Replica(name, ReplicaPhase.READY, 1_000_000.0, node=at.name if at else None, queue_seconds=0.0)


def _noisy(world: Snapshot, rng: random.Random, rounds: int) -> Iterator[Snapshot]:
    """The world tick by tick, every service's rate within 1 % of what it was."""
    for index in range(1, rounds + 1):
        services = []
        for service in world.services:
            tick = Tick(_rate(service) * TICK_SECONDS * rng.choice((0.99, 1.01)))
            load = replace(service.load, ticks=(*service.load.ticks[1:], tick))
            services.append(replace(service, load=load))
        yield replace(world, now=world.now + index * TICK_SECONDS, services=tuple(services))


def _with_rates(world: Snapshot, rates: dict[ServiceKey, float]) -> Snapshot:
    services = tuple(replace(s, load=_load(rates[s.key], TICKS)) for s in world.services)
    return replace(world, services=services)
