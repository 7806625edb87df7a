"""Plays a scenario in virtual time with the real `decide()`: it sees a Snapshot, as in a cluster, and nothing else."""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from shoal.domain.configuration import Placement
from shoal.domain.plan import Decision, Demand, Hold
from shoal.domain.pool import ClaimKind, NodeStock, Pool, Stock
from shoal.domain.profile import LengthMix, Profile
from shoal.domain.service import EngineFacts, Load, Memory, Service, ServiceKey, Tick, Workload
from shoal.domain.snapshot import Brakes, Snapshot
from shoal.planner.catalog import model_facts
from shoal.planner.decide import decide
from shoal.planner.demand import is_surge
from shoal.planner.remember import remember
from shoal.sim.arguments import ServerArguments
from shoal.sim.engine import Engine, QueueFullError, Report
from shoal.sim.fleet import Fleet, SimEngine, SimGPU
from shoal.sim.kernel import Kernel
from shoal.sim.measure import mean_gap_ms, ttft_ms
from shoal.sim.result import Move, Result, SimRequest, make_service_result
from shoal.sim.router import Router
from shoal.sim.scenario import Heat, PoolSpec, Scenario, ServiceSpec
from shoal.sim.settings import SimSettings
from shoal.sim.traffic import Arrival, Traffic
from shoal.sim.truth import Truth, find_truth

NAMESPACE = "sim"
ENGINE = EngineFacts("vllm", "0.33.0")
USUAL_LENGTHS = LengthMix(512.0, 128.0, 1024.0, 256.0)
COUNTS = 2  # of arrivals in a planning interval, as in the operator
TICKS_KEPT = 360 * COUNTS
LENGTHS_SECONDS, LATENCIES_SECONDS = 300.0, 60.0  # over which they are observed, as in the operator
ENOUGH_LENGTHS = 20
LAST_SECONDS = 3600.0  # in which the last answers come after the traffic has ended


