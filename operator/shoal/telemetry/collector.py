"""Reads everything once a tick and remembers what decisions need. All of it is lost at a restart, which is safe."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from shoal.domain.live import LiveSample
from shoal.domain.service import Load, ServiceKey, Tick
from shoal.telemetry.agents import GpuTracker
from shoal.telemetry.engines import EngineGrowth, EngineTracker, QueueState
from shoal.telemetry.envoy_stats import ClusterCounters
from shoal.telemetry.gpu import GpuReading
from shoal.telemetry.services import ServiceTracker
from shoal.telemetry.sources import EngineReading, Source, SourceError
from shoal.telemetry.targets import EngineTarget, RouterTarget, Targets
from shoal.telemetry.windows import make_sample

_log = logging.getLogger(__name__)

Answers = TypeVar("Answers")
EngineId = tuple[str, str, int]  # namespace, pod, engine
RouterId = tuple[str, str]  # namespace, pod


class Collector:
    """Follows the targets it was given last.

    `clock` is monotonic, in seconds; all answers are as of the last round. A thing that was never read is unknown:
    None, or an empty Load, never zero. `counts_per_tick`: how often routers, which are few, are asked for what arrived
    in the time of one round; each of these is a tick of arrivals.
    """

    def __init__(
        self,
        source: Source,
        *,
        tick_seconds: float = 5.0,
        counts_per_tick: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._tick_seconds = tick_seconds
        self._counts_per_tick = counts_per_tick
        self._clock = clock
        self._targets = Targets()
        self._services: dict[ServiceKey, ServiceTracker] = {}
        self._engines: dict[EngineId, EngineTracker] = {}
        self._by_service: dict[ServiceKey, list[EngineTarget]] = {}  # ready engines
        self._by_pod: dict[tuple[str, str], list[EngineTracker]] = {}
        self._routers: dict[RouterId, float] = {}  # when it answered last
        self._routers_known: dict[RouterId, float] = {}
        self._gpus = GpuTracker()
        self._callbacks: list[Callable[[], None]] = []
        self._on_count: list[Callable[[], None]] = []
        self.problem: str | None = None
        """What is wrong with the source as a whole, for a condition; None when it answers."""
        self.round_seconds = 0.0
        """How long the last round took."""

    def set_targets(self, targets: Targets) -> None:
        """Follow these from now on. What is known of those that stay is kept; the others are forgotten."""
        now = self._clock()
        self._targets = targets
        engines = {_engine_id(target) for target in targets.engines}
        self._engines = {id_: self._engines.get(id_) or EngineTracker(now) for id_ in engines}
        self._by_service, self._by_pod = defaultdict(list), defaultdict(list)
        for target in targets.engines:
            self._by_pod[target.service.namespace, target.pod].append(self._engines[_engine_id(target)])
            if target.ready:
                self._by_service[target.service].append(target)
        routers = {_router_id(target) for target in targets.routers}
        self._routers = {id_: at for id_, at in self._routers.items() if id_ in routers}
        self._routers_known = {id_: self._routers_known.get(id_, now) for id_ in routers}
        wanted = {target.service for target in targets.engines} | targets.routed
        self._services = {key: self._service(key, routed=key in targets.routed) for key in wanted}
        for service in self._services.values():
            service.forget_routers(pod for _, pod in routers)

    def on_round(self, callback: Callable[[], None]) -> None:
        """Call this after each round."""
        self._callbacks.append(callback)

    def on_count(self, callback: Callable[[], None]) -> None:
        """Call this after each count of arrivals between two rounds."""
        self._on_count.append(callback)

    async def run(self) -> None:
        """A round at each tick, and the counts between, until cancelled. Ticks that a long round ran over are skipped.

        They are apart, so that a slow engine does not make a count late.
        """
        try:
            await asyncio.gather(self._repeat(self.round, 0), *map(self._count_at, range(1, self._counts_per_tick)))
        finally:
            await self._source.close()

    async def _count_at(self, part: int) -> None:
        await self._repeat(self.count, part / self._counts_per_tick)

    async def _repeat(self, work: Callable[[], Awaitable[None]], phase: float) -> None:
        """Work at this phase of each tick, at once if it is the first of them."""
        if phase == 0:
            await self._try(work)
        while True:
            await asyncio.sleep(self._tick_seconds - (self._clock() - phase * self._tick_seconds) % self._tick_seconds)
            await self._try(work)

    async def _try(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            _log.exception("a round of telemetry failed; the next one is tried")

    async def round(self) -> None:
        """Read all targets once. Routers come first: their counts are ticks, and ticks should be of one length."""
        started, targets = self._clock(), self._targets
        routers, engines, agents = await asyncio.gather(
            self._count_routers(),
            self._read(self._source.read_engines(targets.engines)),
            self._read(self._source.read_agents(targets.agents)),
        )
        now = self._clock()
        self.problem = engines[1] or routers or agents[1]
        self._record_engine_rounds(engines[0] or {}, now)
        for agent, readings in (agents[0] or {}).items():
            self._gpus.record(agent.node, readings, now)
        self._gpus.keep_only((target.node for target in self._targets.agents), now)
        self.round_seconds = now - started
        for callback in self._callbacks:
            callback()

    async def count(self) -> None:
        """Ask the routers alone what has arrived."""
        await self._count_routers()
        for callback in self._on_count:
            callback()

    async def _count_routers(self) -> str | None:
        """Read the routers and close a tick of the services that they count for; returns what is wrong."""
        routers, problem = await self._read(self._source.read_routers(self._targets.routers))
        self._record_routers(routers or {}, self._clock())
        return problem

    @property
    def services(self) -> tuple[ServiceKey, ...]:
        """The services that are followed."""
        return tuple(sorted(self._services))

    def load_of(self, service: ServiceKey) -> Load:
        """The traffic of a service. An empty Load when nothing is known of it."""
        tracker = self._services.get(service)
        return (
            Load(tick_seconds=self._tick_seconds)
            if tracker is None
            else tracker.load(self._clock(), self._fresh_fraction(service))
        )

    def last_tick(self, service: ServiceKey) -> tuple[Tick, float] | None:
        """Arrivals of a service's last tick, and its length in seconds; None when nothing is known."""
        tracker = self._services.get(service)
        tick = None if tracker is None else tracker.last_tick()
        return None if tracker is None or tick is None else (tick, tracker.tick_seconds)

    def outcomes_of(self, service: ServiceKey) -> ClusterCounters | None:
        """What became of a service's requests at the routers in the last minute."""
        tracker = self._services.get(service)
        return None if tracker is None else tracker.outcomes()

    def silent_of(self, service: ServiceKey) -> tuple[str, ...]:
        """Pods of a service, routers included, that should answer and have not lately: the words for a condition."""
        engines = [(t.pod, self._is_engine_fresh(t)) for t in self._by_service.get(service, [])]
        routers = [(t.pod, self._is_router_fresh(t)) for t in self._router_targets(service)]
        return tuple(sorted({pod for pod, fresh in engines + routers if fresh is not True}))

    def queue_of(self, namespace: str, pod: str) -> QueueState | None:
        """The queues of a pod's engines together; the wait is the longest. None when one of them is not known."""
        queues = [engine.queue() for engine in self._by_pod.get((namespace, pod), [])]
        known = [queue for queue in queues if queue is not None]
        if not known or len(known) < len(queues):
            return None
        usages = [queue.kv_usage for queue in known if queue.kv_usage is not None]
        return QueueState(
            running=sum(queue.running for queue in known),
            waiting=sum(queue.waiting for queue in known),
            kv_usage=max(usages) if usages else None,
            queue_seconds=max(queue.queue_seconds for queue in known),
        )

    def sample_of(self, namespace: str, pods: Iterable[str]) -> LiveSample | None:
        """What the engines of these pods did lately, those that told through a whole window; None: none of them did."""
        trackers = [tracker for pod in pods for tracker in self._by_pod.get((namespace, pod), [])]
        now, lag = self._clock(), 2 * self._tick_seconds + self._source.lag_seconds
        fresh = [tracker for tracker in trackers if tracker.read_at is not None and now - tracker.read_at <= lag]
        return make_sample([window for tracker in fresh if (window := tracker.window()) is not None], now)

    def queue_seconds(self, namespace: str, pod: str) -> float | None:
        """How long a request that comes to this pod now would wait, about."""
        queue = self.queue_of(namespace, pod)
        return None if queue is None else queue.queue_seconds

    def gpus_of(self, node: str) -> tuple[GpuReading, ...]:
        """GPUs of a node, by index. Empty: not known."""
        return self._gpus.gpus_of(node, self._clock())

    def _service(self, key: ServiceKey, *, routed: bool) -> ServiceTracker:
        known = self._services.get(key)
        if known is not None and known.routed == routed:
            return known
        parts = self._counts_per_tick if routed else 1
        return ServiceTracker(routed=routed, tick_seconds=self._tick_seconds / parts, ticks_per_interval=parts)

    async def _read(self, answers: Awaitable[Answers]) -> tuple[Answers | None, str | None]:
        try:
            return await answers, None
        except SourceError as error:
            if self.problem != str(error):
                _log.warning("%s", error)
            return None, str(error)

    def _record_engine_rounds(self, engines: Mapping[EngineTarget, EngineReading], now: float) -> None:
        """Sort the engines' answers by service. Targets that went away while they were being read are left out."""
        grown = self._record_engines(engines, now)
        for key, service in self._services.items():
            growths = service.record_engines(grown.get(key, {}))
            if not service.routed:
                service.record_arrivals(now, growths, self._expected(key, routed=False))

    def _record_routers(self, routers: Mapping[RouterTarget, Mapping[str, ClusterCounters]], now: float) -> None:
        """Sort the routers' answers by service."""
        counted: dict[ServiceKey, dict[str, ClusterCounters]] = defaultdict(dict)
        for router, clusters in routers.items():
            if _router_id(router) in self._routers_known:
                self._routers[_router_id(router)] = now
                for cluster, counters in clusters.items():
                    counted[ServiceKey(router.namespace, cluster)][router.pod] = counters
        for key, service in self._services.items():
            growths = service.record_routers(counted.get(key, {}), now)
            if service.routed:
                service.record_arrivals(now, growths, self._expected(key, routed=True))

    def _record_engines(
        self, engines: Mapping[EngineTarget, EngineReading], now: float
    ) -> dict[ServiceKey, dict[str, EngineGrowth]]:
        grown: dict[ServiceKey, dict[str, EngineGrowth]] = defaultdict(dict)
        for target, reading in engines.items():
            tracker = self._engines.get(_engine_id(target))
            growth = tracker.record(reading, now) if tracker is not None else None
            if growth is not None:
                grown[target.service][_engine_name(target)] = growth
        return grown

    def _expected(self, service: ServiceKey, *, routed: bool) -> set[str]:
        """Who has to count for a tick of this service to be complete."""
        if routed:
            return {target.pod for target in self._router_targets(service)}
        return {_engine_name(target) for target in self._by_service.get(service, [])}

    def _router_targets(self, service: ServiceKey) -> list[RouterTarget]:
        if service not in self._targets.routed:
            return []
        return [target for target in self._targets.routers if target.ready and target.namespace == service.namespace]

    def _fresh_fraction(self, service: ServiceKey) -> float:
        """Share of the engines, or of the routers if that is less, that were read within the last two ticks."""
        fractions = []
        for answers in (
            [self._is_engine_fresh(target) for target in self._by_service.get(service, [])],
            [self._is_router_fresh(target) for target in self._router_targets(service)],
        ):
            known = [fresh for fresh in answers if fresh is not None]
            if known:
                fractions.append(sum(known) / len(known))
        return min(fractions, default=0.0)

    def _is_engine_fresh(self, target: EngineTarget) -> bool | None:
        tracker = self._engines[_engine_id(target)]
        return self._is_fresh(tracker.read_at, tracker.known_since)

    def _is_router_fresh(self, target: RouterTarget) -> bool | None:
        id_ = _router_id(target)
        return self._is_fresh(self._routers.get(id_), self._routers_known[id_])

    def _is_fresh(self, read_at: float | None, known_since: float) -> bool | None:
        """None: too new to be judged, so that a pod which has just become ready does not look like an outage."""
        allowed = 2 * self._tick_seconds + self._source.lag_seconds
        now = self._clock()
        if read_at is None:
            return None if now - known_since <= allowed else False
        return now - read_at <= allowed


def _engine_id(target: EngineTarget) -> EngineId:
    return target.service.namespace, target.pod, target.engine


def _engine_name(target: EngineTarget) -> str:
    return f"{target.pod}/{target.engine}"


def _router_id(target: RouterTarget) -> RouterId:
    return target.namespace, target.pod
