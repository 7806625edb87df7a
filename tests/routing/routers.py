"""A real Envoy with the bootstrap that pods get, and engines that answer as told."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from shoal.render.bootstrap import make_bootstrap
from shoal.render.envoy import EngineEndpoint, RouterResources, ServiceRoute, make_resources
from shoal.routing.ads import AdsServer
from shoal.telemetry.direct import DirectSource
from shoal.telemetry.envoy_stats import ClusterCounters
from shoal.telemetry.targets import RouterTarget

ENVOY = Path(__file__).parents[2] / ".venv/bin/envoy"
NAMESPACE = "team"
ENGINE_PORT = 8000

_numbers = itertools.count(1)


def next_address() -> str:
    """A loopback address that no other test of this machine is likely to use."""
    number = next(_numbers)
    pid = os.getpid()
    return f"127.{100 + pid % 100}.{pid // 100 % 256}.{number % 254 + 1}"


async def wait_until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for a condition; fails when it does not come."""
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if (held if isinstance(held, bool) else await held) is True:
                return
            await asyncio.sleep(0.05)


@dataclass
class Engine:
    """Answers its own address. `status` is what it answers; `gate` holds streams open until set."""

    address: str
    status: int = 200
    hits: int = 0
    streams: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/stream", self._stream)
        app.router.add_get("/v1/broken", self._broken)
        app.router.add_route("*", "/v1/{path:.*}", self._answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.address, ENGINE_PORT).start()

    async def stop(self) -> None:
        self.gate.set()
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    def endpoint(self, weight: int = 1000, *, draining: bool = False) -> EngineEndpoint:
        return EngineEndpoint(self.address, ENGINE_PORT, weight, draining)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _answer(self, request: web.Request) -> web.Response:
        self.hits += 1
        size = len(await request.read())
        return web.json_response({"engine": self.address, "path": request.path, "size": size}, status=self.status)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.streams += 1
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first ")
        await self.gate.wait()
        await response.write(b"last")
        return response

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        self.hits += 1
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"first")
        assert request.transport is not None
        request.transport.abort()
        return response


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]  # names in any case
    text: str

    @property
    def engine(self) -> str:
        engine: str = json.loads(self.text)["engine"]
        return engine


class Router:
    """One Envoy process, its ADS server and engines. The fixture `router` makes and ends it."""

    def __init__(self, directory: Path) -> None:
        self.address = next_address()
        self.ads = AdsServer(f"{next_address()}:0")
        self.http = aiohttp.ClientSession()
        self.log = directory / "envoy.log"
        self._engines: list[Engine] = []
        self._process: asyncio.subprocess.Process | None = None
        self._source = DirectSource()

    async def start(self, *, wait: bool = True, publish: RouterResources | None = None) -> None:
        """Start ADS server and Envoy; with `wait` until it is ready, which needs something published."""
        await self.ads.start()
        if wait:
            self.ads.publish(NAMESPACE, publish or make_resources(NAMESPACE, ()))
        await self.start_envoy()
        if wait:
            await wait_until(self.is_ready)

    async def start_envoy(self) -> None:
        """The process alone, against `ads`."""
        xds_host = self.ads.address.rpartition(":")[0]
        bootstrap = json.dumps(
            make_bootstrap(NAMESPACE, xds_host=xds_host, xds_port=self.ads.port, max_heap_bytes=256 << 20)
        )
        bootstrap = bootstrap.replace("$(POD_IP)", self.address).replace("$(POD_NAME)", f"router-{self.address}")
        arguments = ["--config-yaml", bootstrap, "--disable-hot-restart", "--concurrency", "1"]
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(ENVOY), *arguments, "--log-level", "warning", stdout=log, stderr=log
            )

    async def stop(self) -> None:
        await self.http.close()
        await self._source.close()
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
        await self.ads.stop()
        for engine in self._engines:
            await engine.stop()

    async def add_engine(self, **settings: Any) -> Engine:
        engine = Engine(next_address(), **settings)
        await engine.start()
        self._engines.append(engine)
        return engine

    async def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.log.read_text()
        try:
            async with self.http.get(f"http://{self.address}:9442/ready") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def publish(self, *services: ServiceRoute) -> None:
        """Publish and wait until the router has it all."""
        self.ads.publish(NAMESPACE, make_resources(NAMESPACE, services))
        await wait_until(lambda: self.ads.stats.current.get(NAMESPACE) == 1)

    async def route(self, *engines: EngineEndpoint, name: str = "chat") -> None:
        """One service with these engines, all found healthy."""
        await self.publish(ServiceRoute(name, engines, ttft_ms=500))
        serving = sum(not engine.draining for engine in engines)
        await wait_until(lambda: self._are_healthy(name, serving))

    async def _are_healthy(self, name: str, number: int) -> bool:
        url = f"http://{self.address}:9442/stats/prometheus?filter=membership_healthy"
        async with self.http.get(url) as response:
            page = await response.text()
        return f'envoy_cluster_membership_healthy{{envoy_cluster_name="{name}"}} {number}\n' in page

    async def get(self, path: str = "/chat/v1/completions", **kwargs: Any) -> Answer:
        async with self.http.get(f"http://{self.address}:8080{path}", **kwargs) as response:
            return Answer(response.status, response.headers.copy(), await response.text())

    @asynccontextmanager
    async def stream(self, path: str = "/chat/v1/stream") -> AsyncIterator[aiohttp.ClientResponse]:
        """A streamed answer of which the first part has come."""
        async with self.http.get(f"http://{self.address}:8080{path}") as response:
            assert await response.content.readexactly(6) == b"first "
            yield response

    async def counters(self, name: str = "chat") -> ClusterCounters:
        """What the operator reads back."""
        target = RouterTarget(NAMESPACE, "router", self.address)
        return (await self._source.read_routers([target]))[target][name]


@asynccontextmanager
async def running_router(directory: Path) -> AsyncIterator[Router]:
    async with AsyncExitStack() as stack:
        router = Router(directory)
        stack.push_async_callback(router.stop)
        await router.start()
        yield router