class _Lengths:
    """Lengths of the requests seen lately."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()
        self._prompts: deque[int] = deque()
        self._outputs: deque[int] = deque()

    def record(self, at: float, arrival: Arrival) -> None:
        self._at.append(at)
        self._prompts.append(arrival.prompt_tokens)
        self._outputs.append(arrival.output_tokens)

    def forget(self, since: float) -> None:
        while self._at and self._at[0] < since:
            for values in (self._at, self._prompts, self._outputs):
                values.popleft()

    def mix(self) -> LengthMix | None:
        """Means and 95th percentiles; None as long as there are too few."""
        if len(self._at) < ENOUGH_LENGTHS:
            return None
        prompts, outputs = (np.fromiter(values, float, len(values)) for values in (self._prompts, self._outputs))
        return LengthMix(
            float(prompts.mean()),
            float(outputs.mean()),
            float(np.quantile(prompts, 0.95)),
            float(np.quantile(outputs, 0.95)),
        )


@dataclass(slots=True)
class _Played:
    """One service while it is played."""

    spec: ServiceSpec
    key: ServiceKey
    memory: Memory = field(default_factory=Memory)
    requests: list[SimRequest] = field(default_factory=list)
    ticks: deque[Tick] = field(default_factory=lambda: deque(maxlen=TICKS_KEPT))
    arrived: int = 0  # in the present tick
    lengths: _Lengths = field(default_factory=_Lengths)
    latencies: deque[tuple[float, float | None, float | None]] = field(default_factory=deque)
    plan: str = "none"
    demand: Demand | None = None  # planned for


class World:
    """Everything that is simulated.

    `told` are the profiles the planner knows, `true` those the engines obey.
    """

    def __init__(self, scenario: Scenario, told: Sequence[Profile], true: Sequence[Profile]) -> None:
        self.scenario = scenario
        self.told = tuple(told)
        self.kernel = Kernel()
        self.played = {
            key: _Played(spec, key) for spec in scenario.services for key in [ServiceKey(NAMESPACE, spec.name)]
        }
        self.moves: list[Move] = []
        self._true = tuple(true)
        self._truths: dict[tuple[ServiceKey, Placement], Truth] = {}
        self._pools = {pool.name: pool for pool in scenario.pools}
        self._router = Router(scenario.seed)
        self._most_gpus = 0
        self._began: float | None = None
        self._counts = 0
        self.fleet = Fleet(
            self.kernel,
            _make_gpus(scenario.pools),
            make_engine=self._make_engine,
            on_reports=self._on_reports,
            startup_seconds=scenario.startup_seconds,
            drain_seconds=scenario.drain_seconds,
        )

    def play(self) -> Result:
        """From the first plan to the last answer. Traffic begins when what was planned for it serves."""
        self._warm_up()
        self._began = self.kernel.now
        ends = self._began + self.scenario.seconds
        for number, played in enumerate(self.played.values()):
            self._schedule_traffic(played, self.scenario.seed * 1000 + number)
        for heat in self.scenario.heat:
            self.kernel.at(self._began + heat.at, functools.partial(self._heat, heat))
        before = self.fleet.gpu_seconds_now()
        self._plan_until(ends)
        used = {pool: total - before.get(pool, 0.0) for pool, total in self.fleet.gpu_seconds_now().items()}
        self.kernel.run(until=ends + LAST_SECONDS)
        return self._sum_up(used)

    def _warm_up(self) -> None:
        """Plan until everything that shall run serves, for at most ten start-ups."""
        limit = 10 * self.scenario.startup_seconds
        self._plan()
        while self.kernel.now < limit and not self.fleet.is_settled:
            self._plan_until(self.kernel.now + self.scenario.tick_seconds)

    def _plan_until(self, end: float) -> None:
        """Plan in each planning interval, and after a count of arrivals in which one of them surges."""
        while self.kernel.now < end:
            self.kernel.run(until=min(end, self.kernel.now + self._tick_seconds))
            self._counts += 1
            surges = [self._count(played) for played in self.played.values()]
            whole = self._counts % COUNTS == 0
            if whole:
                self.fleet.read_queues()
            if whole or any(surges):
                self._plan()

    @property
    def _tick_seconds(self) -> float:
        return self.scenario.tick_seconds / COUNTS

    def _count(self, played: _Played) -> bool:
        """Close a tick; return whether far more arrived than was planned for."""
        tick = Tick(played.arrived)
        played.ticks.append(tick)
        played.arrived = 0
        return played.demand is not None and is_surge(tick, self._tick_seconds, played.demand)

    def _plan(self) -> None:
        services = {key: self._observe(played) for key, played in self.played.items()}
        snapshot = Snapshot(
            now=self.kernel.now,
            services=tuple(services.values()),
            pools=tuple(make_pool(pool) for pool in self.scenario.pools),
            profiles=self.told,
            brakes=Brakes(shrink_after_seconds=self.scenario.shrink_after_seconds),
        )
        for key, decision in decide(snapshot).decisions.items():
            played = self.played[key]
            played.memory = remember(services[key], decision, self.kernel.now)
            played.demand = decision.explanation.demand
            self._note(played, decision)
            self.fleet.apply(key, decision.steps)
            self.fleet.set_weights(_weights(decision, services[key]))
        self._most_gpus = max(self._most_gpus, sum(gpu.held for gpu in self.fleet.gpus))

    def _observe(self, played: _Played) -> Service:
        spec = played.spec
        clocks = {pool.name: pool.max_clock_mhz for pool in self.scenario.pools}
        assumed = LengthMix(spec.input_mean, spec.output_mean, 2 * spec.input_mean, 2 * spec.output_mean)
        declared = spec.declared_rate is not None
        return Service(
            key=played.key,
            uid=str(played.key),
            generation=1,
            created_at=0.0,
            model=spec.model,
            facts=model_facts(spec.model),
            max_context_tokens=spec.max_context_tokens,
            objective=spec.objective,
            workload=Workload(spec.declared_rate or 1.0, assumed if declared else USUAL_LENGTHS, declared),
            engine=replace(ENGINE, startup_seconds=self.scenario.startup_seconds),
            pools=spec.pools or tuple(self._pools),
            limits=spec.limits,
            parallelism=spec.parallelism,
            priority=spec.priority,
            running=self.fleet.observe(played.key, clocks),
            load=self._observe_load(played),
            memory=played.memory,
        )

    def _observe_load(self, played: _Played) -> Load:
        while played.latencies and played.latencies[0][0] < self.kernel.now - LATENCIES_SECONDS:
            played.latencies.popleft()
        played.lengths.forget(self.kernel.now - LENGTHS_SECONDS)
        return Load(
            ticks=tuple(played.ticks),
            tick_seconds=self._tick_seconds,
            ticks_to_settle=COUNTS,
            fresh_fraction=1.0,
            lengths=played.lengths.mix(),
            ttft_mean_ms=_mean([ttft for _, ttft, _ in played.latencies if ttft is not None]),
            itl_mean_ms=_mean([gap for _, _, gap in played.latencies if gap is not None]),
        )

    def _note(self, played: _Played, decision: Decision) -> None:
        if isinstance(decision, Hold) or not decision.moved:
            return
        after = f"{decision.plan.summary} ({', '.join(v.placement.pool for v in decision.plan.variants)})"
        if self._began is not None:
            at = self.kernel.now - self._began
            self.moves.append(Move(at, played.spec.name, played.plan, after, decision.explanation.message))
        played.plan = after

    def _schedule_traffic(self, played: _Played, seed: int) -> None:
        """One arrival at a time in the kernel's queue: each schedules the next."""
        spec = played.spec
        traffic = Traffic(spec.schedule, spec.input_mean, spec.output_mean, seed, spec.max_context_tokens)
        arrivals = traffic.arrivals()

        def schedule_next() -> None:
            if (arrival := next(arrivals, None)) is not None:
                self.kernel.at(self.kernel.now + arrival.at - at[0], functools.partial(arrive, arrival))
                at[0] = arrival.at

        def arrive(arrival: Arrival) -> None:
            self._arrive(played, arrival)
            schedule_next()

        at = [0.0]
        schedule_next()

    def _arrive(self, played: _Played, arrival: Arrival) -> None:
        played.arrived += 1
        played.lengths.record(self.kernel.now, arrival)
        engines = self._router.order(self.fleet.engines_of(played.key))
        for engine in engines:
            self.fleet.catch_up(engine)
            try:
                sequence = engine.engine.submit(arrival.prompt_tokens, arrival.output_tokens, self.kernel.now)
            except QueueFullError:
                continue
            finally:
                self.fleet.arm(engine)
            played.requests.append(SimRequest(arrival.at, sequence))
            return
        played.requests.append(SimRequest(arrival.at, None, refused=bool(engines)))

    def _heat(self, heat: Heat) -> None:
        self.fleet.set_clock([gpu for gpu in self.fleet.gpus if gpu.pool == heat.pool][heat.gpu], heat.ratio)

    def _on_reports(self, engine: SimEngine, reports: Sequence[Report]) -> None:
        latencies = self.played[engine.service].latencies
        for report in reports:
            for sequence in report.ended:
                latencies.append((report.at, ttft_ms(sequence), mean_gap_ms(sequence)))

    def _make_engine(self, key: ServiceKey, placement: Placement) -> SimEngine:
        truth = self._truths.get((key, placement))
        if truth is None:
            truth = self._truths[key, placement] = self._find_truth(self.played[key].spec, placement)
        return SimEngine(key, Engine(truth.steps, truth.limits), truth)

    def _find_truth(self, spec: ServiceSpec, placement: Placement) -> Truth:
        configuration = placement.configuration
        arguments = ServerArguments(
            model=spec.model,
            served_names=(spec.name,),
            host=None,
            port=8000,
            tensor_parallel=configuration.tensor_parallel,
            max_model_len=spec.max_context_tokens,
            max_num_seqs=configuration.max_num_seqs,
            max_num_batched_tokens=configuration.max_num_batched_tokens,
            kv_cache_memory_bytes=None,
            shutdown_timeout=0.0,
            api_servers=1,
            block_size=16,
        )
        settings = SimSettings(accelerator=configuration.accelerator, engines_per_gpu=configuration.engines_per_gpu)
        return find_truth(self._true, arguments, settings)

    def _sum_up(self, gpu_seconds: Mapping[str, float]) -> Result:
        return Result(
            scenario=self.scenario.name,
            seconds=self.scenario.seconds,
            services=tuple(
                make_service_result(played.spec, played.requests, self.scenario) for played in self.played.values()
            ),
            moves=tuple(self.moves),
            gpu_hours=sum(gpu_seconds.values()) / 3600,
            cost=sum(s / 3600 * self._pools[pool].price_per_gpu_hour for pool, s in gpu_seconds.items()),
            most_gpus=self._most_gpus,
        )


