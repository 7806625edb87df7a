"""Live means of a variant: the windows of its engines. A missing observation is never zero."""

from __future__ import annotations

import pytest
from collector_world import TICK, World, engine, page, targets_of

from shoal.domain.live import LiveSample
from shoal.telemetry.collector import Collector
from shoal.telemetry.engine_page import EnginePage, Histogram


def busy_page(requests: float, *, ttft: float = 0.2, itl: float = 0.02, running: float = 4) -> EnginePage:
    """An engine that has finished so many requests of 500+100 tokens with these means (seconds)."""
    return page(
        finished=requests,
        running=running,
        ttft=Histogram(ttft * requests, requests),
        itl=Histogram(itl * requests, requests),
        input=Histogram(500 * requests, requests),
        output=Histogram(100 * requests, requests),
    )


async def run_ticks(world: World, collector: Collector, rates: dict[str, float], ticks: int) -> None:
    """So many ticks in which each pod finishes so many requests per second."""
    done = {pod: world.engines[pod].finished or 0.0 for pod in rates}
    for _ in range(ticks):
        for pod, rate in rates.items():
            done[pod] += rate * TICK
            world.engines[pod] = busy_page(done[pod])
        await world.pass_tick(collector)


def sample_of(collector: Collector, *pods: str) -> LiveSample:
    sample = collector.sample_of("team", pods)
    assert sample is not None
    return sample


async def test_a_window_is_told_only_when_it_is_full() -> None:
    world = World(engines={"a": busy_page(100)})
    collector = world.collector(engine("a"))
    await collector.round()
    await run_ticks(world, collector, {"a": 2.0}, 11)
    assert collector.sample_of("team", ["a"]) is None
    await run_ticks(world, collector, {"a": 2.0}, 1)
    sample = sample_of(collector, "a")
    assert (sample.engines, sample.seconds, sample.requests) == (1, 60.0, 120.0)
    assert sample.rate == sample.offered == pytest.approx(2.0)
    assert (sample.ttft_mean_ms, sample.itl_mean_ms) == pytest.approx((200.0, 20.0))
    assert (sample.input_mean, sample.output_mean) == pytest.approx((500.0, 100.0))
    assert (sample.running, sample.waiting, sample.age_seconds) == (4.0, 0.0, 0.0)


async def test_variants_are_told_apart() -> None:
    world = World(engines={"a": busy_page(0), "b": busy_page(0), "c": busy_page(0)})
    collector = world.collector(engine("a"), engine("b"), engine("c"))
    await collector.round()
    await run_ticks(world, collector, {"a": 1.0, "b": 3.0, "c": 10.0}, 20)
    together = sample_of(collector, "a", "b")
    assert (together.engines, together.rate, together.requests) == pytest.approx((2, 2.0, 240.0))
    assert sample_of(collector, "c").rate == pytest.approx(10.0)
    assert collector.sample_of("team", []) is None
    assert collector.sample_of("team", ["unknown"]) is None


async def test_an_engine_that_fell_silent_tells_nothing() -> None:
    world = World(engines={"a": busy_page(0), "b": busy_page(0)})
    collector = world.collector(engine("a"), engine("b"))
    await collector.round()
    await run_ticks(world, collector, {"a": 1.0, "b": 1.0}, 15)
    del world.engines["b"]
    await run_ticks(world, collector, {"a": 1.0}, 3)
    assert sample_of(collector, "a", "b").engines == 1
    del world.engines["a"]
    for _ in range(3):
        await world.pass_tick(collector)
    assert collector.sample_of("team", ["a", "b"]) is None


async def test_a_restart_begins_a_new_window() -> None:
    world = World(engines={"a": busy_page(1000)})
    collector = world.collector(engine("a"))
    await collector.round()
    await run_ticks(world, collector, {"a": 1.0}, 15)
    world.engines["a"] = busy_page(0)
    await world.pass_tick(collector)
    assert collector.sample_of("team", ["a"]) is None
    await run_ticks(world, collector, {"a": 1.0}, 12)
    assert sample_of(collector, "a").rate == pytest.approx(1.0)


async def test_latencies_that_nobody_told_are_unknown() -> None:
    """No request ended in the window: the rate is zero, which was told; the latencies were not."""
    world = World(engines={"a": busy_page(1000)})
    collector = world.collector(engine("a"))
    await collector.round()
    await run_ticks(world, collector, {"a": 0.0}, 12)
    sample = sample_of(collector, "a")
    assert (sample.rate, sample.requests) == (0.0, 0.0)
    assert (sample.ttft_mean_ms, sample.itl_mean_ms, sample.output_mean) == (None, None, None)


async def test_a_page_without_counts_makes_no_window() -> None:
    world = World(engines={"a": EnginePage(ttft=Histogram(1.0, 5))})
    collector = world.collector(engine("a"))
    await collector.round()
    for _ in range(20):
        await world.pass_tick(collector)
    assert collector.sample_of("team", ["a"]) is None


async def test_a_prometheus_that_scrapes_seldom_makes_windows_too() -> None:
    """Readings 30 s apart and 20 s old: the window is told with its age."""
    world = World(engines={"a": busy_page(0)}, age=20.0, lag_seconds=60.0)
    collector = world.collector(engine("a"))
    await collector.round()
    for reading in range(1, 4):
        world.now += 25.0
        world.engines["a"] = busy_page(60.0 * reading)
        await world.pass_tick(collector)
    sample = sample_of(collector, "a")
    assert (sample.seconds, sample.rate, sample.age_seconds) == pytest.approx((60.0, 2.0, 20.0))


async def test_a_window_is_forgotten_with_its_pod() -> None:
    world = World(engines={"a": busy_page(0)})
    collector = world.collector(engine("a"))
    await collector.round()
    await run_ticks(world, collector, {"a": 1.0}, 15)
    collector.set_targets(targets_of(engine("b")))
    assert collector.sample_of("team", ["a"]) is None
