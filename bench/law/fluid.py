"""A fleet as a fluid: arrivals per tick, one queue for each replica, decisions by the product's own `decide()`.

Requests are amounts of work, not events: within a tick they arrive evenly and are served evenly. A queue stays where it
is, as in real engines; newcomers join the shortest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import Decision
from shoal.domain.pool import ClaimKind, NodeStock, Pool, Stock
from shoal.domain.profile import LengthMix, Link, ModelFacts, Profile, ProfileRow, Source
from shoal.domain.service import (
    EngineFacts,
    Load,
    Memory,
    Objective,
    PlacedReplicas,
    Replica,
    ReplicaPhase,
    RunningVariant,
    Service,
    ServiceKey,
    Tick,
    Workload,
)
from shoal.domain.snapshot import Snapshot
from shoal.planner.credit import MARGIN_MEASURED
from shoal.planner.curves import KNEE
from shoal.planner.decide import decide
from shoal.planner.remember import remember

GPU = "NVIDIA-H100-80GB-HBM3"
MIX = LengthMix(512, 128, 1024, 256)
FACTS = ModelFacts(7.616e9, 15.2e9, 57344, 32768)
PLACE = Placement("h100", Configuration(GPU))
KEPT_TICKS = 360
GPUS = 400


@dataclass(frozen=True, slots=True)
class Setting:
    """What one replica carries within the objective (requests per second), and how long it takes to start."""

    capacity: float
    startup: float
    tick: float
    ttft: float  # seconds

    @property
    def overload(self) -> float:
        """Throughput of a replica when overloaded: its measured knee is KNEE of that, its capacity 0.9 of the knee."""
        return self.capacity / MARGIN_MEASURED / KNEE


@dataclass(slots=True)
class Engine:
    """One replica. `queue`: requests that wait now, and at the reading before; the smaller one is believed."""

    name: str
    created: float
    ready_at: float
    queue: float = 0.0
    queue_before: float = 0.0
    draining: bool = False

    def phase(self, now: float) -> ReplicaPhase:
        if self.draining:
            return ReplicaPhase.DRAINING
        return ReplicaPhase.READY if now >= self.ready_at else ReplicaPhase.STARTING


@dataclass(slots=True)
class Outcome:
    """What a run came to. `moves` counts changes of the target after the first plan."""

    requests: float = 0.0
    good: float = 0.0
    gpu_seconds: float = 0.0
    moves: int = 0
    targets: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    @property
    def attainment(self) -> float:
        """Share of the requests that met the TTFT objective."""
        return self.good / self.requests if self.requests else 1.0


def make_profile(setting: Setting) -> Profile:
    """A measured profile whose capacity is the setting's."""
    row = ProfileRow(1, 1, 256, 2048, 400_000.0, MIX, overload_rate=setting.overload)
    return Profile("fluid", "ml", "m", GPU, "vllm", "0.30.1", Source.MEASURED, FACTS, (row,), Link.NVLINK)


def make_snapshot(setting: Setting, *, declared: float, start: int, **more: object) -> Snapshot:
    """One service on one large pool, with `start` replicas that serve (0: nothing runs yet)."""
    pool = Pool("h100", GPU, 80 * 2**30, 2 * 2**30, ClaimKind.DRA, 3.0, Stock((NodeStock("n", GPUS, GPUS),)))
    variants = (RunningVariant("v", PLACE, start),) if start else ()
    target = (PlacedReplicas(PLACE, start),) if start else None
    service = Service(
        key=ServiceKey("ml", "chat"),
        uid="u",
        generation=1,
        created_at=0.0,
        model="m",
        facts=FACTS,
        max_context_tokens=8192,
        objective=Objective(95, ttft_ms=1000 * setting.ttft),
        workload=Workload(declared, MIX),
        engine=EngineFacts("vllm", "0.30.1", startup_seconds=setting.startup),
        pools=("h100",),
        running=variants,
        memory=Memory(target=target, startup_p90_seconds=setting.startup, traffic_seen=start > 0),
        **more,  # type: ignore[arg-type]
    )
    return Snapshot(0.0, (service,), (pool,), (make_profile(setting),))


