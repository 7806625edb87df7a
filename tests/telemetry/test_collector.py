"""What the collector concludes from answers and silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from collector_world import CHAT, TICK, World, counters, engine, page, router, targets_of

from shoal.domain.service import Load, ServiceKey, Tick
from shoal.telemetry.collector import Collector
from shoal.telemetry.engine_page import EnginePage, Histogram
from shoal.telemetry.sources import EngineReading
from shoal.telemetry.targets import EngineTarget


async def test_nothing_is_known_at_first() -> None:
    """A restart of the operator knows nothing of the traffic: no ticks, which is not zero traffic."""
    world = World(engines={"a": page(finished=10_000)})
    collector = world.collector(engine("a"))
    assert collector.load_of(CHAT) == Load(tick_seconds=TICK, lengths_requests=0)
    await collector.round()
    load = collector.load_of(CHAT)
    assert (load.ticks, load.fresh_fraction) == ((), 1.0)
    assert collector.load_of(ServiceKey("team", "unknown")) == Load(tick_seconds=TICK)


async def test_arrivals_of_engines_are_what_ended_and_what_they_have_more() -> None:
    world = World(engines={"a": page(finished=10, running=2)})
    collector = world.collector(engine("a"))
    await collector.round()
    world.engines["a"] = page(finished=14, running=5, waiting=3)
    await world.pass_tick(collector)
    world.engines["a"] = page(finished=20, running=2)
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ticks == (Tick(10), Tick(0))


async def test_a_restarted_engine_is_no_negative_traffic() -> None:
    world = World(engines={"a": page(finished=1000, running=50)})
    collector = world.collector(engine("a"))
    await collector.round()
    world.engines["a"] = page(finished=2, running=1)
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ticks == (Tick(3),)


async def test_a_pod_that_is_gone_takes_nothing_away() -> None:
    world = World(engines={"a": page(finished=10, running=9), "b": page(finished=10)})
    collector = world.collector(engine("a"), engine("b"))
    await collector.round()
    world.engines = {"b": page(finished=12)}
    collector.set_targets(targets_of(engine("b")))
    await world.pass_tick(collector)
    load = collector.load_of(CHAT)
    assert (load.ticks, load.fresh_fraction) == ((Tick(2),), 1.0)
    assert collector.queue_seconds("team", "a") is None


async def test_the_routers_count_wins_where_the_service_is_routed() -> None:
    world = World(engines={"a": page()}, routers={"r": {"chat": counters(5)}})
    collector = world.collector(engine("a"), router("r"), routed=True)
    await collector.round()
    world.engines["a"] = page(finished=100)
    world.routers["r"] = {"chat": counters(12)}
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ticks == (Tick(7),)


async def test_routers_are_asked_for_arrivals_more_often_than_engines_for_all_else() -> None:
    world = World(engines={"a": page(finished=0)}, routers={"r": {"chat": counters(0)}})
    collector = Collector(world, tick_seconds=TICK, counts_per_tick=2, clock=lambda: world.now)
    collector.set_targets(targets_of(engine("a"), router("r"), routed=True))
    counted: list[tuple[Tick, float] | None] = []
    collector.on_count(lambda: counted.append(collector.last_tick(CHAT)))
    await collector.round()
    for sent, work in ((3, collector.count), (7, collector.round), (12, collector.count)):
        world.now += TICK / 2
        world.routers["r"] = {"chat": counters(sent)}
        await work()
    load = collector.load_of(CHAT)
    assert (load.ticks, load.tick_seconds, load.ticks_to_settle) == ((Tick(3), Tick(4), Tick(5)), TICK / 2, 2)
    assert counted == [(Tick(3), TICK / 2), (Tick(5), TICK / 2)]


async def test_what_engines_count_is_counted_once_in_a_round() -> None:
    world = World(engines={"a": page(finished=0)}, routers={"r": {"chat": counters(0)}})
    collector = Collector(world, tick_seconds=TICK, counts_per_tick=2, clock=lambda: world.now)
    collector.set_targets(targets_of(engine("a"), router("r")))
    await collector.round()
    world.engines["a"] = page(finished=9)
    world.now += TICK / 2
    await collector.count()
    world.now += TICK / 2
    await collector.round()
    load = collector.load_of(CHAT)
    assert (load.ticks, load.tick_seconds, load.ticks_to_settle) == ((Tick(9),), TICK, 1)
    assert collector.last_tick(ServiceKey("team", "unknown")) is None


async def test_one_router_that_is_missing_makes_the_tick_incomplete() -> None:
    world = World(engines={"a": page()}, routers={r: {"chat": counters(0)} for r in ("r1", "r2")})
    collector = world.collector(engine("a"), router("r1"), router("r2"), routed=True)
    await collector.round()
    for sent in (1, 2, 3):
        world.routers = {"r1": {"chat": counters(sent)}}
        await world.pass_tick(collector)
    load = collector.load_of(CHAT)
    assert load.ticks == (Tick(1, complete=False),) * 3
    assert load.fresh_fraction == 0.5
    assert collector.silent_of(CHAT) == ("r2",)

    world.routers["r2"] = {"chat": counters(8)}
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ticks == (Tick(3), Tick(3), Tick(3), Tick(2))


async def test_a_router_that_does_not_know_the_service_yet_counts_for_nothing() -> None:
    world = World(routers={"r": {"other": counters(3)}})
    collector = world.collector(router("r"), routed=True)
    await collector.round()
    assert collector.load_of(CHAT).ticks == ()
    assert collector.outcomes_of(CHAT) is None


async def test_a_router_that_starts_is_no_gap() -> None:
    world = World(routers={"r1": {"chat": counters(0)}})
    collector = world.collector(router("r1"), router("r2", ready=False), routed=True)
    await collector.round()
    for sent in (1, 2, 3):
        world.routers["r1"] = {"chat": counters(sent)}
        await world.pass_tick(collector)
    load = collector.load_of(CHAT)
    assert (load.ticks, load.fresh_fraction) == ((Tick(1),) * 3, 1.0)


async def test_a_restarted_router_is_no_negative_traffic() -> None:
    world = World(routers={"r": {"chat": counters(500, failed=3)}})
    collector = world.collector(router("r"), routed=True)
    await collector.round()
    world.routers["r"] = {"chat": counters(4)}
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ticks == (Tick(4),)


async def test_outcomes_are_those_of_the_last_minute() -> None:
    world = World(routers={"r": {"chat": counters(0)}})
    collector = world.collector(router("r"), routed=True)
    await collector.round()
    world.routers["r"] = {"chat": counters(10, failed=2, refused=1)}
    await world.pass_tick(collector)
    assert collector.outcomes_of(CHAT) == counters(10, failed=2, refused=1)
    world.now += 60
    await world.pass_tick(collector)
    outcomes = collector.outcomes_of(CHAT)
    assert outcomes is not None
    assert outcomes.failed == 0


async def test_a_queue_is_measured_in_seconds() -> None:
    world = World(engines={"a": page()})
    collector = world.collector(engine("a"))
    await collector.round()
    world.engines["a"] = page(finished=50, running=8, waiting=20)
    await world.pass_tick(collector)
    assert collector.queue_seconds("team", "a") == 0.0, "what waits in one reading only is a burst"
    world.engines["a"] = page(finished=100, running=8, waiting=30)
    await world.pass_tick(collector)
    assert collector.queue_seconds("team", "a") == pytest.approx(20 / (100 / 10))
    world.engines["a"] = page(finished=150, running=8)
    await world.pass_tick(collector)
    assert collector.queue_seconds("team", "a") == 0.0


async def test_a_queue_that_does_not_move_grows_with_time() -> None:
    world = World(engines={"a": page(waiting=4)})
    collector = world.collector(engine("a"))
    await collector.round()
    waits = []
    for _ in range(20):
        await world.pass_tick(collector)
        waits.append(collector.queue_seconds("team", "a"))
    assert waits[:3] == [20, 40, 60]
    assert waits[-1] == 240


async def test_a_pod_waits_as_long_as_its_longest_queue() -> None:
    world = World(engines={"a": page(waiting=4, running=1)})
    collector = world.collector(engine("a", 0), engine("a", 1))
    await collector.round()
    await world.pass_tick(collector)
    queue = collector.queue_of("team", "a")
    assert queue is not None
    assert (queue.running, queue.waiting, queue.queue_seconds) == (2, 8, 20)
    world.engines["a"] = EnginePage(running=1)
    await world.pass_tick(collector)
    assert collector.queue_of("team", "a") is None


def seconds(total: float, count: float) -> Histogram:
    return Histogram(total, count)


async def test_live_latencies_are_the_means_of_the_last_minute() -> None:
    world = World(engines={"a": page(ttft=seconds(100, 10), itl=seconds(9, 9))})
    collector = world.collector(engine("a"))
    await collector.round()
    assert collector.load_of(CHAT).ttft_mean_ms is None
    world.engines["a"] = page(ttft=seconds(103, 20), itl=seconds(9.4, 19))
    await world.pass_tick(collector)
    load = collector.load_of(CHAT)
    assert load.ttft_mean_ms == pytest.approx(300)
    assert load.itl_mean_ms == pytest.approx(40)
    world.now += 60
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ttft_mean_ms is None


def tokens(values: list[float]) -> Histogram:
    edges = (10.0, 100.0, 1000.0, float("inf"))
    return Histogram(sum(values), len(values), {edge: float(sum(v <= edge for v in values)) for edge in edges})


async def test_lengths_are_those_of_recent_requests() -> None:
    world = World(engines={"a": page(input=tokens([]), output=tokens([]))})
    collector = world.collector(engine("a"))
    await collector.round()
    inputs, outputs = [50.0] * 90 + [500.0] * 10, [5.0] * 100
    world.engines["a"] = page(input=tokens(inputs), output=tokens(outputs))
    await world.pass_tick(collector)
    mix = collector.load_of(CHAT).lengths
    assert mix is not None
    assert (mix.input_mean, mix.output_mean) == pytest.approx((95, 5))
    assert (mix.input_p95, mix.output_p95) == pytest.approx((550, 9.5))  # in the middle of its bucket

    world.now += 1800
    later = [900.0] * 100
    world.engines["a"] = page(input=tokens(inputs + later), output=tokens(outputs + later))
    await world.pass_tick(collector)
    mix = collector.load_of(CHAT).lengths
    assert mix is not None
    assert mix.input_mean == pytest.approx(900, rel=0.01)


async def test_a_few_requests_are_no_length_mix() -> None:
    world = World(engines={"a": page(input=tokens([]), output=tokens([]))})
    collector = world.collector(engine("a"))
    await collector.round()
    world.engines["a"] = page(input=tokens([9.0] * 19), output=tokens([9.0] * 19))
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).lengths is None
    world.engines["a"] = page(input=tokens([9.0] * 21), output=tokens([9.0] * 21))
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).lengths is not None
    assert collector.load_of(CHAT).lengths_requests == pytest.approx(21, rel=0.05)


async def test_services_are_told_apart() -> None:
    other = ServiceKey("another-team", "chat")
    world = World(engines={"a": page(), "b": page()})
    collector = world.collector(engine("a"), engine("b", service=other))
    await collector.round()
    world.engines = {"a": page(finished=1), "b": page(finished=9)}
    await world.pass_tick(collector)
    assert collector.load_of(CHAT).ticks == (Tick(1),)
    assert collector.load_of(other).ticks == (Tick(9),)
    assert collector.services == (other, CHAT)


async def test_a_change_of_routing_starts_the_ticks_anew() -> None:
    world = World(engines={"a": page()}, routers={"r": {"chat": counters(0)}})
    collector = world.collector(engine("a"), router("r"))
    for _ in range(3):
        await world.pass_tick(collector)
    assert len(collector.load_of(CHAT).ticks) == 2
    collector.set_targets(targets_of(engine("a"), router("r"), routed=True))
    assert collector.load_of(CHAT).ticks == ()


async def test_targets_that_change_while_they_are_read_do_no_harm() -> None:
    world = World(engines={"a": page(), "b": page()}, routers={"r": {"chat": counters(1)}})
    collector = world.collector(engine("a"), engine("b"), router("r"), routed=True)
    read = world.read_engines

    async def read_and_change(targets: Sequence[EngineTarget]) -> Mapping[EngineTarget, EngineReading]:
        collector.set_targets(targets_of(engine("b")))
        return await read(targets)

    world.read_engines = read_and_change  # type: ignore[method-assign]
    await collector.round()
    assert collector.queue_seconds("team", "a") is None
    assert collector.queue_seconds("team", "b") == 0.0


async def test_callbacks_come_after_each_round() -> None:
    world = World(engines={"a": page()})
    collector = world.collector(engine("a"))
    seen: list[float] = []
    collector.on_round(lambda: seen.append(collector.load_of(CHAT).fresh_fraction))
    await collector.round()
    assert seen == [1.0]
