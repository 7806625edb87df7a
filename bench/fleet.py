"""200 ModelServices: how long a cold start takes, and what the operator costs while nothing happens."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench.audit import Write, count_kinds, read_writes
from bench.processes import Usage, compute_cpu_share
from bench.run import Measured, Say
from bench.services import POOLS, make_fleet
from bench.spread import Figure, Target, make_figure
from bench.stage import Operator, Stage, open_stage
from bench.view import Key, Object, View, is_observed, is_ready, is_settled, open_view

TITLE = "A fleet of ModelServices: cold start, then steady state"
COLD_START = Target(below=30.0, statistic="max")
CPU = Target(below=10.0, statistic="median")
MEMORY = Target(below=250.0, statistic="max")
STATUS_WRITES = Target(below=1.0, statistic="max")
STATUS = "modelservices/status"

_START_SECONDS = 300.0
_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Settings:
    """`starts` cold starts, each in a fresh cluster; the last one goes on to the steady state.

    `rate` is in requests per second of each service, the rest in seconds: `calm` passes between the last service's
    Ready and the `steady` seconds that are measured, in windows of `window`.
    """

    services: int = 200
    namespaces: int = 10
    starts: int = 3
    rate: float = 2.0
    calm: float = 60.0
    steady: float = 300.0
    window: float = 10.0


QUICK = Settings(services=4, namespaces=2, starts=1, calm=1.0, steady=6.0, window=3.0)


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the operator's start until every service was that far; `peak`: its largest resident memory, MB."""

    deployed: float
    observed: float
    settled: float
    ready: float
    cpu_seconds: float
    peak: float


@dataclass(slots=True)
class Steady:
    """One entry per window: share of a core in percent, resident MB. Instants are seconds since the epoch."""

    began: float
    cpu: list[float] = field(default_factory=list)
    hollow_cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)


def run(settings: Settings, directory: Path, say: Say) -> Measured:
    """Measure."""
    starts: list[Start] = []
    for number in range(1, settings.starts):
        say(f"cold start {number} of {settings.starts}")
        with _open(settings, directory / f"start-{number}") as stage:
            starts.append(asyncio.run(_start_only(stage, settings, say)))
    say(f"cold start {settings.starts} of {settings.starts}")
    with _open(settings, directory / f"start-{settings.starts}") as stage:
        start, steady = asyncio.run(_start_and_stay(stage, settings, say))
    return Measured(
        figures=(*_start_figures([*starts, start]), *_steady_figures(steady, settings)),
        setting={
            "services": settings.services,
            "namespaces": settings.namespaces,
            "cold starts": settings.starts,
            "steady state": f"{settings.steady:.0f} s in windows of {settings.window:.0f} s",
            "traffic": f"Poisson, {settings.rate:g} requests/s for each service",
        },
        notes=_make_notes(steady),
    )


