"""Engines read out of a real Prometheus, and every way in which that fails."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from exporters import Exporter, next_address, wait_until
from pages import engine_page
from prometheuses import Prometheus

from e2e.devcluster.binary import BuildError
from e2e.prometheus import ensure_prometheus
from shoal.domain.service import ServiceKey
from shoal.telemetry.collector import Collector
from shoal.telemetry.engine_page import EnginePage
from shoal.telemetry.prometheus import PrometheusSource, make_query, make_readings, quote
from shoal.telemetry.sources import EngineReading, SourceError
from shoal.telemetry.targets import EngineTarget, Targets

CHAT = ServiceKey("team", "chat")
Export = Callable[..., Awaitable[Exporter]]
Serve = Callable[[str, str], Awaitable[Exporter]]


def labels(pod: str = "pod", *, service: str = "chat", namespace: str = "team", engine: int = 0) -> dict[str, str]:
    """As a PodMonitor gives them."""
    container = f"engine-{engine}"
    return {"namespace": namespace, "pod": pod, "container": container, "shoal_dev_model_service": service}


def target(pod: str = "pod", engine: int = 0) -> EngineTarget:
    return EngineTarget(CHAT, pod, engine, "127.0.0.1", 8000 + engine)


MATCHED = ['"', "\\", "\n", '"} or vector(1) or {x="', "{{", "$", "`", "a\\", "é", "-1"]


def without(name: str, labels: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key != name}


TARGETS = {
    # A test of its own address: Prometheus shows the last numbers until its next scrape.
    **{pod: [labels(pod)] for pod in ("a", "beside-strangers", "not-a-number", "down", "collected", "asked", "old")},
    "b": [labels("b", engine=0), labels("b", engine=1)],
    "strangers": [
        labels("gone"),
        labels("other", service="other"),
        labels("elsewhere", namespace="elsewhere"),
        without("shoal_dev_model_service", labels("nameless")),
    ],
    "no container": [without("container", labels(pod)) for pod in ("single", "double")],
    "clusters": [
        {**labels(f"{kind}-{n}"), "cluster": value + more}
        for n, value in enumerate(MATCHED)
        for kind, more in (("right", ""), ("wrong", "?"))
    ],
}


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    try:
        binary = ensure_prometheus()
    except BuildError as error:
        pytest.skip(str(error))
    prometheus = Prometheus(binary, tmp_path_factory.mktemp("prometheus"), TARGETS)
    try:
        prometheus.wait()
        yield prometheus
    finally:
        prometheus.stop()


@pytest.fixture
async def source(prometheus: Prometheus) -> AsyncIterator[PrometheusSource]:
    source = PrometheusSource(prometheus.url, every_seconds=0)
    yield source
    await source.close()


@pytest.fixture
async def serve(prometheus: Prometheus, export: Export) -> Serve:
    """Starts an exporter at one of the addresses that Prometheus knows."""

    async def start(name: str, body: str) -> Exporter:
        return await export(address=prometheus.targets[name], body=body)

    return start


async def read_until(
    source: PrometheusSource, condition: Callable[[dict[EngineTarget, EngineReading]], bool], *targets: EngineTarget
) -> dict[EngineTarget, EngineReading]:
    """Ask until the answer is as told; returns it."""
    answers: list[dict[EngineTarget, EngineReading]] = []

    async def holds() -> bool:
        answers.append(dict(await source.read_engines(targets)))
        return condition(answers[-1])

    await wait_until(holds)
    return answers[-1]


async def test_all_engines_are_read_by_one_query(source: PrometheusSource, serve: Serve) -> None:
    one = engine_page(running=1, waiting=2, finished=3, ttft=(1.5, 5), inputs=[10, 100], outputs=[5])
    await serve("a", one)
    await serve("b", engine_page(running=7))
    targets = (target("a"), target("b", 0), target("b", 1))
    readings = await read_until(source, lambda answer: len(answer) == 3, *targets)
    page = readings[target("a")].page
    assert (page.running, page.waiting, page.finished, page.kv_usage) == (1, 2, 3, 0.5)
    assert page.ttft is not None
    assert (page.ttft.total, page.ttft.count) == (1.5, 5)
    assert page.input is not None
    assert (page.input.buckets[50], page.input.buckets[float("inf")]) == (1, 2)
    assert readings[target("b", 1)].page.running == 7
    assert all(0 <= reading.age_seconds < 2 for reading in readings.values())


async def test_series_of_strangers_are_left_out(source: PrometheusSource, serve: Serve) -> None:
    """Pods that are gone, another service's name, another namespace, no service at all."""
    await serve("strangers", engine_page(running=1))
    await serve("beside-strangers", engine_page(running=1))
    targets = [target(pod) for pod in ("beside-strangers", "other", "elsewhere", "nameless")]
    everyone = [
        EngineTarget(ServiceKey("team", "other"), "other", 0, "127.0.0.1", 8000),
        target("gone"),
        target("beside-strangers"),
    ]
    await read_until(source, lambda answer: len(answer) == 3, *everyone)
    assert list(await source.read_engines(targets)) == [target("beside-strangers")]


async def test_the_container_may_be_missing_only_where_it_is_clear(source: PrometheusSource, serve: Serve) -> None:
    await serve("no container", engine_page(running=1))
    targets = (target("single"), target("double", 0), target("double", 1))
    readings = await read_until(source, lambda answer: len(answer) > 0, *targets)
    assert list(readings) == [target("single")]


async def test_numbers_that_are_none_are_missing(source: PrometheusSource, serve: Serve) -> None:
    await serve("not-a-number", engine_page(running="NaN", waiting="+Inf", finished=4))
    [reading] = (await read_until(source, lambda answer: len(answer) > 0, target("not-a-number"))).values()
    assert (reading.page.running, reading.page.waiting, reading.page.finished) == (None, None, 4)


