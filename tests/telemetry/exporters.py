"""Small HTTP servers that answer as told, each on a loopback address of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

_numbers = itertools.count(1)


def next_address() -> str:
    """A loopback address that no other test of this machine is likely to use."""
    number = next(_numbers)
    pid = os.getpid()
    return f"127.{10 + pid % 80}.{pid // 80 % 256}.{number % 254 + 1}"


async def wait_until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition; fails when it does not come."""
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if (held if isinstance(held, bool) else await held) is True:
                return
            await asyncio.sleep(0.05)


@dataclass
class Exporter:
    """Answers every path with `body`. `delay` seconds late; `cut` after so many bytes."""

    address: str
    port: int
    body: str = ""
    status: int = 200
    delay: float = 0.0
    cut: int | None = None
    asked: int = 0
    query: str = ""
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.address, self.port).start()

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.query = request.query_string
        await asyncio.sleep(self.delay)
        body = self.body.encode()
        if self.cut is None:
            return web.Response(body=body, status=self.status, headers={"Content-Type": "text/plain; version=0.0.4"})
        response = web.StreamResponse()
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: self.cut])
        assert request.transport is not None
        request.transport.abort()
        return response
