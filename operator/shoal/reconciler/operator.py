"""Puts the parts together and runs them: what every replica does, and what the leader does beside it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from typing import Any, Final

from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock
from prometheus_client import CollectorRegistry

from shoal.api.measurement import Progress
from shoal.domain.plan import Decision
from shoal.domain.service import Memory, Service, ServiceKey
from shoal.domain.snapshot import Brakes
from shoal.planner.decide import decide
from shoal.planner.groups import partition
from shoal.planner.remember import remember
from shoal.reconciler.apply import Writer
from shoal.reconciler.clock import make_clock, steady
from shoal.reconciler.cluster import Cluster, load_configuration
from shoal.reconciler.dirt import Dirt
from shoal.reconciler.errors import ClusterError
from shoal.reconciler.health import find_illness, find_unreadiness
from shoal.reconciler.items import Item, Kind
from shoal.reconciler.keeper import Keeper
from shoal.reconciler.keys import Key, is_of_kind, is_replica_changed, is_wish_changed, run_of, service_of
from shoal.reconciler.kinds import CUSTOM, MODEL_PROFILE, MODEL_SERVICE, POD, PROFILE_RUN
from shoal.reconciler.leader import Elector, Guard
from shoal.reconciler.lessons import Lessons
from shoal.reconciler.library import Library
from shoal.reconciler.metrics import OwnMetrics, ResidualMetrics, make_numbers
from shoal.reconciler.observe import Observer
from shoal.reconciler.parts import cancel, keep_running, run_until
from shoal.reconciler.planloop import PlanLoop, Planned
from shoal.reconciler.profile_runs import ProfileRuns
from shoal.reconciler.reconcile import Reconciler
from shoal.reconciler.resync import Resync
from shoal.reconciler.routes import Routes
from shoal.reconciler.schemas import find_old_schemas
from shoal.reconciler.settings import Settings
from shoal.reconciler.snapshots import SnapshotPage
from shoal.reconciler.startups import Startups
from shoal.reconciler.store import Change, Store
from shoal.reconciler.surges import find_surges
from shoal.reconciler.targets import make_targets
from shoal.reconciler.watch import Watcher
from shoal.reconciler.workqueue import WorkQueue
from shoal.render.derating import read_deratings
from shoal.render.measurement import ProfilerSettings
from shoal.render.names import OPERATOR, SNAPSHOT_PATH
from shoal.render.router import RouterSettings
from shoal.routing.ads import AdsServer
from shoal.routing.metrics import AdsMetrics
from shoal.telemetry.collector import Collector
from shoal.telemetry.direct import DirectSource
from shoal.telemetry.own import start_server
from shoal.telemetry.sources import Source
from shoal.telemetry.targets import ProfilerTarget
from shoal.telemetry.traffic_metrics import TrafficMetrics

logger = logging.getLogger(__name__)

LEASE_NAME: Final = OPERATOR
_TARGETS_SECONDS: Final = 0.5
# Planning follows each round of measurements at once. Planning intervals after which it no longer waits for one.
_LATEST_ROUND: Final = 1.2
# How often arrivals are counted in a planning interval, so that a step is answered within two of them.
_COUNTS: Final = 2
_CREDENTIALS_SECONDS: Final = 60.0


class Operator:
    """One operator process."""

    def __init__(self, settings: Settings, cluster: Cluster, guard: Guard) -> None:
        self.settings, self.cluster, self.guard = settings, cluster, guard
        self.now = make_clock()
        self.store = Store(self.now, self._is_wanted)
        self.library = Library(self.store)
        self.queue: WorkQueue[Key] = WorkQueue()
        self.resync = Resync(cluster, self.store, interval=settings.resync_interval)
        self.watcher = Watcher(self._deliver)
        self.source = _make_source(settings)
        self.collector = Collector(
            self.source, tick_seconds=settings.planning_interval, counts_per_tick=_COUNTS, clock=steady
        )
        self.startups = Startups()
        self.lessons = Lessons(self.library)
        self.ads = AdsServer(f"{_bracket(settings.bind_address)}:{settings.xds_port}")
        self.routes = Routes(self.store, self.ads)
        lock = LeaseLock(LEASE_NAME, settings.namespace, settings.identity, cluster.api_client)
        self.elector = Elector(lock, guard)
        self.observer = Observer(
            store=self.store,
            library=self.library,
            telemetry=self.collector,
            foreign=self.resync,
            startups=self.startups,
            lessons=self.lessons,
            operator_namespace=settings.namespace,
            brakes=Brakes(
                settings.paused,
                settings.max_concurrent_moves,
                settings.shrink_after,
                settings.max_capacity_loss_percent / 100,
            ),
            energy_price_per_kwh=settings.energy_price_per_kwh,
            now=self.now,
        )
        self.plans = PlanLoop(
            observe=self.observer.observe,
            partition=partition,
            decide=decide,
            remember=self._remember,
            on_change=self.queue.add,
            told_of=self._told_of,
            interval=_LATEST_ROUND * settings.planning_interval,
        )
        writer = Writer(cluster, self.store)
        self.profilers = DirectSource()
        self.reconciler = Reconciler(
            writer=writer,
            store=self.store,
            library=self.library,
            observer=self.observer,
            telemetry=self.collector,
            keeper=Keeper(writer, self.store, self.lessons),
            plan_of=self._plan_of,
            later=self.queue.add_after,
            router=_make_router_settings(settings),
            runs=ProfileRuns(
                writer=writer,
                store=self.store,
                library=self.library,
                observer=self.observer,
                plans=lambda: self.plans.plans,
                read_progress=self._read_progress,
                later=self.queue.add_after,
                settings=_make_profiler_settings(settings),
                operator_namespace=settings.namespace,
                paused=settings.paused,
                now=self.now,
            ),
            now=self.now,
        )
        self.dirt = Dirt(self.store, self.plans, self.queue, self.elector.acquired.is_set)
        self.snapshots = SnapshotPage(
            cluster,
            settings.namespace,
            answer_about=self.plans.answer_about,
            is_leader=self.elector.acquired.is_set,
        )
        self._targets_dirty = True
        self._schemas_fit = asyncio.Event()
        self._started_at = steady()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. Raises what ends a part that must not end."""
        self._listen()
        await self.ads.start()
        server = await start_server(
            self.settings.bind_address,
            health_port=self.settings.health_port,
            metrics_port=self.settings.metrics_port,
            is_alive=self._illness,
            is_ready=self._unreadiness,
            registry=self._make_registry(),
            pages={f"/{SNAPSHOT_PATH}": self.snapshots.handle},
        )
        parts = [
            keep_running(self.resync.run),
            keep_running(self._watch),
            keep_running(self._route),
            keep_running(self.collector.run),
            keep_running(self._follow_targets),
            keep_running(self._compare_schemas),
            keep_running(self._renew_credentials),
            keep_running(self._lead),
            self.elector.run(),
        ]
        try:
            await run_until(stop, parts)
        finally:
            await self.ads.stop()
            await server.stop()
            await self.source.close()
            await self.profilers.close()
            await self.cluster.close()

    # -- every replica ---------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self.store.listen(self.startups.note)
        self.store.listen(self.dirt.note)
        self.store.listen(self._note_targets)
        self.store.listen(self._forget_gone)
        self.collector.on_round(self.plans.mark_all)
        self.collector.on_count(self._mark_surges)
        self.resync.on_places = self.watcher.restart

    def _forget_gone(self, change: Change) -> None:
        """Drop what the parts remember of an object that is gone."""
        if change.new is not None or not is_of_kind(change, *CUSTOM):
            return
        self.library.forget(change.item.uid)
        if is_of_kind(change, MODEL_PROFILE) and change.item.owner is not None:
            self.lessons.forget(change.item.owner)
        run = run_of(change) if is_of_kind(change, PROFILE_RUN) else None
        if run is not None:
            self.queue.forget(run)
        key = service_of(change) if is_of_kind(change, MODEL_SERVICE) else None
        if key is not None:
            self.reconciler.forget(change.item)
            self.startups.forget(key)
            self.lessons.forget(change.item.uid)
            self.queue.forget(key)

    def _deliver(self, kind: Kind[Any], event: str | None, item: Item[Any]) -> None:
        if event == "DELETED":
            self.store.remove(kind, item.uid)
        else:
            self.store.put(kind, item)

    def _is_wanted(self, kind: Kind[Any], item: Item[Any]) -> bool:
        """Whether an object concerns this operator: with watched namespaces, services and runs elsewhere do not.

        All else is kept: claims and pods of everybody count as stock, profiles come from the operator's namespace, and
        runs there write them.
        """
        wanted = self.settings.watch_namespaces
        if not wanted or kind not in (MODEL_SERVICE, PROFILE_RUN) or item.namespace in wanted:
            return True
        return kind is PROFILE_RUN and item.namespace == self.settings.namespace

    async def _watch(self) -> None:
        await self.resync.discovered.wait()
        await self.watcher.run(lambda: self.resync.places)

    async def _route(self) -> None:
        await self.resync.listed.wait()
        self.routes.complete()
        await self.routes.run()

    def _mark_surges(self) -> None:
        for key in find_surges(self.plans.plans, self.collector):
            self.plans.mark(key)

    def _note_targets(self, change: Change) -> None:
        is_pod = is_of_kind(change, POD) and is_replica_changed(change)
        if is_pod or (is_of_kind(change, MODEL_SERVICE) and is_wish_changed(change)):
            self._targets_dirty = True

    async def _follow_targets(self) -> None:
        while True:
            if self._targets_dirty:
                self._targets_dirty = False
                self.collector.set_targets(make_targets(self.store, self.settings.namespace))
            await asyncio.sleep(_TARGETS_SECONDS)

    async def _renew_credentials(self) -> None:
        """Follow rotated tokens before the old one ends: the lease must not wait for somebody else's 401."""
        while True:
            await asyncio.sleep(_CREDENTIALS_SECONDS)
            await self.cluster.renew_credentials()

    async def _compare_schemas(self) -> None:
        """Keep the obstacle of the guard as it is true. Before the first answer nothing is written."""
        while True:
            try:
                obstacle = await find_old_schemas(self.cluster)
            except ClusterError as error:
                obstacle, pause = self.guard.obstacle, 2.0
                logger.warning("the served CRDs are not known: %s", error)
            else:
                pause = self.settings.resync_interval
            if obstacle != self.guard.obstacle and obstacle is not None:
                logger.error("%s", obstacle)
            self.guard.obstacle = obstacle
            if obstacle is None:
                self._schemas_fit.set()
            await asyncio.sleep(pause)

    # -- the leader ------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Plan and write while the lease is held; start anew with what the statuses say each time it is won."""
        while True:
            await self.elector.acquired.wait()
            await self.resync.listed.wait()
            await self._schemas_fit.wait()
            self.plans.reset()
            self.lessons.reset()
            self.dirt.mark_everything()
            tasks = [asyncio.create_task(self.plans.run(), name="plans")]
            for number in range(self.settings.workers):
                tasks.append(asyncio.create_task(self.queue.work(self.reconciler.handle), name=f"worker-{number}"))
            lost = asyncio.create_task(self.elector.lost.wait(), name="lost")
            try:
                await asyncio.wait([*tasks, lost], return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                await cancel([*tasks, lost])

    def _told_of(self, key: ServiceKey) -> Mapping[str, float]:
        item = self.store.get(MODEL_SERVICE, key.namespace, key.name)
        return read_deratings((item.body.raw.get("status") or {}) if item else {})

    def _remember(self, service: Service, decision: Decision, at: float) -> Memory:
        """What the next decision shall know of this one."""
        self.lessons.learn(service, decision, at)
        return remember(service, decision, at)

    async def _read_progress(self, address: str) -> Progress | None:
        target = ProfilerTarget(address)
        return (await self.profilers.read_profilers((target,))).get(target)

    def _plan_of(self, key: ServiceKey) -> Planned | None:
        return self.plans.plans.get(key)

    # -- what is told of ourselves -----------------------------------------------------------------------------------

    def _illness(self) -> Mapping[str, str]:
        return find_illness(
            queue=self.queue,
            listed_at=self.resync.listed_at,
            interval=self.settings.resync_interval,
            started_at=self._started_at,
            leading=self.elector.acquired.is_set(),
        )

    def _unreadiness(self) -> Mapping[str, str]:
        return find_unreadiness(listed=self.resync.listed.is_set())

    def _make_registry(self) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        numbers = make_numbers(
            guard=self.guard,
            queue=self.queue,
            plans=self.plans,
            cluster=self.cluster,
            watcher=self.watcher,
            resync=self.resync,
            store=self.store,
        )
        registry.register(OwnMetrics(numbers))
        registry.register(TrafficMetrics(self.collector))
        registry.register(ResidualMetrics(self.plans))
        registry.register(AdsMetrics(self.ads))
        return registry


async def run_operator(settings: Settings) -> None:
    """Run one operator until SIGTERM or SIGINT; the lease is given back then."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    guard = Guard()
    guard.obstacle = "the served CRDs are not known yet"
    cluster = Cluster(await load_configuration(), guard)
    logger.info("starting as %s in namespace %s", settings.identity, settings.namespace)
    await Operator(settings, cluster, guard).run(stop)
    logger.info("stopped")


def _make_source(settings: Settings) -> Source:
    if settings.prometheus_url is None:
        return DirectSource()
    from shoal.telemetry.prometheus import PrometheusSource  # noqa: PLC0415 - its client costs 40 MB

    return PrometheusSource(settings.prometheus_url)


def _make_router_settings(settings: Settings) -> RouterSettings | None:
    if settings.router_image is None:
        logger.warning("SHOAL_ROUTER_IMAGE is not set: no routers are made")
        return None
    return RouterSettings(image=settings.router_image, xds_address=settings.xds_address)


def _make_profiler_settings(settings: Settings) -> ProfilerSettings | None:
    if settings.profiler_image is None:
        logger.warning("SHOAL_PROFILER_IMAGE is not set: ProfileRuns are not measured")
        return None
    return ProfilerSettings(
        settings.profiler_image,
        most_lag_ms=settings.profiler_most_lag_ms,
        shortest_seconds=settings.profiler_shortest_seconds,
    )


def _bracket(address: str) -> str:
    return f"[{address}]" if ":" in address else address
