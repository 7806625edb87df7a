"""From `kubectl apply` of a ModelService to the existence of its Deployment, one service after the other."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path

from bench.run import Measured, Say
from bench.services import MODELS, POOLS, make_service
from bench.spread import Target, make_figure
from bench.stage import READY_SECONDS, Stage, open_stage
from bench.view import NOTHING, View, is_ready, open_view
from e2e.devcluster import ApiClient

TITLE = "From apply to the existence of the Deployment, on an idle operator"
TARGET = Target(below=1.0, statistic="median")
_NAMESPACE = "bench"


@dataclass(frozen=True, slots=True)
class Settings:
    """`services` are applied, pauses of up to `longest_pause` seconds between, to meet all phases of an interval."""

    services: int = 40
    longest_pause: float = 6.0


QUICK = Settings(services=2, longest_pause=0.5)


def run(settings: Settings, directory: Path, say: Say) -> Measured:
    """Measure."""
    nodes = -(-settings.services // 8) + 1
    with open_stage(directory, "--dra-nodes", str(nodes), "--extended-nodes", "1") as stage:
        stage.cluster.create_namespace(_NAMESPACE)
        stage.cluster.apply(list(POOLS))
        return asyncio.run(_measure(stage, settings, say))


async def _measure(stage: Stage, settings: Settings, say: Say) -> Measured:
    async with stage.cluster.client() as client, open_view(client) as view:
        stage.start_operator()
        # The first one waits for the operator's start, hence does not count.
        await _apply(client, view, "warm-up", MODELS[0])
        await asyncio.sleep(settings.longest_pause)
        phases = random.Random(1)
        seconds = []
        for index in range(settings.services):
            seconds.append(await _apply(client, view, f"model-{index:03}", MODELS[index % len(MODELS)]))
            say(f"{index + 1} of {settings.services}: {seconds[-1] * 1000:.0f} ms")
            await asyncio.sleep(phases.uniform(0, settings.longest_pause))
    return Measured(
        figures=(make_figure("apply to Deployment", "s", seconds, TARGET),),
        setting={"services": settings.services, "pools": "one by DRA, one by extended resource"},
        notes=(
            "from before the request (server-side apply) to the Deployment's ADDED event at another client",
            "earlier services stay; each is Ready before the next is applied",
        ),
    )


async def _apply(client: ApiClient, view: View, name: str, model: str) -> float:
    """Apply one service; return the seconds until its Deployment was seen, once the service is Ready."""
    key = (_NAMESPACE, name)
    began = time.monotonic()
    await client.apply(make_service(*key, model), manager="kubectl")
    await view.until(lambda: key in view.deployed_at, f"the Deployment of {name}", timeout=READY_SECONDS)
    seconds = view.deployed_at[key] - began
    await view.until(lambda: is_ready(view.services.get(key, NOTHING)), f"{name} Ready", timeout=READY_SECONDS)
    return seconds
