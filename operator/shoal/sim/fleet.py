"""A simulated fleet: variants as Deployments would run them; engines that start, serve, drain, fail."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shoal.domain.configuration import Placement
from shoal.domain.plan import Step
from shoal.domain.service import Replica, ReplicaPhase, RunningVariant, ServiceKey
from shoal.sim.engine import Report
from shoal.sim.fleet_parts import SimEngine, SimGPU, SimReplica, SimVariant
from shoal.sim.kernel import Kernel
from shoal.sim.steps import Speed

DRAIN_LEAST_SECONDS = 5.0  # until every router has seen that a pod is going
BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS = 10.0, 300.0  # of a container that ended: doubled each time


@dataclass(frozen=True, slots=True)
class Startup:
    """One attempt to start an engine."""

    seconds: float
    fails: bool = False


MakeEngine = Callable[[ServiceKey, Placement], SimEngine]
MakeStartup = Callable[[SimReplica, int], Startup]  # replica, number of the attempt
OnReports = Callable[[SimEngine, Sequence[Report]], None]


class Fleet:
    """Everything that runs. Tells finished work through `on_reports`."""

    def __init__(
        self,
        kernel: Kernel,
        gpus: Iterable[SimGPU],
        *,
        make_engine: MakeEngine,
        make_startup: MakeStartup,
        on_reports: OnReports,
        drain_seconds: float,
    ) -> None:
        self.gpus = list(gpus)
        self.variants: dict[str, SimVariant] = {}
        self.gpu_seconds: dict[str, float] = defaultdict(float)  # by pool
        self._kernel = kernel
        self._make_engine = make_engine
        self._make_startup = make_startup
        self._on_reports = on_reports
        self._drain_seconds = drain_seconds
        self._names = itertools.count(1)
        self._serving: dict[ServiceKey, list[SimEngine]] = {}

    def engines_of(self, service: ServiceKey) -> list[SimEngine]:
        """Engines that serve a service and take new requests: the same list until they or their weights change."""
        if service not in self._serving:
            self._serving[service] = [
                engine
                for variant, replica in self._replicas()
                if variant.service == service and replica.phase is not ReplicaPhase.DRAINING
                for engine in replica.engines
                if engine.ready
            ]
        return self._serving[service]

    def all_engines(self) -> list[SimEngine]:
        """Every engine there is."""
        return [engine for _, replica in self._replicas() for engine in replica.engines]

    def apply(self, service: ServiceKey, steps: Iterable[Step]) -> None:
        """What the reconciler does with a decision's steps."""
        for step in steps:
            variant = self.variants.get(step.variant or "") or self._make_variant(service, step.placement)
            variant.desired = step.replicas
            self._scale(variant, step.doomed)
        self._forget_empty()

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Routing weights by name of replica; the same for each of its engines."""
        for variant, replica in self._replicas():
            weight = weights.get(replica.name)
            for engine in replica.engines:
                if weight is not None and engine.weight != weight:
                    engine.weight = weight
                    self._serving.pop(variant.service, None)

    def set_clock(self, gpu: SimGPU, ratio: float) -> None:
        """Run a GPU at a share of its highest clock from now on."""
        gpu.ratio = ratio
        for _, replica in self._replicas():
            if gpu in replica.gpus and not replica.dead:
                self._set_speed(replica)

    def lose(self, gpus: Sequence[SimGPU], noticed_after: float = 0.0) -> None:
        """Take GPUs away: engines on them end at once. Their replicas are replaced when somebody notices."""
        for gpu in gpus:
            gpu.lost = True
        hit = [(v, r) for v, r in self._replicas() if not r.dead and any(gpu.lost for gpu in r.gpus)]
        for variant, replica in hit:
            replica.dead = True
            for engine in replica.engines:
                self._kill(engine)
            self._serving.pop(variant.service, None)
        self._kernel.at(self._kernel.now + noticed_after, lambda: self._notice(gpus, hit))

    def give_back(self, gpus: Sequence[SimGPU]) -> None:
        """Let lost GPUs return."""
        for gpu in gpus:
            gpu.lost = gpu.missed = False
        self._bind_pending()

    def catch_up(self, engine: SimEngine) -> None:
        """Bring an engine to the present and tell what it did."""
        if reports := engine.engine.advance(self._kernel.now):
            engine.completions.extend(report.at for report in reports for _ in report.ended)
            self._on_reports(engine, reports)

    def arm(self, engine: SimEngine) -> None:
        """Wake an engine when its present stride ends."""
        engine.wakes += 1
        if (wake_at := engine.engine.wake_at) is not None:
            number = engine.wakes
            self._kernel.at(max(wake_at, self._kernel.now), lambda: self._wake(engine, number))

    def observe(self, service: ServiceKey, max_clock_mhz: Mapping[str, float]) -> tuple[RunningVariant, ...]:
        """What the operator would see of a service's pods."""
        return tuple(
            RunningVariant(
                variant.name,
                variant.placement,
                variant.desired,
                tuple(self._observe_replica(replica, max_clock_mhz) for replica in variant.replicas),
            )
            for variant in self.variants.values()
            if variant.service == service
        )

    def read_queues(self) -> None:
        """Read every engine that serves."""
        for _, replica in self._replicas():
            for engine in replica.engines:
                if engine.ready:
                    engine.read_queue()

    def gpu_seconds_now(self) -> Mapping[str, float]:
        """GPU time by pool, of what still runs too."""
        for _, replica in self._replicas():
            self._count(replica)
        return dict(self.gpu_seconds)

    @property
    def is_settled(self) -> bool:
        """Whether every replica that shall run serves."""
        return all(
            sum(replica.phase is ReplicaPhase.READY for replica in variant.replicas) == variant.desired
            for variant in self.variants.values()
        )

    def _replicas(self) -> Iterator[tuple[SimVariant, SimReplica]]:
        for variant in self.variants.values():
            for replica in variant.replicas:
                yield variant, replica

    def _make_variant(self, service: ServiceKey, placement: Placement) -> SimVariant:
        variant = SimVariant(f"{service.name}-{next(self._names)}", service, placement)
        self.variants[variant.name] = variant
        return variant

    def _scale(self, variant: SimVariant, doomed: Sequence[str]) -> None:
        alive = [replica for replica in variant.replicas if replica.phase is not ReplicaPhase.DRAINING]
        order = {name: place for place, name in enumerate(doomed)}
        alive.sort(key=lambda r: (order.get(r.name, len(order)), -r.created_at, r.name))
        for replica in alive[: max(0, len(alive) - variant.desired)]:
            self._drain(variant, replica)
        for _ in range(variant.desired - len(alive)):
            engines = [
                self._make_engine(variant.service, variant.placement)
                for _ in range(variant.placement.configuration.engines_per_replica)
            ]
            name = f"{variant.name}-{next(self._names)}"
            variant.replicas.append(SimReplica(name, self._kernel.now, variant.placement, engines))
        self._bind_pending()

    def _bind_pending(self) -> None:
        """Give free GPUs of one node to replicas that wait, the oldest first."""
        for variant, replica in self._replicas():
            if replica.phase is ReplicaPhase.PENDING and (gpus := self._find_gpus(replica.placement)):
                for gpu in gpus:
                    gpu.held = True
                replica.gpus, replica.phase, replica.bound_at = gpus, ReplicaPhase.STARTING, self._kernel.now
                self._set_speed(replica)
                self._start_engine(variant, replica, 0, 0)

    def _find_gpus(self, placement: Placement) -> list[SimGPU]:
        count = placement.configuration.gpus_per_replica
        free: dict[str, list[SimGPU]] = {}
        for gpu in self.gpus:
            if gpu.pool == placement.pool and not gpu.held and not gpu.lost:
                free.setdefault(gpu.node, []).append(gpu)
        fitting = [gpus for gpus in free.values() if len(gpus) >= count]
        return min(fitting, key=len)[:count] if fitting else []

    def _start_engine(self, variant: SimVariant, replica: SimReplica, number: int, attempt: int) -> None:
        """Engines of one pod start one after the other; one that fails starts again after a pause."""
        if replica.phase is not ReplicaPhase.STARTING or replica.dead:
            return
        startup = self._make_startup(replica, attempt)
        pause = min(BACK_OFF_SECONDS * 2**attempt, LONGEST_BACK_OFF_SECONDS) if startup.fails else 0.0

        def end() -> None:
            if startup.fails:
                self._start_engine(variant, replica, number, attempt + 1)
            elif replica.phase is ReplicaPhase.STARTING and not replica.dead:
                replica.engines[number].ready_at = self._kernel.now
                self._serving.pop(variant.service, None)
                if number + 1 < len(replica.engines):
                    self._start_engine(variant, replica, number + 1, 0)
                else:
                    replica.phase = ReplicaPhase.READY

        self._kernel.at(self._kernel.now + startup.seconds + pause, end)

    def _drain(self, variant: SimVariant, replica: SimReplica) -> None:
        waited_in_vain = replica.phase is ReplicaPhase.PENDING
        replica.phase = ReplicaPhase.DRAINING
        self._serving.pop(variant.service, None)
        if waited_in_vain:
            self._remove(variant, replica)
            return
        limit = self._kernel.now + self._drain_seconds
        self._kernel.at(self._kernel.now + DRAIN_LEAST_SECONDS, lambda: self._check_drained(variant, replica, limit))

    def _check_drained(self, variant: SimVariant, replica: SimReplica, limit: float) -> None:
        """As the preStop hook: once a second, until the engines are empty or the limit has passed."""
        for engine in replica.engines:
            if not engine.dead:
                self.catch_up(engine)
        if any(engine.active for engine in replica.engines) and self._kernel.now < limit:
            self._kernel.at(self._kernel.now + 1.0, lambda: self._check_drained(variant, replica, limit))
            return
        for engine in replica.engines:
            self._kill(engine)
        self._remove(variant, replica)

    def _kill(self, engine: SimEngine) -> None:
        """End an engine: what it has not answered is lost."""
        if engine.dead:
            return
        self.catch_up(engine)
        for sequence in (*engine.engine.waiting, *engine.engine.running):
            sequence.aborted = True
        engine.wakes += 1
        engine.dead = True

    def _notice(self, gpus: Sequence[SimGPU], hit: Iterable[tuple[SimVariant, SimReplica]]) -> None:
        for gpu in gpus:
            gpu.missed = gpu.lost
        for variant, replica in hit:
            if replica.phase is not ReplicaPhase.DRAINING:  # a draining one goes of itself
                self._remove(variant, replica)
                self._scale(variant, ())

    def _remove(self, variant: SimVariant, replica: SimReplica) -> None:
        self._count(replica)
        for gpu in replica.gpus:
            gpu.held = False
        variant.replicas.remove(replica)
        self._forget_empty()
        self._bind_pending()

    def _count(self, replica: SimReplica) -> None:
        if replica.bound_at is not None:
            self.gpu_seconds[replica.placement.pool] += (self._kernel.now - replica.bound_at) * len(replica.gpus)
            replica.bound_at = self._kernel.now

    def _forget_empty(self) -> None:
        for name in [v.name for v in self.variants.values() if not v.desired and not v.replicas]:
            del self.variants[name]

    def _set_speed(self, replica: SimReplica) -> None:
        slowest = min(gpu.ratio for gpu in replica.gpus)
        for engine in replica.engines:
            self.catch_up(engine)
            engine.engine.set_speed(Speed(clock_ratio=1 / slowest), self._kernel.now)
            self.arm(engine)

    def _wake(self, engine: SimEngine, number: int) -> None:
        if number == engine.wakes:
            self.catch_up(engine)
            self.arm(engine)

    def _observe_replica(self, replica: SimReplica, max_clock_mhz: Mapping[str, float]) -> Replica:
        slowest = min(replica.gpus, key=lambda gpu: gpu.ratio, default=None)
        ready = [engine for engine in replica.engines if engine.ready]
        return Replica(
            name=replica.name,
            phase=replica.phase,
            created_at=replica.created_at,
            node=replica.gpus[0].node if replica.gpus else None,
            gpus=tuple(gpu.uuid for gpu in replica.gpus),
            clock_mhz=slowest.ratio * max_clock_mhz[slowest.pool] if slowest else None,
            queue_seconds=max((engine.queue_seconds(self._kernel.now) for engine in ready), default=None),
            ready_engines=len(ready),
        )