def make_pool(spec: PoolSpec) -> Pool:
    """The pool as the planner sees it: every GPU exists and is usable, those in use by Shoal included."""
    nodes = Counter(node for node, _ in _places(spec))
    return Pool(
        name=spec.name,
        accelerator=spec.accelerator,
        memory_bytes=spec.memory_gib * 2**30,
        reserve_bytes=2 * 2.0**30,
        claim=ClaimKind.DRA,
        price_per_gpu_hour=spec.price_per_gpu_hour,
        stock=Stock(tuple(NodeStock(node, count, count) for node, count in nodes.items())),
        link=spec.link,
    )


def _places(spec: PoolSpec) -> list[tuple[str, str]]:
    """(node, UUID) of each GPU."""
    return [(f"{spec.name}-{n // spec.per_node}", f"GPU-{spec.name}-{n}") for n in range(spec.gpus)]


def _make_gpus(pools: Sequence[PoolSpec]) -> list[SimGPU]:
    return [SimGPU(uuid, node, pool.name) for pool in pools for node, uuid in _places(pool)]


def _weights(decision: Decision, service: Service) -> dict[str, float]:
    """Capacity per engine times derating, by replica: what the router is told."""
    rates = {variant.placement: variant.capacity.rate for variant in decision.plan.variants}
    derating = decision.explanation.derating
    return {
        replica.name: rates[variant.placement] * derating.get(replica.name, 1.0)
        for variant in service.running
        for replica in variant.replicas
        if variant.placement in rates
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def run(scenario: Scenario, told: Sequence[Profile], true: Sequence[Profile] | None = None) -> Result:
    """Play a scenario. `true` None: the engines obey what the planner was told."""
    return World(scenario, told, told if true is None else true).play()
