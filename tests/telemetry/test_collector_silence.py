"""What the collector makes of silence: no answer is never zero."""

from __future__ import annotations

from collector_world import CHAT, TICK, World, engine, page, targets_of

from shoal.domain.service import Tick
from shoal.telemetry.engine_page import EnginePage


async def test_k_of_n_pods_silent_is_a_fraction_and_named() -> None:
    world = World(engines={pod: page() for pod in "abcd"})
    collector = world.collector(*(engine(pod) for pod in "abcd"))
    await collector.round()
    del world.engines["d"]
    for finished in (1, 2, 3):
        world.engines.update({pod: page(finished=finished) for pod in "abc"})
        await world.pass_tick(collector)
    load = collector.load_of(CHAT)
    assert load.fresh_fraction == 0.75
    assert load.ticks == (Tick(3, complete=False),) * 3
    assert collector.silent_of(CHAT) == ("d",)


async def test_when_nobody_answers_the_ticks_end() -> None:
    world = World(engines={"a": page()})
    collector = world.collector(engine("a"))
    await collector.round()
    world.engines["a"] = page(finished=5)
    await world.pass_tick(collector)
    world.engines.clear()
    for _ in range(4):
        await world.pass_tick(collector)
    load = collector.load_of(CHAT)
    assert (load.ticks, load.fresh_fraction) == ((Tick(5),), 0.0)
    world.engines["a"] = page(finished=30)
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ticks == (Tick(5),) * 6


async def test_a_pod_that_has_just_become_ready_is_no_outage() -> None:
    world = World(engines={"a": page()})
    collector = world.collector(engine("a"))
    await collector.round()
    collector.set_targets(targets_of(engine("a"), engine("b")))
    assert collector.load_of(CHAT).fresh_fraction == 1.0
    for _ in range(3):
        await world.pass_tick(collector)
    assert collector.load_of(CHAT).fresh_fraction == 0.5


async def test_a_silent_pod_that_is_not_ready_is_no_outage() -> None:
    world = World(engines={"a": page()})
    collector = world.collector(engine("a"), engine("b", ready=False))
    for _ in range(4):
        await world.pass_tick(collector)
    load = collector.load_of(CHAT)
    assert load.fresh_fraction == 1.0
    assert all(tick.complete for tick in load.ticks)


async def test_a_number_that_is_missing_once_loses_nothing() -> None:
    world = World(engines={"a": page()})
    collector = world.collector(engine("a"))
    await collector.round()
    world.engines["a"] = EnginePage(running=5, waiting=0)
    await world.pass_tick(collector)
    world.engines["a"] = page(finished=8)
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ticks == (Tick(4), Tick(4))


async def test_numbers_that_do_not_change_in_time_are_stale() -> None:
    world = World(engines={"a": page()})
    collector = world.collector(engine("a"))
    await collector.round()
    for _ in range(3):
        world.age += TICK  # the same old numbers again
        await world.pass_tick(collector)
    load = collector.load_of(CHAT)
    assert (load.ticks, load.fresh_fraction) == ((), 0.0)


async def test_numbers_may_lag_as_much_as_their_source_says() -> None:
    world = World(engines={"a": page()}, lag_seconds=30)
    collector = world.collector(engine("a"))
    await collector.round()
    world.now += 35
    assert collector.load_of(CHAT).fresh_fraction == 1.0
    world.now += 10
    assert collector.load_of(CHAT).fresh_fraction == 0.0


async def test_a_source_that_is_down_is_a_problem_and_not_zero() -> None:
    world = World(engines={"a": page()})
    collector = world.collector(engine("a"))
    await collector.round()
    world.error = "Prometheus did not answer"
    for _ in range(3):
        await world.pass_tick(collector)
    assert collector.problem == "Prometheus did not answer"
    load = collector.load_of(CHAT)
    assert (load.ticks, load.fresh_fraction) == ((), 0.0)
    world.error = None
    await world.pass_tick(collector)
    assert collector.problem is None
    assert collector.load_of(CHAT).fresh_fraction == 1.0