async def test_an_engine_that_is_down_is_missing_at_once(source: PrometheusSource, serve: Serve) -> None:
    engine = await serve("down", engine_page(running=1))
    await read_until(source, lambda answer: len(answer) == 1, target("down"))
    engine.status = 500
    await read_until(source, lambda answer: answer == {}, target("down"))


async def test_old_numbers_say_how_old_they_are(source: PrometheusSource, serve: Serve) -> None:
    """A Prometheus goes on giving the last number for five minutes."""
    taken_at = int((time.time() - 60) * 1000)
    await serve("old", engine_page(running=1).replace("\n", f" {taken_at}\n"))
    [reading] = (await read_until(source, lambda answer: len(answer) > 0, target("old"))).values()
    assert reading.age_seconds == pytest.approx(60, abs=10)


async def test_a_prometheus_without_our_engines_knows_nothing(source: PrometheusSource) -> None:
    assert await source.read_engines([target("nobody")]) == {}


async def test_the_collector_works_with_it(prometheus: Prometheus, serve: Serve) -> None:
    engine = await serve("collected", engine_page(finished=10))
    source = PrometheusSource(prometheus.url, every_seconds=0, lag_seconds=1, timeout_seconds=1)
    collector = Collector(source, tick_seconds=0.5)
    collector.set_targets(Targets(engines=(target("collected"),)))

    async def is_fresh(fraction: float = 1.0) -> bool:
        await collector.round()
        return collector.load_of(CHAT).fresh_fraction == fraction

    async def has_counted(number: int) -> bool:
        await collector.round()
        ticks = collector.load_of(CHAT).ticks
        return len(ticks) > 1 and sum(tick.count for tick in ticks) == number

    await wait_until(is_fresh)
    await wait_until(lambda: has_counted(0))
    engine.body = engine_page(finished=25)
    await wait_until(lambda: has_counted(15))
    engine.body = engine_page(finished=5)  # restarted
    await wait_until(lambda: has_counted(20))
    prometheus.process.send_signal(signal.SIGSTOP)
    try:
        await wait_until(lambda: is_fresh(0.0))
        assert collector.problem is not None
        assert prometheus.url in collector.problem
    finally:
        prometheus.process.send_signal(signal.SIGCONT)
    await wait_until(is_fresh)
    assert collector.problem is None
    assert sum(tick.count for tick in collector.load_of(CHAT).ticks) == 20
    await source.close()


async def test_it_is_not_asked_more_often_than_told(prometheus: Prometheus, serve: Serve) -> None:
    await serve("asked", engine_page(running=1))
    now = 100.0
    source = PrometheusSource(prometheus.url, every_seconds=15, clock=lambda: now)

    async def answers() -> bool:
        nonlocal now
        now += 15
        return bool(await source.read_engines([target("asked")]))

    await wait_until(answers)
    now += 14
    assert await source.read_engines([target("asked")]) == {}
    now += 1
    assert len(await source.read_engines([target("asked")])) == 1
    await source.close()


async def test_a_matcher_stays_inside_its_quotes(prometheus: Prometheus, serve: Serve) -> None:
    await serve("clusters", engine_page(running=1))
    everyone = [target(f"{kind}-{n}") for n in range(len(MATCHED)) for kind in ("right", "wrong")]
    for number, value in enumerate(MATCHED):
        source = PrometheusSource(prometheus.url, every_seconds=0, matchers={"cluster": value})
        readings = await read_until(source, lambda answer: len(answer) > 0, *everyone)
        assert list(readings) == [target(f"right-{number}")], value
        await source.close()


def test_a_matcher_needs_a_label_name() -> None:
    with pytest.raises(ValueError, match="label name"):
        make_query({'x="1"} or {y': "1"})
    assert quote('a"b') == '"a\\"b"'


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, "oops"), (200, "not json"), (200, "{}"), (200, '{"data": null}'), (503, ""), (422, '{"status":"error"}')],
)
async def test_nonsense_is_an_error_with_the_address(export: Export, status: int, body: str) -> None:
    stranger = await export(port=9090, status=status, body=body)
    source = PrometheusSource(f"http://{stranger.address}:9090", every_seconds=0)
    with pytest.raises(SourceError, match=f"{stranger.address}:9090 did not answer"):
        await source.read_engines([target()])
    await source.close()


async def test_nobody_there_is_an_error() -> None:
    source = PrometheusSource(f"http://{next_address()}:9090", every_seconds=0)
    with pytest.raises(SourceError, match="did not answer"):
        await source.read_engines([target()])
    await source.close()


async def test_one_that_hangs_is_given_up_and_not_asked_again(export: Export) -> None:
    hung = await export(port=9090, delay=1.0, body="{}")
    source = PrometheusSource(f"http://{hung.address}:9090", every_seconds=0, timeout_seconds=0.2)
    with pytest.raises(SourceError, match=r"within 0\.2 s"):
        await source.read_engines([target()])
    await source.close()


def test_a_scrape_time_in_the_future_is_no_scrape_time() -> None:
    def series(name: str, value: str) -> dict[str, object]:
        return {"metric": {"shoal_metric": name, **labels()}, "value": [1000.0, value]}

    running = series("vllm:num_requests_running", "3")
    assert make_readings([running], [target()]) == {}
    assert make_readings([running, series("shoal:read_at", "1001")], [target()]) == {}
    assert make_readings([running, series("shoal:read_at", "NaN")], [target()]) == {}
    [reading] = make_readings([running, series("shoal:read_at", "990")], [target()]).values()
    assert reading == EngineReading(EnginePage(running=3), 10)
