"""The operator's own probes and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from exporters import next_address
from prometheus_client import CollectorRegistry, Counter

from shoal.domain.service import Load, ServiceKey, Tick
from shoal.telemetry.envoy_stats import ClusterCounters
from shoal.telemetry.own import start_server
from shoal.telemetry.traffic_metrics import TrafficMetrics, compute_rate

HEALTH, METRICS = 8080, 9090


async def get(address: str, port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}:{port}{path}") as response:
        return response.status, await response.text()


async def test_probes_say_what_is_wrong() -> None:
    address, wrong = next_address(), dict[str, str]()
    server = await start_server(
        address,
        health_port=HEALTH,
        metrics_port=METRICS,
        is_alive=dict,
        is_ready=lambda: wrong,
        registry=CollectorRegistry(),
    )
    assert await get(address, HEALTH, "/healthz") == (200, "ok\n")
    assert await get(address, HEALTH, "/readyz") == (200, "ok\n")
    wrong["store"] = "no LIST has succeeded yet"
    assert await get(address, HEALTH, "/readyz") == (503, "store: no LIST has succeeded yet\n")
    assert (await get(address, HEALTH, "/metrics"))[0] == 404
    assert (await get(address, METRICS, "/healthz"))[0] == 404
    await server.stop()


async def test_a_taken_port_leaves_nothing_open() -> None:
    address = next_address()
    settings: dict[str, Any] = {"is_alive": dict, "is_ready": dict, "registry": CollectorRegistry()}
    first = await start_server(address, health_port=HEALTH, metrics_port=METRICS, **settings)
    with pytest.raises(OSError, match="9090"):
        await start_server(address, health_port=HEALTH + 1, metrics_port=METRICS, **settings)
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(address, HEALTH + 1, "/healthz")
    await first.stop()


async def test_metrics_are_served() -> None:
    address, registry = next_address(), CollectorRegistry()
    Counter("shoal_plans", "Plans made.", registry=registry).inc(3)
    server = await start_server(
        address, health_port=HEALTH, metrics_port=METRICS, is_alive=dict, is_ready=dict, registry=registry
    )
    status, page = await get(address, METRICS, "/metrics")
    assert status == 200
    assert "shoal_plans_total 3.0\n" in page
    await server.stop()


class Known:
    """Stands in for a collector."""

    round_seconds = 0.25
    problem = None

    def __init__(self, loads: Mapping[ServiceKey, Load]) -> None:
        self.services: Sequence[ServiceKey] = tuple(loads)
        self.load_of = loads.__getitem__

    def outcomes_of(self, service: ServiceKey) -> ClusterCounters | None:
        return ClusterCounters(9, 0, 0, 0, failed=2, refused=1) if service.name == "busy" else None


def test_live_numbers_are_metrics_and_what_is_unknown_is_absent() -> None:
    busy, new = ServiceKey("team", "busy"), ServiceKey("team", "new")
    ticks = (Tick(1000),) * 12 + (Tick(50),) * 11 + (Tick(1, complete=False),)
    loads = {busy: Load(ticks=ticks, fresh_fraction=0.5, ttft_mean_ms=120), new: Load()}
    registry = CollectorRegistry()
    registry.register(TrafficMetrics(Known(loads)))  # type: ignore[arg-type]
    samples = {
        (sample.name, sample.labels.get("code", sample.labels.get("service"))): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    assert samples == {
        ("shoal_service_requests_per_second", "busy"): 10,
        ("shoal_service_fresh_ratio", "busy"): 0.5,
        ("shoal_service_fresh_ratio", "new"): 0,
        ("shoal_service_ttft_mean_seconds", "busy"): 0.12,
        ("shoal_service_errors", "5xx"): 2,
        ("shoal_service_errors", "429"): 1,
        ("shoal_telemetry_round_seconds", None): 0.25,
        ("shoal_telemetry_up", None): 1,
    }


def test_no_rate_without_a_complete_tick() -> None:
    assert compute_rate(Load()) is None
    assert compute_rate(Load(ticks=(Tick(3, complete=False),))) is None
