"""Where hollow pods listen, and what they answer there."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from aiohttp import web

from bench.hollow.pages import Gpu, Requests, make_engine_page, make_router_page
from bench.hollow.traffic import EngineId, Key, Traffic

AGENT_PORT = 9440
ROUTER_STATS_PORT = 9442
Page = Callable[[float], str]


class Ports:
    """Listening sockets of all hollow pods; every request is answered from a function of the time."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, int], Page] = {}
        self._sockets: dict[tuple[str, int], asyncio.Server] = {}
        self._server = web.Server(self._answer, access_log=None)
        self.answered = 0

    async def open(self, address: str, port: int, page: Page) -> None:
        """Listen and answer `page` to whatever is asked; `/health` and `/ready` get an empty 200."""
        loop = asyncio.get_running_loop()
        self._pages[address, port] = page
        self._sockets[address, port] = await loop.create_server(self._server, host=address, port=port, backlog=8)

    def close(self, address: str) -> None:
        """Stop listening on all ports of an address. Open connections end with their next request."""
        for key in [key for key in self._sockets if key[0] == address]:
            del self._pages[key]
            self._sockets.pop(key).close()

    async def shut_down(self) -> None:
        """Close everything."""
        for address in {key[0] for key in self._sockets}:
            self.close(address)
        await self._server.shutdown(timeout=1)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self.answered += 1
        name = request.transport.get_extra_info("sockname") if request.transport else None
        page = self._pages.get(tuple(name)) if name else None
        if page is None:
            response = web.Response(status=503)
            response.force_close()
            return response
        if request.path in ("/health", "/ready"):
            return web.Response()
        return web.Response(text=page(time.monotonic()))


def make_engine_answer(traffic: Traffic, service: Key, engine: EngineId, model: str, requests: Requests) -> Page:
    """The page of an engine; it counts what `traffic` gives it."""
    created_at = time.time()

    def answer(now: float) -> str:
        found = traffic.service(service, now)
        finished = found.engines.counts.get(engine, 0)
        return make_engine_page(model, finished, found.engine_rate, requests, created_at)

    return answer


def make_router_answer(traffic: Traffic, namespace: str, pod: str) -> Page:
    """The page of one of a namespace's routers."""
    return lambda now: make_router_page(traffic.received(namespace, pod, now))


def make_agent_answer(node: str, gpus: tuple[Gpu, ...]) -> Page:
    """The page of a node's GPU agent."""

    def answer(_: float) -> str:
        return json.dumps({"node": node, "gpus": [gpu.to_dict(time.time()) for gpu in gpus]})

    return answer
