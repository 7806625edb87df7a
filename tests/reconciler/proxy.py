"""A reverse proxy between operator and API server that counts writes and injects faults: it knows nothing of either."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

MUTATING = ("POST", "PUT", "PATCH", "DELETE")
_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "accept-encoding"}


@dataclass
class Write:
    """A mutating request that the operator sent; renewals of leases are not counted."""

    number: int
    method: str
    path: str
    at: float
    status: int | None = None  # None: not answered by the API server


@dataclass
class Script:
    """What the proxy does. All callables run in its thread and must not block.

    `before(write)`: an HTTP status to answer in place of forwarding. `after(write)`: True withholds the answer for
    ever. `answered(write)`: the answer was sent. `watch_line(path, line)`: the line to pass on, or None to drop it.
    """

    before: Callable[[Write], int | None] = lambda write: None
    after: Callable[[Write], bool] = lambda write: False
    answered: Callable[[Write], None] = lambda write: None
    watch_line: Callable[[str, bytes], bytes | None] = lambda path, line: line
    read: Callable[[str], int | None] = lambda path: None  # an HTTP status for a GET that is no watch


@dataclass
class Proxy:
    """Runs in a thread of its own. `url` is plain HTTP on loopback; the client's token is passed on."""

    kubeconfig: Path  # of the administrator: for the server's address and its authority only
    script: Script = field(default_factory=Script)
    writes: list[Write] = field(default_factory=list)
    closed: bool = False  # refuse everything: the API server is away
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="proxy")
        thread.start()
        if not started.wait(10):
            raise RuntimeError("the proxy does not start")
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(15)

    def reset(self) -> None:
        """Forget the writes and inject nothing."""
        self.script, self.writes = Script(), []

    def writes_to(self, part: str) -> list[Write]:
        return [write for write in self.writes if part in write.path]

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        cluster = yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority), limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=True) as session:
            self._session, self._upstream = session, cluster["server"]
            app = web.Application(client_max_size=8 << 20)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            await self._stop.wait()
            await runner.cleanup()
        await asyncio.sleep(0.1)  # TLS connections say goodbye

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.closed:
            return _refuse(503)
        if request.method in MUTATING and "/leases" not in request.path:
            return await self._handle_write(request)
        if request.query.get("watch") in ("true", "1"):
            return await self._handle_watch(request)
        if (status := self.script.read(request.path)) is not None:
            return _refuse(status)
        return await self._forward(request)

    async def _handle_write(self, request: web.Request) -> web.StreamResponse:
        write = Write(len(self.writes) + 1, request.method, request.path, time.monotonic())
        self.writes.append(write)
        if (status := self.script.before(write)) is not None:
            return _refuse(status)
        answer = await self._forward(request)
        write.status = answer.status
        if self.script.after(write):
            await asyncio.sleep(3600)
        await answer.prepare(request)
        await answer.write_eof()
        self.script.answered(write)
        return answer

    async def _forward(self, request: web.Request) -> web.Response:
        async with self._request(request) as answer:
            headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            return web.Response(status=answer.status, headers=headers, body=await answer.read())

    async def _handle_watch(self, request: web.Request) -> web.StreamResponse:
        async with self._request(request) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            pending = b""
            async for chunk in answer.content.iter_any():
                if self.closed:
                    break
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    if (passed := self.script.watch_line(request.path, line)) is not None:
                        await response.write(passed + b"\n")
            return response

    def _request(self, request: web.Request) -> aiohttp.client._RequestContextManager:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        body = request.content if request.can_read_body else None
        return self._session.request(request.method, self._upstream + request.path_qs, headers=headers, data=body)


def _refuse(status: int) -> web.Response:
    reasons = {409: "Conflict", 422: "Invalid", 403: "Forbidden", 404: "NotFound", 429: "TooManyRequests"}
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": f"injected {status}",
        "reason": reasons.get(status, "InternalError"),
        "code": status,
    }
    headers = {"Retry-After": "1"} if status == 429 else {}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json", headers=headers)
