"""What hollow engines and routers answer is what the operator's own readers understand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.hollow.cluster import make_nodes
from bench.hollow.pages import Requests, make_engine_page, make_router_page
from bench.hollow.ports import make_agent_answer
from bench.hollow.traffic import Traffic
from e2e.devcluster.addresses import Slot
from shoal.telemetry.engine_page import parse_engine_page
from shoal.telemetry.envoy_stats import parse_stats_page
from shoal.telemetry.gpu import parse_readings

REQUESTS = Requests(input_tokens=200, output_tokens=101, ttft=0.06, gap=0.012)


def test_engine_page_reads_as_vllm() -> None:
    page = parse_engine_page(make_engine_page("chat", 10, 4.0, REQUESTS, 0.0).encode())
    assert page.finished == 10
    assert page.running == round(4.0 * 1.26)
    assert page.waiting == 0
    for histogram, mean in ((page.ttft, 0.06), (page.itl, 0.012), (page.input, 200), (page.output, 101)):
        assert histogram is not None
        assert histogram.count == 10
        assert histogram.mean == pytest.approx(mean)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_no_bucket_ever_falls(finished: int, more: int) -> None:
    before, after = (
        parse_engine_page(make_engine_page("chat", count, 1.0, REQUESTS, 0.0).encode())
        for count in (finished, finished + more)
    )
    assert before.input is not None
    assert after.input is not None
    assert all(after.input.buckets[edge] >= count for edge, count in before.input.buckets.items())


def test_router_page_reads_as_envoy() -> None:
    counters = parse_stats_page(make_router_page({"chat": 7, "code": 0}).encode())
    assert {name: counter.arrived for name, counter in counters.items()} == {"chat": 7, "code": 0}


def test_routers_share_what_arrives() -> None:
    traffic = Traffic(default_rate=100.0, seed=1)
    traffic.add_router("team", "first", 0.0)
    traffic.add_engine(("team", "chat"), ("a", 0), 0.0)
    traffic.service(("team", "chat"), 10.0)
    traffic.add_router("team", "second", 10.0)
    counts = [traffic.received("team", pod, 20.0)["chat"] for pod in ("first", "second")]
    assert sum(counts) == traffic.service(("team", "chat"), 20.0).arrived
    assert counts[0] > counts[1] > 0
    traffic.remove_router("team", "first", 20.0)
    assert traffic.received("team", "second", 30.0)["chat"] > counts[1]


def test_agent_page_tells_full_clocks() -> None:
    node = make_nodes(Slot(64), dra=1, extended=1)["hollow-000"]
    answer = json.loads(make_agent_answer(node.name, node.gpus)(0.0))
    readings = parse_readings(answer["gpus"])
    assert [reading.uuid for reading in readings] == [gpu.uuid for gpu in node.gpus]
    assert all(reading.clock_mhz == reading.max_clock_mhz for reading in readings)


def test_arrivals_follow_the_rate_and_are_shared_out_evenly() -> None:
    traffic = Traffic(default_rate=5.0, seed=3)
    key = ("team", "chat")
    for engine in ("a", "b", "c"):
        traffic.add_engine(key, (engine, 0), 0.0)
    found = traffic.service(key, 1000.0)
    assert found.arrived == pytest.approx(5000, rel=0.05)
    traffic.set_rate(key, 50.0, 1000.0)
    arrived = traffic.service(key, 2000.0).arrived
    assert arrived == pytest.approx(55_000, rel=0.05)
    counts = traffic.service(key, 2000.0).engines.counts.values()
    assert sum(counts) == arrived
    assert max(counts) - min(counts) <= 1


def test_requests_without_an_engine_arrive_at_the_router_only() -> None:
    traffic = Traffic(default_rate=10.0, seed=3)
    assert traffic.service(("team", "chat"), 0.0).arrived == 0
    arrived = traffic.service(("team", "chat"), 100.0).arrived
    traffic.add_engine(("team", "chat"), ("a", 0), 100.0)
    assert arrived > 0
    assert traffic.service(("team", "chat"), 100.0).engines.counts == {("a", 0): 0}
