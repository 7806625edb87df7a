"""Plays a scenario in virtual time. Whoever decides sees a Snapshot, as in a cluster, and nothing else."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shoal.domain.configuration import Placement
from shoal.domain.pool import ClaimKind, NodeStock, Pool, Stock
from shoal.domain.profile import LengthMix, Profile
from shoal.domain.service import EngineFacts, ReplicaPhase, RunningVariant, Service, ServiceKey, Workload
from shoal.domain.snapshot import Brakes, Snapshot
from shoal.planner.catalog import model_facts
from shoal.sim.arguments import ServerArguments
from shoal.sim.door import Door, SimRequest
from shoal.sim.engine import Engine, Report
from shoal.sim.fleet import Fleet, Startup
from shoal.sim.fleet_parts import SimEngine, SimGPU, SimReplica
from shoal.sim.incidents import GPULoss, Heat, Incident, NodeLoss, is_within
from shoal.sim.kernel import Kernel
from shoal.sim.policies.laws import Signals
from shoal.sim.policies.protocol import Order, Policy
from shoal.sim.policies.shoal import ShoalPolicy
from shoal.sim.result import Move, Result, make_service_result
from shoal.sim.scenario import PoolSpec, Scenario, ServiceSpec
from shoal.sim.settings import SimSettings
from shoal.sim.timeline import Sample
from shoal.sim.traffic import Arrival
from shoal.sim.truth import Truth, find_truth
from shoal.sim.watch import COUNTS, Watch
from shoal.sim.windows import Windows

NAMESPACE = "sim"
ENGINE = EngineFacts("vllm", "0.33.0")
USUAL_LENGTHS = LengthMix(512.0, 128.0, 1024.0, 256.0)
LAST_SECONDS = 3600.0  # in which the last answers come after the traffic has ended


@dataclass(slots=True)
class _Played:
    """One service while it is played."""

    spec: ServiceSpec
    key: ServiceKey
    watch: Watch
    door: Door
    requests: list[SimRequest] = field(default_factory=list)
    plan: str = "none"


class World:
    """Everything that is simulated.

    `told` are the profiles the planner knows, `true` those the engines obey.
    """

    def __init__(self, scenario: Scenario, told: Sequence[Profile], true: Sequence[Profile], policy: Policy) -> None:
        self.scenario = scenario
        self.told = tuple(told)
        self.kernel = Kernel()
        self.policy = policy
        self.moves: list[Move] = []
        self.timeline: list[Sample] = []
        self._true = tuple(true)
        self._truths: dict[tuple[ServiceKey, Placement], Truth] = {}
        self._windows = Windows()
        self._pools = {pool.name: pool for pool in scenario.pools}
        self._interval_seconds = policy.interval_seconds or scenario.tick_seconds
        self._counts = 0
        self._most_gpus = 0
        self._began: float | None = None
        self.fleet = Fleet(
            self.kernel,
            _make_gpus(scenario.pools),
            make_engine=self._make_engine,
            make_startup=self._make_startup,
            on_reports=self._on_reports,
            drain_seconds=scenario.drain_seconds,
        )
        played = (self._make_played(spec) for spec in scenario.services)
        self.played = {one.key: one for one in played}

    def play(self) -> Result:
        """From the first plan to the last answer. Traffic begins when what was planned for it serves."""
        self._warm_up()
        self._began = self.kernel.now
        ends = self._began + self.scenario.seconds
        for played in self.played.values():
            self._schedule_traffic(played)
        for incident in self.scenario.incidents:
            self._schedule_incident(incident)
        before = self.fleet.gpu_seconds_now()
        self._plan_until(ends)
        used = {pool: total - before.get(pool, 0.0) for pool, total in self.fleet.gpu_seconds_now().items()}
        self.kernel.run(until=ends + LAST_SECONDS)
        return self._sum_up(used)

    def _make_played(self, spec: ServiceSpec) -> _Played:
        key = ServiceKey(NAMESPACE, spec.name)
        door = Door(
            self.kernel,
            self.fleet,
            key,
            routing=self.scenario.routing,
            ttft_ms=spec.objective.ttft_ms,
            seed=self.scenario.seed,
        )
        return _Played(spec, key, Watch(self._interval_seconds), door)

    def _warm_up(self) -> None:
        """Plan until everything that shall run serves, for at most ten start-ups."""
        limit = 10 * self.scenario.startup_seconds
        self._decide()
        while self.kernel.now < limit and not self.fleet.is_settled:
            self._plan_until(self.kernel.now + self._interval_seconds)

    def _plan_until(self, end: float) -> None:
        """Plan in each planning interval, and after a count of arrivals in which one of them surges."""
        while self.kernel.now < end:
            self.kernel.run(until=min(end, self.kernel.now + self._interval_seconds / COUNTS))
            self._counts += 1
            whole = self._counts % COUNTS == 0
            if whole:
                self._sample()
                self.fleet.read_queues()
            if self._somebody_decides():
                surges = [self._count(played) for played in self.played.values()]
                if whole or any(surges):
                    self._decide()

    def _somebody_decides(self) -> bool:
        """Whether the operator is there; otherwise what would be seen now is lost."""
        if not any(is_within(absence, self._elapsed) for absence in self.scenario.absence):
            return True
        for played in self.played.values():
            played.watch.forget()
        return False

    def _count(self, played: _Played) -> bool:
        """Close a tick; answer whether what arrived cannot wait."""
        watch = played.watch
        return self.policy.is_surge(played.key, watch.end_tick(), watch.tick_seconds)

    @property
    def _elapsed(self) -> float:
        """Seconds since the traffic began; before that negative."""
        return self.kernel.now - self._began if self._began is not None else -1.0

    def _decide(self) -> None:
        services = {key: self._observe(played) for key, played in self.played.items()}
        snapshot = Snapshot(
            now=self.kernel.now,
            services=tuple(services.values()),
            pools=tuple(make_pool(pool, self.fleet.gpus) for pool in self.scenario.pools),
            profiles=self.told,
            brakes=Brakes(shrink_after_seconds=self.scenario.shrink_after_seconds),
        )
        signals = {key: self._signals(self.played[key], service) for key, service in services.items()}
        for key, order in self.policy.decide(snapshot, signals).items():
            self._note(self.played[key], order)
            self.fleet.apply(key, order.steps)
            self.fleet.set_weights(order.weights)
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
            running=self._windows.observe(self.fleet.observe(played.key, clocks), self.fleet, self.kernel.now),
            load=played.watch.load(self.kernel.now),
        )

    def _signals(self, played: _Played, service: Service) -> Signals:
        return played.watch.signals(
            self.kernel.now,
            played.spec.objective,
            desired=sum(variant.desired for variant in service.running),
            ready=sum(variant.ready for variant in service.running),
            active=sum(engine.active for engine in self.fleet.engines_of(played.key)),
        )

    def _sample(self) -> None:
        """Write down how things stand."""
        if self._began is None:
            return
        for played in self.played.values():
            running = self.fleet.observe(played.key, dict.fromkeys(self._pools, 0.0))
            self.timeline.append(_make_sample(self._elapsed, played, running, self.fleet))

    def _note(self, played: _Played, order: Order) -> None:
        if not order.moved:
            return
        if self._began is not None:
            self.moves.append(Move(self._elapsed, played.spec.name, played.plan, order.plan, order.why))
        played.plan = order.plan

    def _schedule_traffic(self, played: _Played) -> None:
        """One arrival at a time in the kernel's queue: each schedules the next."""
        began, arrivals = self.kernel.now, played.spec.arrivals(self.scenario.seed)

        def schedule_next() -> None:
            if (arrival := next(arrivals, None)) is not None:
                self.kernel.at(max(began + arrival.at, self.kernel.now), functools.partial(arrive, arrival))

        def arrive(arrival: Arrival) -> None:
            played.watch.note_arrival(self.kernel.now, arrival)
            request = SimRequest(arrival.at, arrival.prompt_tokens, arrival.output_tokens)
            played.requests.append(request)
            played.door.send(request)
            schedule_next()

        schedule_next()

    def _schedule_incident(self, incident: Incident) -> None:
        begin, end = self._acts_of(incident)
        self._at(incident.at, begin)
        if incident.until is not None:
            self._at(incident.until, end)

    def _acts_of(self, incident: Incident) -> tuple[Callable[[], None], Callable[[], None]]:
        """What happens when it begins and when it ends."""
        match incident:
            case Heat():
                gpu = self._gpus_of(incident.pool)[incident.gpu]
                return lambda: self.fleet.set_clock(gpu, incident.ratio), lambda: self.fleet.set_clock(gpu, 1.0)
            case GPULoss():
                lost = [self._gpus_of(incident.pool)[incident.gpu]]
                return lambda: self.fleet.lose(lost), lambda: self.fleet.give_back(lost)
            case NodeLoss():
                size = self._pools[incident.pool].per_node
                gone = self._gpus_of(incident.pool)[incident.node * size : (incident.node + 1) * size]
                return lambda: self.fleet.lose(gone, incident.noticed_after), lambda: self.fleet.give_back(gone)
        return lambda: None, lambda: None  # absences and failing starts are looked up when they matter

    def _at(self, at: float, act: Callable[[], None]) -> None:
        self.kernel.at(self.kernel.now + at, act, priority=-1)

    def _gpus_of(self, pool: str) -> list[SimGPU]:
        return [gpu for gpu in self.fleet.gpus if gpu.pool == pool]

    def _on_reports(self, engine: SimEngine, reports: Sequence[Report]) -> None:
        self._windows.record(engine, reports)
        watch = self.played[engine.service].watch
        for report in reports:
            watch.note_report(report)

    def _make_startup(self, replica: SimReplica, attempt: int) -> Startup:
        """How long this attempt takes: the same in every play with this seed."""
        spread = self.scenario.startup_spread
        drawn = random.Random(f"start {self.scenario.seed} {replica.name} {attempt}").uniform(-spread, spread)
        pool = replica.placement.pool
        fails = any(f.pool == pool and is_within(f, self._elapsed) for f in self.scenario.failing_starts)
        return Startup(self.scenario.startup_seconds * (1 + drawn), fails)

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
            api_servers=configuration.api_servers,
            block_size=16,
        )
        settings = SimSettings(
            accelerator=configuration.accelerator,
            engines_per_gpu=configuration.engines_per_gpu,
            max_waiting=self.scenario.max_waiting,
        )
        return find_truth(self._true, arguments, settings)

    def _sum_up(self, gpu_seconds: Mapping[str, float]) -> Result:
        return Result(
            scenario=self.scenario.name,
            policy=self.policy.name,
            seconds=self.scenario.seconds,
            services=tuple(make_service_result(one.spec, one.requests, self.scenario) for one in self.played.values()),
            moves=tuple(self.moves),
            gpu_hours=sum(gpu_seconds.values()) / 3600,
            cost=sum(s / 3600 * self._pools[pool].price_per_gpu_hour for pool, s in gpu_seconds.items()),
            most_gpus=self._most_gpus,
            timeline=tuple(self.timeline),
            requests={one.spec.name: tuple(one.requests) for one in self.played.values()},
        )


