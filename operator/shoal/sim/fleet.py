"""A simulated fleet: GPUs on nodes, variants as Deployments would run them, engines that start, serve and drain."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shoal.domain.configuration import Placement
from shoal.domain.plan import Step
from shoal.domain.service import Replica, ReplicaPhase, RunningVariant, ServiceKey
from shoal.sim.engine import Engine, Report
from shoal.sim.kernel import Kernel
from shoal.sim.steps import Speed
from shoal.sim.truth import Truth

DRAIN_LEAST_SECONDS = 5.0  # until every router has seen that a pod is going
COMPLETIONS_SECONDS = 30.0  # over which the speed of a queue is taken


@dataclass(slots=True, eq=False)
class SimGPU:
    """One GPU. `ratio` is its clock over its highest."""

    uuid: str
    node: str
    pool: str
    ratio: float = 1.0
    held: bool = False


@dataclass(slots=True, eq=False)
class SimEngine:
    """One engine in the fleet, and what the router knows of it."""

    service: ServiceKey
    engine: Engine
    truth: Truth
    ready_at: float | None = None
    weight: float = 1.0
    wakes: int = 0  # number of its present alarm: earlier ones are void
    completions: deque[float] = field(default_factory=deque)
    waited: tuple[int, int] = (0, 0)  # in the last two readings

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.ready_at is not None

    @property
    def active(self) -> int:
        """Requests it has."""
        return len(self.engine.running) + len(self.engine.waiting)

    def read_queue(self) -> None:
        """Be read, as the operator reads engines once in a planning interval."""
        self.waited = self.waited[1], len(self.engine.waiting)

    def queue_seconds(self, now: float) -> float:
        """Waiting requests over the recent rate of completions, as the operator estimates it.

        What waits in one reading only is a burst. One that has finished nothing since it serves is taken to finish one
        in as much time again.
        """
        while self.completions and self.completions[0] <= now - COMPLETIONS_SECONDS:
            self.completions.popleft()
        watched = min(now - (now if self.ready_at is None else self.ready_at), COMPLETIONS_SECONDS)
        return min(self.waited) * watched / max(len(self.completions), 1)


@dataclass(slots=True, eq=False)
class SimReplica:
    """One pod."""

    name: str
    created_at: float
    placement: Placement
    engines: list[SimEngine]
    gpus: list[SimGPU] = field(default_factory=list)
    phase: ReplicaPhase = ReplicaPhase.PENDING
    bound_at: float | None = None

    @property
    def ready_engines(self) -> int:
        """Engines that serve."""
        return sum(engine.ready for engine in self.engines)


@dataclass(slots=True, eq=False)
class SimVariant:
    """One Deployment."""

    name: str
    service: ServiceKey
    placement: Placement
    desired: int = 0
    replicas: list[SimReplica] = field(default_factory=list)


MakeEngine = Callable[[ServiceKey, Placement], SimEngine]
OnReports = Callable[[SimEngine, Sequence[Report]], None]


class Fleet:
    """Everything that runs. Tells finished work through `on_reports`."""

    def __init__(
        self,
        kernel: Kernel,
        gpus: Iterable[SimGPU],
        *,
        make_engine: MakeEngine,
        on_reports: OnReports,
        startup_seconds: float,
        drain_seconds: float,
    ) -> None:
        self.gpus = list(gpus)
        self.variants: dict[str, SimVariant] = {}
        self.gpu_seconds: dict[str, float] = defaultdict(float)  # by pool
        self._kernel = kernel
        self._make_engine = make_engine
        self._on_reports = on_reports
        self._startup_seconds = startup_seconds
        self._drain_seconds = drain_seconds
        self._names = itertools.count(1)

    def engines_of(self, service: ServiceKey) -> list[SimEngine]:
        """Engines that serve a service and take new requests."""
        return [
            engine
            for _, replica in self._replicas()
            if replica.phase is not ReplicaPhase.DRAINING
            for engine in replica.engines
            if engine.ready and engine.service == service
        ]

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
        for _, replica in self._replicas():
            for engine in replica.engines:
                engine.weight = weights.get(replica.name, engine.weight)

    def set_clock(self, gpu: SimGPU, ratio: float) -> None:
        """Run a GPU at a share of its highest clock from now on."""
        gpu.ratio = ratio
        for _, replica in self._replicas():
            if gpu in replica.gpus:
                self._set_speed(replica)

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
        for _, replica in self._replicas():
            if replica.phase is ReplicaPhase.PENDING and (gpus := self._find_gpus(replica.placement)):
                for gpu in gpus:
                    gpu.held = True
                replica.gpus, replica.phase, replica.bound_at = gpus, ReplicaPhase.STARTING, self._kernel.now
                self._set_speed(replica)
                self._start_engine(replica, 0)

    def _find_gpus(self, placement: Placement) -> list[SimGPU]:
        count = placement.configuration.gpus_per_replica
        free: dict[str, list[SimGPU]] = {}
        for gpu in self.gpus:
            if gpu.pool == placement.pool and not gpu.held:
                free.setdefault(gpu.node, []).append(gpu)
        fitting = [gpus for gpus in free.values() if len(gpus) >= count]
        return min(fitting, key=len)[:count] if fitting else []

    def _start_engine(self, replica: SimReplica, number: int) -> None:
        """Engines of one pod start one after the other."""

        def ready() -> None:
            if replica.phase is ReplicaPhase.DRAINING:
                return
            replica.engines[number].ready_at = self._kernel.now
            if number + 1 < len(replica.engines):
                self._start_engine(replica, number + 1)
            else:
                replica.phase = ReplicaPhase.READY

        self._kernel.at(self._kernel.now + self._startup_seconds, ready)

    def _drain(self, variant: SimVariant, replica: SimReplica) -> None:
        waited_in_vain = replica.phase is ReplicaPhase.PENDING
        replica.phase = ReplicaPhase.DRAINING
        if waited_in_vain:
            self._remove(variant, replica)
            return
        limit = self._kernel.now + self._drain_seconds
        self._kernel.at(self._kernel.now + DRAIN_LEAST_SECONDS, lambda: self._check_drained(variant, replica, limit))

    def _check_drained(self, variant: SimVariant, replica: SimReplica, limit: float) -> None:
        """As the preStop hook: once a second, until the engines are empty or the limit has passed."""
        for engine in replica.engines:
            self.catch_up(engine)
        if any(engine.active for engine in replica.engines) and self._kernel.now < limit:
            self._kernel.at(self._kernel.now + 1.0, lambda: self._check_drained(variant, replica, limit))
            return
        for engine in replica.engines:
            for sequence in [*engine.engine.waiting, *engine.engine.running]:
                engine.engine.abort(sequence, self._kernel.now)
            engine.wakes += 1
        self._remove(variant, replica)

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
