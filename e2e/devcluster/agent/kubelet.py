"""The part of the kubelet's own API that `kubectl logs` needs, over TLS, for the API server alone."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from e2e.devcluster.agent.nodes import KUBELET_PORT
from e2e.devcluster.certs import Pair

# (namespace, pod, container, previous) -> log file; LookupError for what does not exist.
FindLog = Callable[[str, str, str, bool], Path]
# (namespace, pod, container) -> whether the present run may still write.
IsRunning = Callable[[str, str, str], bool]
_FOLLOW_SECONDS = 0.2
_CHUNK = 1 << 16


class KubeletServer:
    """Serves container logs on the kubelet port of every node's address."""

    def __init__(self, find_log: FindLog, is_running: IsRunning) -> None:
        self._find_log = find_log
        self._is_running = is_running
        application = web.Application()
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        application.router.add_get("/healthz", _healthz)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)

    async def start(self, address: str, serving: Pair, authority: Path) -> None:
        """Listen on one node's address; only clients with a certificate of `authority` are served."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(serving.cert, serving.key)
        if self._runner.server is None:
            await self._runner.setup()
        await web.TCPSite(self._runner, address, KUBELET_PORT, ssl_context=context).start()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        key = (request.match_info["namespace"], request.match_info["pod"], request.match_info["container"])
        query = request.query
        try:
            path = self._find_log(*key, query.get("previous") == "true")
        except LookupError as error:
            raise web.HTTPNotFound(text=str(error.args[0])) from error
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        limit = int(query["limitBytes"]) if "limitBytes" in query else None
        offset = find_tail(path, int(query["tailLines"])) if "tailLines" in query else 0
        follow = query.get("follow") == "true"
        while True:
            running = self._is_running(*key)
            offset = await _send(response, path, offset, limit)
            if not (follow and running):
                break
            await asyncio.sleep(_FOLLOW_SECONDS)
        await response.write_eof()
        return response


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _send(response: web.StreamResponse, path: Path, offset: int, limit: int | None) -> int:
    """Send the file from `offset` on; return how far it came."""
    if not path.exists():
        return offset
    with path.open("rb") as file:
        file.seek(offset)
        while data := file.read(_CHUNK):
            if limit is not None:
                data = data[: max(0, limit - offset)]
                if not data:
                    break
            await response.write(data)
            offset += len(data)
    return offset


def find_tail(path: Path, lines: int) -> int:
    """Return where the last `lines` lines of a file begin."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    position = len(content.rstrip(b"\n")) if content.endswith(b"\n") else len(content)
    for _ in range(lines):
        position = content.rfind(b"\n", 0, position)
        if position < 0:
            return 0
    return position + 1 if lines > 0 else len(content)