def _make_sample(at: float, played: _Played, running: Sequence[RunningVariant], fleet: Fleet) -> Sample:
    serving = fleet.engines_of(played.key)
    draining = [e for e in fleet.all_engines() if e.service == played.key and e not in serving]
    return Sample(
        at=at,
        service=played.spec.name,
        arrived=len(played.requests),
        desired=sum(variant.desired for variant in running),
        ready=sum(r.phase is ReplicaPhase.READY and r.ready_engines > 0 for v in running for r in v.replicas),
        active=sum(engine.active for engine in (*serving, *draining)),
        gpus=sum(len(r.gpus) for v in running for r in v.replicas if r.phase is not ReplicaPhase.PENDING),
    )


def make_pool(spec: PoolSpec, gpus: Sequence[SimGPU]) -> Pool:
    """The pool as the planner sees it: GPUs that exist are usable, those in use by Shoal included."""
    nodes = Counter(gpu.node for gpu in gpus if gpu.pool == spec.name and not gpu.missed)
    return Pool(
        name=spec.name,
        accelerator=spec.accelerator,
        memory_bytes=spec.memory_gib * 2**30,
        reserve_bytes=2 * 2.0**30,
        claim=ClaimKind.DRA,
        price_per_gpu_hour=spec.price_per_gpu_hour,
        stock=Stock(tuple(NodeStock(node, count, count) for node, count in sorted(nodes.items()))),
        link=spec.link,
    )


def _make_gpus(pools: Sequence[PoolSpec]) -> list[SimGPU]:
    return [
        SimGPU(f"GPU-{pool.name}-{n}", f"{pool.name}-{n // pool.per_node}", pool.name)
        for pool in pools
        for n in range(pool.gpus)
    ]


def run(
    scenario: Scenario,
    told: Sequence[Profile],
    true: Sequence[Profile] | None = None,
    policy: Policy | None = None,
) -> Result:
    """Play a scenario. `true` None: the engines obey what the planner was told. `policy` None: Shoal's own."""
    return World(scenario, told, told if true is None else true, policy or ShoalPolicy()).play()
