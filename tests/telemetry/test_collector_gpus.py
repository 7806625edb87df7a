"""Clocks of GPUs, as the collector keeps them: only those under load count."""

from __future__ import annotations

from dataclasses import replace

from collector_world import World

from shoal.telemetry.gpu import GpuReading
from shoal.telemetry.targets import AgentTarget

GPU = GpuReading("GPU-1", 0, clock_mhz=1980, busy=0.9)


async def test_a_clock_counts_only_under_load() -> None:
    world = World(gpus={"n": (replace(GPU, clock_mhz=345, busy=0.0, throttle_reasons=("GpuIdle",)),)})
    collector = world.collector(AgentTarget("n", "127.0.0.1"))
    await collector.round()
    assert collector.gpus_of("n")[0].clock_under_load_mhz is None
    world.gpus["n"] = (GPU,)
    await world.pass_tick(collector)
    assert collector.gpus_of("n")[0].clock_under_load_mhz == 1980


async def test_a_slow_gpu_that_lost_its_traffic_stays_slow_for_a_while() -> None:
    """Otherwise it would get its traffic back, be found slow, lose it again, and so on."""
    world = World(gpus={"n": (replace(GPU, clock_mhz=1200),)})
    collector = world.collector(AgentTarget("n", "127.0.0.1"))
    await collector.round()
    world.gpus["n"] = (replace(GPU, clock_mhz=300, busy=0.1),)
    await world.pass_tick(collector)
    world.now += 590
    await collector.round()
    assert collector.gpus_of("n")[0].clock_under_load_mhz == 1200
    world.now += 20
    await collector.round()
    assert collector.gpus_of("n")[0].clock_under_load_mhz is None


async def test_a_gpu_whose_fault_stands_is_not_forgiven() -> None:
    world = World(gpus={"n": (replace(GPU, clock_mhz=1200),)})
    collector = world.collector(AgentTarget("n", "127.0.0.1"))
    await collector.round()
    world.gpus["n"] = (replace(GPU, clock_mhz=300, busy=0.0, throttle_reasons=("GpuIdle", "HwThermalSlowdown")),)
    for _ in range(200):
        await world.pass_tick(collector)
    assert collector.gpus_of("n")[0].clock_under_load_mhz == 1200


async def test_one_odd_clock_moves_nothing() -> None:
    world = World()
    collector = world.collector(AgentTarget("n", "127.0.0.1"))
    seen = []
    for clock in (1980, 1980, 700, 1980, 1300, 1300):
        world.gpus["n"] = (replace(GPU, clock_mhz=clock),)
        await world.pass_tick(collector)
        seen.append(collector.gpus_of("n")[0].clock_under_load_mhz)
    assert seen == [1980, 1980, 1980, 1980, 1300, 1300]


async def test_a_busy_share_that_cannot_be_read_leaves_the_reasons() -> None:
    world = World(gpus={"n": (replace(GPU, busy=None),)})
    collector = world.collector(AgentTarget("n", "127.0.0.1"))
    await collector.round()
    assert collector.gpus_of("n")[0].clock_under_load_mhz is None
    world.gpus["n"] = (replace(GPU, busy=None, throttle_reasons=("SwPowerCap",)),)
    await world.pass_tick(collector)
    assert collector.gpus_of("n")[0].clock_under_load_mhz == 1980


async def test_readings_that_stop_become_unknown() -> None:
    world = World(gpus={"n": (GPU,)})
    collector = world.collector(AgentTarget("n", "127.0.0.1"))
    await collector.round()
    world.gpus.clear()
    world.now += 31
    await collector.round()
    assert collector.gpus_of("n") == ()
    assert collector.gpus_of("another") == ()