class Fluid:
    """One service's replicas. `step` takes the arrivals of a tick, lets them be served, and decides again."""

    def __init__(self, setting: Setting, *, start: int, declared: float = 1.0, **more: object) -> None:
        self.setting = setting
        self.snapshot = make_snapshot(setting, declared=declared, start=start, **more)
        self.engines = [Engine(f"r{i}", -1e9, -1e9) for i in range(start)]
        self.ticks: list[Tick] = []
        self.names = start
        self.outcome = Outcome()
        self.planned = start > 0
        if not start:
            self._plan()

    def step(self, count: float) -> Decision:
        """`count` requests arrive during one tick."""
        self._serve(count)
        self.ticks = [*self.ticks, Tick(count)][-KEPT_TICKS:]
        self.snapshot = replace(self.snapshot, now=self.snapshot.now + self.setting.tick)
        self.outcome.rates.append(count / self.setting.tick)
        return self._plan()

    def _serve(self, count: float) -> None:
        now, tick, overload = self.snapshot.now, self.setting.tick, self.setting.overload
        open_engines = [e for e in self.engines if not e.draining and e.ready_at <= now]
        self.outcome.requests += count
        self.outcome.gpu_seconds += tick * len(self.engines)
        level = _level([e.queue for e in open_engines], count)
        for engine in self.engines:
            arrived = max(0.0, level - engine.queue) if engine in open_engines else 0.0
            self.outcome.good += _served_in_time(engine.queue, arrived, overload, tick, self.setting.ttft)
            working = engine in open_engines or engine.draining
            engine.queue_before = engine.queue
            engine.queue = max(0.0, engine.queue + arrived - (overload * tick if working else 0.0))
        self.engines = [e for e in self.engines if not (e.draining and e.queue <= 0)]

    def _plan(self) -> Decision:
        snapshot = self.snapshot
        service = replace(snapshot.services[0], running=self._running(), load=self._load())
        snapshot = replace(snapshot, services=(service,))
        decision = decide(snapshot).decisions[service.key]
        if getattr(decision, "moved", False):
            self.outcome.moves += self.planned
            self.planned = True
        self._apply(decision)
        self.outcome.targets.append(decision.plan.replicas)
        memory = remember(service, decision, snapshot.now)
        self.snapshot = replace(snapshot, services=(replace(service, memory=memory),))
        return decision

    def _load(self) -> Load:
        return Load(tuple(self.ticks), self.setting.tick, 1.0, MIX)

    def _running(self) -> tuple[RunningVariant, ...]:
        now = self.snapshot.now
        if not self.engines:
            return ()
        replicas = tuple(
            Replica(
                e.name,
                e.phase(now),
                e.created,
                node="n",
                queue_seconds=min(e.queue, e.queue_before) / self.setting.overload,
                ready_engines=int(e.ready_at <= now),
            )
            for e in self.engines
        )
        return (RunningVariant("v", PLACE, sum(not e.draining for e in self.engines), replicas),)

    def _apply(self, decision: Decision) -> None:
        for step in decision.steps:
            for engine in self.engines:
                engine.draining = engine.draining or engine.name in step.doomed
            for _ in range(step.replicas - sum(not e.draining for e in self.engines)):
                self.names += 1
                now = self.snapshot.now
                self.engines.append(Engine(f"r{self.names}", now, now + self.setting.startup))


def _level(queues: Sequence[float], count: float) -> float:
    """Height to which `count` requests fill the shortest queues."""
    level, left = 0.0, count
    for filled, queue in enumerate(sorted(queues)):
        if filled and (queue - level) * filled >= left:
            return level + left / filled
        left -= (queue - level) * filled
        level = queue
    return level + left / len(queues) if queues else 0.0


def _served_in_time(queue: float, arrived: float, overload: float, tick: float, ttft: float) -> float:
    """Requests of this tick whose wait stays within the objective: the queue grows or falls evenly."""
    if arrived <= 0:
        return 0.0
    first, growth = queue / overload, arrived / overload / tick - 1  # wait at the start, and its growth per second
    last = first + growth * tick
    if max(first, last) <= ttft:
        return arrived
    if min(first, last) > ttft:
        return 0.0
    share = (ttft - first) / (last - first)
    return arrived * (share if growth > 0 else 1 - share)


def run(fluid: Fluid, counts: Sequence[float]) -> Outcome:
    """Every tick of a run."""
    for count in counts:
        fluid.step(count)
    return fluid.outcome


def clairvoyant_gpu_seconds(rates: Sequence[float], setting: Setting, misses: float) -> float:
    """Least GPU-seconds of anyone who knows the future: min sum n_t, n_t*C >= (1 - s_t)*rate_t, misses as ours.

    Start-up costs nothing here. Each replica taken from a tick costs the requests it would have carried; the cheapest
    are taken first, the last in part, so that it is a bound (a relaxation), not a schedule.
    """
    capacity, tick = setting.capacity, setting.tick
    total, costs = 0, []
    for rate in rates:
        whole = -(-rate // capacity)
        total += int(whole)
        if whole:
            costs.append(tick * (rate - (whole - 1) * capacity))
            costs.extend([tick * capacity] * (int(whole) - 1))
    saved, left = 0.0, misses
    for cost in sorted(costs):
        saved += min(1.0, left / cost)
        left -= cost
        if left <= 0:
            break
    return (total - saved) * tick
