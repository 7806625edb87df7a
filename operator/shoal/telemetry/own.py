"""The operator's own metrics and probes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

Check = Callable[[], Mapping[str, str]]
"""Answers what is wrong, by name; empty when all is well."""

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class OwnServer:
    """Two small HTTP servers: probes for the kubelet, metrics for Prometheus; a NetworkPolicy can tell them apart."""

    runners: list[web.AppRunner]

    async def stop(self) -> None:
        """End both."""
        for runner in self.runners:
            await runner.cleanup()


async def start_server(
    address: str,
    *,
    health_port: int,
    metrics_port: int,
    is_alive: Check,
    is_ready: Check,
    registry: CollectorRegistry,
    pages: Mapping[str, Handler] | None = None,
) -> OwnServer:
    """Serve `/healthz` and `/readyz` on one port, `/metrics` and `pages` (by path) on the other.

    Raises OSError when one is taken.
    """
    probes = web.Application()
    probes.router.add_get("/healthz", _make_probe(is_alive))
    probes.router.add_get("/readyz", _make_probe(is_ready))
    metrics = web.Application()
    metrics.router.add_get("/metrics", _make_metrics(registry))
    for path, handler in (pages or {}).items():
        metrics.router.add_get(path, handler)
    server = OwnServer([])
    try:
        for app, port in ((probes, health_port), (metrics, metrics_port)):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            server.runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, address, port).start()
    except OSError:
        await server.stop()
        raise
    return server


def _make_probe(check: Check) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        wrong = check()
        text = "".join(f"{name}: {what}\n" for name, what in wrong.items())
        return web.Response(status=503 if wrong else 200, text=text or "ok\n")

    return answer


def _make_metrics(registry: CollectorRegistry) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return answer
