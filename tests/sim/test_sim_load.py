"""The load generator against a server that answers in every way a server can."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from sim_world import MODEL, running_server, write_profile

from shoal.sim.load import LoadGenerator, main
from shoal.sim.load_report import Outcome, Record, make_report
from shoal.sim.traffic import Traffic

BURST = Traffic(((0.3, 80.0),), input_mean=20, output_mean=5, seed=3)


async def answer(request: web.Request) -> web.StreamResponse:
    """As told by the URL's first part."""
    way = request.match_info["way"]
    tokens = (await request.json())["max_tokens"]
    if way.isdigit():
        return web.Response(status=int(way), text="no")
    if way == "slow":
        await asyncio.sleep(30)
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"choices":[{"text":" a"}]}\n\n')
    if way == "cut":
        assert request.transport
        request.transport.abort()
    claimed = tokens - (way == "short")
    end = b"" if way == "unfinished" else b"data: [DONE]\n\n"
    await response.write(b'data: {"usage":{"completion_tokens": %d}}\n\n' % claimed + end)
    return response


@contextlib.asynccontextmanager
async def serve() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{way}/v1/completions", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def run(url: str, timeout_seconds: float = 5.0) -> LoadGenerator:
    generator = LoadGenerator(url=url, model="m", traffic=BURST, timeout_seconds=timeout_seconds)
    await generator.run()
    return generator


@pytest.mark.parametrize(
    ("way", "outcome"),
    [
        ("good", Outcome.ANSWERED),
        ("429", Outcome.REFUSED),
        ("503", Outcome.SERVER_ERROR),
        ("cut", Outcome.RESET),
        ("short", Outcome.SHORT),
        ("unfinished", Outcome.SHORT),
    ],
)
async def test_every_request_has_one_outcome(way: str, outcome: Outcome) -> None:
    async with serve() as url:
        generator = await run(f"{url}/{way}/v1")
    report = generator.report()
    assert {record.outcome for record in generator.records} == {outcome}
    assert report.sent == len(list(BURST.arrivals())) > 10
    assert report.lost == (report.sent if outcome.is_lost else 0)
    assert report.answered == (report.sent if outcome is Outcome.ANSWERED else 0)


async def test_it_does_not_wait_for_answers() -> None:
    async with serve() as url:
        generator = await run(f"{url}/slow/v1", timeout_seconds=0.6)
    report = generator.report()
    assert {record.outcome for record in generator.records} == {Outcome.TIMEOUT}
    assert report.seconds == 0.3
    assert report.send_lag is not None
    assert report.send_lag.p50 is not None
    assert report.send_lag.p50 < 100


async def test_nobody_listens() -> None:
    generator = await run(f"http://127.0.0.1:{unused_port()}/v1")
    assert {record.outcome for record in generator.records} == {Outcome.RESET}


async def test_recent_looks_at_a_window_while_it_runs() -> None:
    async with serve() as url:
        generator = LoadGenerator(url=f"{url}/good/v1", model="m", traffic=BURST)
        assert generator.recent().sent == 0
        running = asyncio.create_task(generator.run())
        while len(generator.records) < 5:  # noqa: ASYNC110 - the generator is not ours to signal
            await asyncio.sleep(0.02)
        assert 5 <= generator.recent(30.0).sent <= 40
        assert generator.recent(1e-6).sent <= 1
        await running


async def test_against_the_simulated_engine(tmp_path: Path) -> None:
    async with running_server(write_profile(tmp_path)) as server:
        generator = LoadGenerator(url=f"{server.url}/v1", model=MODEL, traffic=BURST)
        report = await generator.run()
        assert report.answered == report.sent
        assert await server.metric("vllm:request_success_total") == report.sent
        assert await server.metric("vllm:generation_tokens_total") == report.output_tokens
        assert await server.metric("vllm:prompt_tokens_total") == sum(r.prompt_tokens for r in generator.records)


def test_share_within_the_slo_counts_losses_as_misses() -> None:
    def record(outcome: Outcome, ttft: float | None, itl: float | None) -> Record:
        return Record(0.0, 0.0, 1, 1, outcome, ttft_ms=ttft, itl_ms=itl)

    records = [
        record(Outcome.ANSWERED, 100, 20),
        record(Outcome.ANSWERED, 100, None),  # one token: no gap
        record(Outcome.ANSWERED, 100, 31),
        record(Outcome.ANSWERED, 301, 20),
        record(Outcome.RESET, 100, None),
        record(Outcome.UNDER_WAY, None, None),
    ]
    report = make_report(records, seconds=1.0, ttft_ms=300, itl_ms=30)
    assert report.within_slo == pytest.approx(2 / 5)
    assert (report.sent, report.answered, report.lost, report.under_way) == (6, 4, 1, 1)


def test_the_command_prints_json_and_tells_losses_by_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"
    status = main(["--url", url, "--model", "m", "--schedule", "[[0.3, 20]]", "-o", "json"])
    printed = json.loads(capsys.readouterr().out)
    assert status == 1
    assert printed["lostBy"] == {"reset": printed["sent"]}


def test_traffic_is_the_same_for_the_same_seed_and_has_the_means_asked_for() -> None:
    traffic = Traffic(((100.0, 50.0), (100.0, 0.0), (100.0, 100.0)), input_mean=300, output_mean=100, seed=5)
    arrivals = list(traffic.arrivals())
    assert arrivals == list(traffic.arrivals())
    assert arrivals != list(Traffic(traffic.schedule, 300, 100, seed=6).arrivals())
    instants = [arrival.at for arrival in arrivals]
    assert instants == sorted(instants)
    assert sum(at < 100 for at in instants) == pytest.approx(5_000, rel=0.05)
    assert not any(100 <= at < 200 for at in instants)
    assert sum(a.prompt_tokens for a in arrivals) / len(arrivals) == pytest.approx(300, rel=0.02)
    assert sum(a.output_tokens for a in arrivals) / len(arrivals) == pytest.approx(100, rel=0.02)
    assert [traffic.rate_at(at) for at in (0, 99, 100, 250, 301)] == [50, 50, 0, 100, 0]


def test_traffic_keeps_to_the_longest_context() -> None:
    traffic = Traffic(((50.0, 20.0),), input_mean=300, output_mean=100, longest=200)
    assert all(a.prompt_tokens + a.output_tokens <= 200 for a in traffic.arrivals())
