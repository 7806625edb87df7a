"""Direct reads over HTTP: every way in which metrics fail (M1 to M8 of the faults that must be survived)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from exporters import Exporter, next_address, wait_until
from pages import engine_page

from shoal.domain.service import ServiceKey, Tick
from shoal.telemetry.collector import Collector
from shoal.telemetry.direct import LARGEST_PAGE, DirectSource
from shoal.telemetry.targets import AgentTarget, EngineTarget, RouterTarget, Targets

CHAT = ServiceKey("team", "chat")
Export = Callable[..., Awaitable[Exporter]]

ROUTER_PAGE = """\
# TYPE envoy_cluster_upstream_rq_total counter
envoy_cluster_upstream_rq_total{envoy_cluster_name="chat"} 10
envoy_cluster_upstream_rq_total{envoy_cluster_name="broken"} NaN
envoy_cluster_upstream_rq_pending_failure_eject{envoy_cluster_name="chat"} 2
envoy_cluster_upstream_rq_pending_failure_eject{envoy_cluster_name="broken"} 2
envoy_cluster_upstream_cx_none_healthy{envoy_cluster_name="chat"} 1
envoy_cluster_upstream_cx_none_healthy{envoy_cluster_name="broken"} 1
envoy_cluster_upstream_rq_retry{envoy_cluster_name="chat"} 3
envoy_cluster_upstream_rq_retry{envoy_cluster_name="broken"} 3
envoy_cluster_upstream_rq{envoy_response_code="429",envoy_cluster_name="chat"} 4
envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="chat"} 6
envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="chat"} 1
envoy_cluster_upstream_rq_total{envoy_cluster_name="partly"} 3
"""


def target(exporter: Exporter | str, *, pod: str = "pod", service: ServiceKey = CHAT) -> EngineTarget:
    address = exporter if isinstance(exporter, str) else exporter.address
    return EngineTarget(service, pod, 0, address, 8000)


@pytest.fixture
async def source() -> AsyncIterator[DirectSource]:
    source = DirectSource(timeout_seconds=0.5, round_seconds=1.0)
    yield source
    await source.close()


async def test_engines_are_read(source: DirectSource, export: Export) -> None:
    engine = await export(body=engine_page(running=3))
    readings = await source.read_engines([target(engine)])
    reading = readings[target(engine)]
    assert (reading.page.running, reading.age_seconds) == (3, 0)


@pytest.mark.parametrize("status", [404, 500, 503, 302])
async def test_an_engine_with_an_error_has_not_answered(source: DirectSource, export: Export, status: int) -> None:
    assert await source.read_engines([target(await export(body=engine_page(), status=status))]) == {}


@pytest.mark.parametrize(
    "body",
    ["", "\n\n", "<html>gateway</html>", "vllm:num_requests_running NaN\n", "vllm:num_requests_running{ 1", "\0\1\2\n"],
)
async def test_a_page_that_says_nothing_is_no_answer(source: DirectSource, export: Export, body: str) -> None:
    assert await source.read_engines([target(await export(body=body))]) == {}


async def test_an_engine_that_is_down_or_cut_off_has_not_answered(source: DirectSource, export: Export) -> None:
    cut = await export(body=engine_page(), cut=80)
    nobody = target(next_address(), pod="nobody")
    assert await source.read_engines([target(cut), nobody]) == {}


async def test_a_slow_engine_costs_the_others_nothing(source: DirectSource, export: Export) -> None:
    slow = [target(await export(body=engine_page(), delay=30), pod=f"slow-{n}") for n in range(20)]
    quick = target(await export(body=engine_page()))
    started = time.monotonic()
    assert list(await source.read_engines([*slow, quick])) == [quick]
    assert time.monotonic() - started < 15.0  # half of what a slow engine takes


async def test_more_slow_engines_than_connections_end_with_the_round(export: Export) -> None:
    source = DirectSource(timeout_seconds=5, round_seconds=0.3, concurrency=2)
    slow = [target(await export(body=engine_page(), delay=30), pod=f"slow-{n}") for n in range(10)]
    started = time.monotonic()
    assert await source.read_engines(slow) == {}
    assert time.monotonic() - started < 15.0  # half of what a slow engine takes
    await source.close()


async def test_a_page_without_end_is_given_up(export: Export) -> None:
    source = DirectSource(timeout_seconds=10, round_seconds=10)
    stranger = await export(body="x" * (LARGEST_PAGE + 1))
    assert await source.read_engines([target(stranger)]) == {}
    await source.close()


async def test_many_engines_are_read_in_one_round(export: Export) -> None:
    source = DirectSource(timeout_seconds=10, round_seconds=30)
    engines = [await export(body=engine_page(running=1)) for _ in range(3)]  # each takes 128 connections at once
    targets = [target(engines[n % 3], pod=f"pod-{n}") for n in range(300)]
    assert len(await source.read_engines(targets)) == 300
    assert sum(engine.asked for engine in engines) == 300
    await source.close()


async def test_an_address_that_is_none_has_not_answered(source: DirectSource) -> None:
    assert await source.read_engines([target("not an address"), target("")]) == {}


async def test_routers_are_read_by_cluster(source: DirectSource, export: Export) -> None:
    envoy = await export(port=9442, body=ROUTER_PAGE)
    router = RouterTarget("team", "r", envoy.address)
    clusters = (await source.read_routers([router]))[router]
    assert list(clusters) == ["chat"]  # of the others, something is missing or no number
    assert (clusters["chat"].arrived, clusters["chat"].refused, clusters["chat"].failed) == (10, 4, 1)
    assert envoy.query.startswith("filter=")


async def test_agents_are_read(source: DirectSource, export: Export) -> None:
    gpu = {"uuid": "GPU-1", "index": 0, "clockMHz": 1500, "busy": "very", "temperatureC": float("nan")}
    body = json.dumps({"node": "n", "gpus": [gpu, {"index": 1}, 7, {"uuid": 5, "index": 2}]})
    agent = await export(port=9440, body=body)
    target = AgentTarget("n", agent.address)
    [reading] = (await source.read_agents([target]))[target]
    assert (reading.uuid, reading.clock_mhz, reading.busy, reading.temperature_c) == ("GPU-1", 1500, None, None)


@pytest.mark.parametrize("body", ["", "[]", "null", '{"gpus": 5}', '{"gpus": null}', "{"])
async def test_an_agent_that_says_nothing_of_use_has_no_gpus(source: DirectSource, export: Export, body: str) -> None:
    agent = AgentTarget("n", (await export(port=9440, body=body)).address)
    assert (await source.read_agents([agent]))[agent] == ()


async def test_the_collector_runs_a_round_each_tick_and_closes_its_source(export: Export) -> None:
    engine = await export(body=engine_page(finished=5))
    collector = Collector(DirectSource(), tick_seconds=0.1)
    collector.set_targets(Targets(engines=(target(engine),)))
    rounds: list[int] = []
    collector.on_round(lambda: rounds.append(engine.asked))
    running = asyncio.create_task(collector.run())
    await wait_until(lambda: len(rounds) >= 4)
    engine.body = engine_page(finished=9)
    await wait_until(lambda: sum(tick.count for tick in collector.load_of(CHAT).ticks) == 4)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert rounds == sorted(set(rounds))


async def test_an_outage_of_one_engine_is_not_a_fall_of_traffic(export: Export) -> None:
    """The bug of others: metric outage read as zero load."""
    engines = [await export(body=engine_page(finished=0)) for _ in range(2)]
    now = 0.0
    collector = Collector(DirectSource(timeout_seconds=0.5), tick_seconds=5, clock=lambda: now)
    collector.set_targets(Targets(engines=tuple(target(e, pod=f"p{n}") for n, e in enumerate(engines))))
    await collector.round()
    for finished in (10, 20, 30, 40):
        now += 5
        engines[0].body = engines[1].body = engine_page(finished=finished)
        engines[1].status = 200 if finished in (10, 40) else 500
        await collector.round()
    assert collector.load_of(CHAT).ticks == (Tick(20),) * 4
    await collector._source.close()


async def test_a_round_that_fails_is_not_the_last(export: Export, caplog: pytest.LogCaptureFixture) -> None:
    collector = Collector(DirectSource(), tick_seconds=0.1)
    rounds: list[int] = []

    def fail() -> None:
        rounds.append(1)
        raise ValueError("somebody else's mistake")

    collector.on_round(fail)
    running = asyncio.create_task(collector.run())
    await wait_until(lambda: len(rounds) >= 3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "somebody else's mistake" in caplog.text
