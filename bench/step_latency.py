"""From a step of the request rate to the decision that follows it, counted in planning intervals."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

from bench.run import Measured, Say
from bench.services import MODELS, POOLS, make_service
from bench.spread import Target, make_figure
from bench.stage import READY_SECONDS, Stage, open_stage
from bench.view import NOTHING, Object, View, is_ready, open_view
from shoal.reconciler.clock import steady

TITLE = "From a step of the request rate to the decision"
TARGET = Target(below=2.0, statistic="p95")
PLANNING_INTERVAL = 5.0
_NAMESPACE = "bench"
_LOW, _HIGH = 0.5, 2.5  # of one replica's capacity


@dataclass(frozen=True, slots=True)
class Settings:
    """`services` are stepped once each, after `settle` seconds of a constant rate, `apart` seconds apart on average."""

    services: int = 30
    settle: float = 60.0
    apart: float = 6.0


QUICK = Settings(services=1, settle=8.0, apart=1.0)


def run(settings: Settings, directory: Path, say: Say) -> Measured:
    """Measure."""
    # After the step a service needs three GPUs, or a few more where the estimate is cautious.
    nodes = -(-settings.services * 6 // 8) + 1
    with open_stage(directory, "--dra-nodes", str(nodes), "--extended-nodes", "0") as stage:
        stage.cluster.create_namespace(_NAMESPACE)
        stage.cluster.apply([pool for pool in POOLS if pool["metadata"]["name"] == "h100"])
        return asyncio.run(_measure(stage, settings, say))


async def _measure(stage: Stage, settings: Settings, say: Say) -> Measured:
    names = [f"model-{index:03}" for index in range(settings.services)]
    async with stage.cluster.client() as client, open_view(client) as view:
        operator = stage.start_operator(SHOAL_PLANNING_INTERVAL_SECONDS=str(PLANNING_INTERVAL))
        for index, name in enumerate(names):
            await client.apply(make_service(_NAMESPACE, name, MODELS[index % len(MODELS)]), manager="kubectl")
        keys = [(_NAMESPACE, name) for name in names]
        await view.until_all(
            keys, lambda key: is_ready(view.services.get(key, NOTHING)), "Ready", timeout=READY_SECONDS
        )
        rates = {name: _capacity(view.services[_NAMESPACE, name]) for name in names}
        for name in names:
            await asyncio.to_thread(stage.hollow.set_rate, f"{_NAMESPACE}/{name}", _LOW * rates[name])
        say(f"constant rate for {settings.settle:.0f} s")
        await asyncio.sleep(settings.settle)
        phases = random.Random(1)
        seconds, after_reading = [], []
        for name in names:
            seconds.append(await _step(stage, view, name, _HIGH * rates[name]))
            # Arrivals are counted at the multiples of half the interval on this clock.
            after_reading.append(steady() % (PLANNING_INTERVAL / 2))
            say(f"{len(seconds)} of {len(names)}: {seconds[-1] / PLANNING_INTERVAL:.2f} planning intervals")
            await asyncio.sleep(phases.uniform(0, 2 * settings.apart))
        operator.usage()
    return Measured(
        figures=(
            make_figure("step to decision", "planning intervals", [s / PLANNING_INTERVAL for s in seconds], TARGET),
            make_figure("step to decision", "s", seconds),
            make_figure("of it, after the reading that decides", "s", after_reading),
        ),
        setting={
            "services": settings.services,
            "planning interval": f"{PLANNING_INTERVAL:g} s",
            "step": f"Poisson arrivals from {_LOW:g} to {_HIGH:g} times one replica's capacity",
        },
        notes=("from the step to status.plan with more replicas, as another client sees it",),
    )


async def _step(stage: Stage, view: View, name: str, rate: float) -> float:
    """Step one service; return the seconds until its plan has more replicas."""
    key = (_NAMESPACE, name)
    before = _replicas(view.services[key])
    began = await asyncio.to_thread(stage.hollow.set_rate, f"{_NAMESPACE}/{name}", rate)
    seen = await view.until(lambda: _replicas(view.services[key]) > before, f"{name} grows", timeout=READY_SECONDS)
    return seen - began


def _capacity(service: Object) -> float:
    """Requests per second that one replica of the present plan carries."""
    return float(service["status"]["plan"]["variants"][0]["capacityPerReplica"])


def _replicas(service: Object) -> int:
    """Replicas of the present plan."""
    return sum(int(variant["replicas"]) for variant in service["status"]["plan"]["variants"])