def _open(settings: Settings, directory: Path) -> AbstractContextManager[Stage]:
    """Hollow nodes with three GPUs for every two services, half of them by DRA."""
    nodes = str(-(-settings.services * 3 // 4 // 8) + 1)
    return open_stage(directory, "--dra-nodes", nodes, "--extended-nodes", nodes, "--rate", str(settings.rate))


async def _start_only(stage: Stage, settings: Settings, say: Say) -> Start:
    async with stage.cluster.client() as client, open_view(client) as view:
        start, _ = await _start(stage, view, settings, say)
        return start


async def _start_and_stay(stage: Stage, settings: Settings, say: Say) -> tuple[Start, Steady]:
    async with stage.cluster.client() as client, open_view(client) as view:
        start, operator = await _start(stage, view, settings, say)
        say(f"calm for {settings.calm:.0f} s")
        await asyncio.sleep(settings.calm)
        return start, await _stay(stage, operator, settings, say)


async def _start(stage: Stage, view: View, settings: Settings, say: Say) -> tuple[Start, Operator]:
    """Start the operator in a cluster where all services have been applied long before."""
    fleet = make_fleet(settings.services, settings.namespaces)
    await asyncio.to_thread(_apply, stage, fleet, settings.namespaces)
    keys: list[Key] = [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in fleet]
    await view.until(lambda: len(view.services) >= len(keys), "all services to be there", timeout=_START_SECONDS)
    operator = stage.start_operator()
    began = operator.started_at

    async def reach(name: str, holds: Callable[[Key], bool]) -> float:
        seen = await view.until_all(keys, holds, name, timeout=_START_SECONDS)
        say(f"all {len(keys)} {name} after {seen - began:.1f} s")
        return seen - began

    deployed, observed, settled, ready = await asyncio.gather(
        reach("deployed", lambda key: key in view.deployed_at),
        reach("observed", lambda key: is_observed(view.services[key])),
        reach("settled", lambda key: is_settled(view.services[key])),
        reach("ready", lambda key: is_ready(view.services[key])),
    )
    usage = operator.usage()
    return Start(deployed, observed, settled, ready, usage.cpu_seconds, usage.peak_bytes / _MEGABYTE), operator


def _apply(stage: Stage, fleet: list[Object], namespaces: int) -> None:
    for index in range(namespaces):
        stage.cluster.create_namespace(f"bench-{index}")
    stage.cluster.apply([*POOLS, *fleet])


async def _stay(stage: Stage, operator: Operator, settings: Settings, say: Say) -> Steady:
    """Watch the operator do nothing in particular."""
    steady = Steady(began=time.time())
    end = time.monotonic() + settings.steady
    before, hollow_before = operator.usage(), stage.hollow.usage()
    while time.monotonic() < end:
        await asyncio.sleep(settings.window)
        now, hollow_now = operator.usage(), stage.hollow.usage()
        steady.cpu.append(_percent(before, now))
        steady.hollow_cpu.append(_percent(hollow_before, hollow_now))
        steady.memory.append(now.resident_bytes / _MEGABYTE)
        before, hollow_before = now, hollow_now
        say(f"{end - time.monotonic():.0f} s left: {steady.cpu[-1]:.1f} % of a core, {steady.memory[-1]:.0f} MB")
    steady.writes = read_writes(
        stage.cluster.audit_log, user=stage.operator_user, since=steady.began, until=time.time()
    )
    return steady


def _percent(before: Usage, after: Usage) -> float:
    return 100 * compute_cpu_share(before, after)


def _start_figures(starts: Sequence[Start]) -> list[Figure]:
    return [
        make_figure("cold start: every Deployment exists", "s", [start.deployed for start in starts]),
        make_figure("cold start: every status is about the spec", "s", [start.observed for start in starts]),
        make_figure("cold start: all reconciled", "s", [start.settled for start in starts], COLD_START),
        make_figure("cold start: all Ready", "s", [start.ready for start in starts]),
        make_figure("cold start: CPU of the operator", "s", [start.cpu_seconds for start in starts]),
        make_figure("cold start: peak memory of the operator", "MB", [start.peak for start in starts]),
    ]


def _steady_figures(steady: Steady, settings: Settings) -> list[Figure]:
    minutes = max(1, int(settings.steady // 60))
    every_minute = count_by_minute(steady.writes, steady.began, minutes)
    services = Counter((w.namespace, w.name) for w in steady.writes if w.resource == STATUS)
    quiet = [0] * (settings.services - len(services))
    return [
        make_figure("steady state: CPU of the operator", "% of a core", steady.cpu, CPU),
        make_figure("steady state: memory of the operator", "MB", steady.memory, MEMORY),
        make_figure(
            "steady state: status writes per service and minute",
            "1/min",
            [count / settings.services for count in every_minute],
            STATUS_WRITES,
        ),
        make_figure(
            "steady state: status writes of one service",
            "1/min",
            [count * 60 / settings.steady for count in (*services.values(), *quiet)],
        ),
    ]


def count_by_minute(writes: Sequence[Write], began: float, minutes: int) -> list[int]:
    """Status writes in each of the first `minutes` minutes after `began`."""
    counts = Counter(int((write.at - began) // 60) for write in writes if write.resource == STATUS)
    return [counts[minute] for minute in range(minutes)]


def _make_notes(steady: Steady) -> tuple[str, ...]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in count_kinds(steady.writes).most_common()) or "none"
    hollow = sum(steady.hollow_cpu) / len(steady.hollow_cpu)
    return (
        f"all writes of the operator in the steady state (leases and events left out): {kinds}",
        f"the hollow nodes, a process of their own, took {hollow:.1f} % of a core beside it",
        "reconciled: status about the spec, Ready known, nothing under way, Deployment exists",
    )
