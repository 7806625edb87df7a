"""Plays the timeline: traffic, a crash, heat, a full pool; shows frames; sums up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from e2e.demo import stage
from e2e.demo.screen import Frame, LiveTraffic, make_frame
from e2e.demo.summary import Observations, Request, Summary, make_summary
from e2e.demo.timeline import Stream, Timeline
from e2e.demo.watcher import Watcher, gpus_of, pool_of
from e2e.devcluster import DevCluster, NodeConfig
from shoal.sim.load import LoadGenerator
from shoal.sim.load_report import Outcome
from shoal.sim.traffic import Traffic

STAMP = "simulated engines; real API server, scheduler, Envoy"
# A decision that comes some seconds after a step has seen few arrivals. Where the rate lies within two standard errors
# of what a replica more or less carries, chance alone makes a second move, or none; these rates lie further off.
CHAT = Stream("chat", "chat", 6.0, 24.0, input_mean=1000, output_mean=40, ttft_ms=1500, itl_ms=80, seed=11)
DOCS = Stream("docs", "docs", 15.8, 15.8, input_mean=1000, output_mean=40, ttft_ms=1500, itl_ms=80, seed=31)
SEARCH = Stream("search", "search", 1.1, 4.4, input_mean=2000, output_mean=100, ttft_ms=2000, itl_ms=100, seed=12)
HELLO = Stream("hello", "hello", 0.5, 0.5, input_mean=100, output_mean=40, ttft_ms=2000, itl_ms=60, seed=13)
STREAMS = (CHAT, DOCS, SEARCH, HELLO)
NODES = (
    NodeConfig("gpu-a", "NVIDIA-H100-80GB-HBM3", gpus=8, claim="dra"),
    NodeConfig("gpu-b", "NVIDIA-L40S", gpus=4, memory="48Gi", claim="extended"),
    NodeConfig("cpu-a"),
)
LONGEST_REQUEST_SECONDS = 120.0


class Play:
    """One performance on one cluster."""

    def __init__(self, cluster: DevCluster, console: Console, timeline: Timeline | None = None) -> None:
        self.cluster = cluster
        self.console = console
        self.timeline = timeline or Timeline()
        self.seen = Observations()
        self.act = "setting the stage"
        self.generators: dict[str, LoadGenerator] = {}

    async def __aenter__(self) -> Self:
        self.client = self.cluster.client()
        self.watcher = Watcher(self.client, self.seen)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    async def run(self) -> tuple[Summary, str]:
        """Play from beginning to end; return the summary and the router's address."""
        address = await self._set_stage()
        with Live(console=self.console, refresh_per_second=2, transient=False) as live:
            watching = asyncio.create_task(self._watch(live))
            try:
                await self._perform(address)
            finally:
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
        await self.watcher.read()
        return self._sum_up(), address

    async def _set_stage(self) -> str:
        with self.console.status("starting") as status:
            say = status.update
            await asyncio.to_thread(stage.install, self.cluster, say)
            for name in ("first-day", "services"):
                await asyncio.to_thread(stage.apply, self.cluster, name)
            await stage.until_ready(self.watcher, {stream.service for stream in STREAMS}, say)
            self.seen.stock = await asyncio.to_thread(stage.stock, self.cluster)
            return await asyncio.to_thread(stage.router_address, self.cluster)

    async def _perform(self, address: str) -> None:
        for stream in STREAMS:
            traffic = Traffic(
                tuple(self.timeline.schedule(stream)), stream.input_mean, stream.output_mean, stream.seed, 8000
            )
            self.generators[stream.service] = LoadGenerator(
                url=f"{address}/{stream.service}/v1",
                model=stream.model,
                traffic=traffic,
                timeout_seconds=LONGEST_REQUEST_SECONDS,
            )
        self.watcher.zero()
        self._announce("steady traffic")
        async with asyncio.TaskGroup() as tasks:
            for generator in self.generators.values():
                tasks.create_task(generator.run())
            tasks.create_task(self._direct())

    async def _direct(self) -> None:
        acts: tuple[tuple[float, str, Callable[[], Awaitable[None]] | None], ...] = (
            (self.timeline.step_up, "the rate steps up 4x", None),
            (self.timeline.crash, "the leading operator is killed", self._crash),
            (self.timeline.heat, f"one GPU drops to {self.timeline.heat_ratio:.0%} of its clock", self._heat),
            (self.timeline.step_down, "the rate steps down 4x", None),
            (self.timeline.full_pool, "a service asks for more than its pool has left", self._fill_pool),
        )
        for at, words, happen in acts:
            await asyncio.sleep(max(0.0, at - self.watcher.elapsed))
            self._announce(words)
            if happen is not None:
                await happen()

    def _announce(self, act: str) -> None:
        """Name the act in the live table; where there is no terminal to redraw, print a line."""
        self.act = act
        if not self.console.is_terminal:
            self.console.print(f"{self.watcher.elapsed:5.0f} s of {self.timeline.end:.0f} s  {act}")

    async def _crash(self) -> None:
        await asyncio.to_thread(stage.crash_leader, self.cluster)

    async def _heat(self) -> None:
        ratio = self.timeline.heat_ratio
        gpu = await asyncio.to_thread(stage.heat_one_gpu, self.cluster, self.watcher, DOCS.service, ratio)
        self._hot, self._hot_since = gpu[1], self.watcher.elapsed
        self.seen.weight_before_heat = self._derating(gpu[1])

    async def _fill_pool(self) -> None:
        await asyncio.to_thread(stage.apply, self.cluster, "full-pool")

    def _derating(self, uuid: str) -> float | None:
        """Capacity the operator says a GPU has left: the router's weights are made from it."""
        gpus = self.watcher.view.services.get(DOCS.service, {}).get("status", {}).get("gpus", ())
        return next((gpu.get("derating") for gpu in gpus if gpu.get("uuid") == uuid), None)

    async def _watch(self, live: Live) -> None:
        while True:
            await self.watcher.read()
            self._note_heat()
            message = stage.ready_message(self.watcher.view.services, "batch")
            if "ml/train-" in message or not self.seen.full_pool_message:
                self.seen.full_pool_message = message
            if self.console.is_terminal:
                live.update(make_frame(self._frame()))
            await asyncio.sleep(1)

    def _note_heat(self) -> None:
        services = self.watcher.view.services.values()
        for gpu in (gpu for service in services for gpu in service.get("status", {}).get("gpus", ())):
            if gpu.get("derating", 1.0) < 0.95 and gpu not in self.seen.derated:
                self.seen.derated = [known for known in self.seen.derated if known.get("uuid") != gpu.get("uuid")] + [
                    gpu
                ]
        if self.seen.weight_before_heat is not None:
            now = self._derating(self._hot)
            before = self.seen.weight_after_heat
            self.seen.weight_after_heat = now if before is None else min(before, now or before)
            if now is not None and now < self.seen.weight_before_heat and self.seen.weight_followed_after is None:
                self.seen.weight_followed_after = self.watcher.elapsed - self._hot_since

    def _frame(self) -> Frame:
        held = dict.fromkeys(self.seen.stock, 0)
        for pod in self.watcher.view.engines:
            held[pool_of(pod)] = held.get(pool_of(pod), 0) + gpus_of(pod)
        return Frame(
            stamp=STAMP,
            elapsed=self.watcher.elapsed,
            end=self.timeline.end,
            act=self.act,
            streams=STREAMS,
            traffic={stream.service: self._live(stream) for stream in STREAMS if stream.service in self.generators},
            services=self.watcher.view.services,
            gpus={pool: f"{count} of {self.seen.stock.get(pool, 0)}" for pool, count in held.items()},
        )

    def _live(self, stream: Stream) -> LiveTraffic:
        generator = self.generators[stream.service]
        recent = generator.recent(30.0)
        return LiveTraffic(
            rate=recent.rate,
            ttft_p95_ms=recent.ttft.p95 if recent.ttft else None,
            itl_p95_ms=recent.itl.p95 if recent.itl else None,
            sent=len(generator.records),
            lost=sum(record.outcome.is_lost for record in generator.records),
        )

    def _requests(self) -> list[Request]:
        return [
            Request(
                service=stream.service,
                sent_at=record.sent_at,
                answered=record.outcome is Outcome.ANSWERED,
                lost=record.outcome.is_lost,
                within_slo=record.is_within(stream.ttft_ms, stream.itl_ms),
                settling=self.timeline.is_settling(stream, record.sent_at),
            )
            for stream in STREAMS
            for record in self.generators[stream.service].records
        ]

    def _sum_up(self) -> Summary:
        requests = self._requests()
        self.seen.first_day_answers = sum(r.answered for r in requests if r.service == HELLO.service)
        return make_summary(
            requests,
            self.seen,
            stamp=STAMP,
            step_up=self.timeline.step_up,
            step_down=self.timeline.step_down,
            heat=self.timeline.heat,
            settle=self.timeline.settle,
            stepped=CHAT.service,
            heated=DOCS.service,
        )
