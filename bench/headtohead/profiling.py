"""What the planners know of an engine: a profiling run in the same simulator, on seeds of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.headtohead.engines import Engine
from bench.headtohead.policies import Schedule
from bench.headtohead.simulator import Run, Setting, simulate
from bench.headtohead.traffic import Shape, make_trace

SEED = 9001  # never used in an evaluated or a tuning trace
PROBE_SECONDS, POINT_SECONDS = 120.0, 300.0
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the overloaded throughput
NO_LIMIT_MS = 1e9


def measure(engine: Engine, cache: Path) -> dict[str, Any]:
    """The table: throughput when overloaded, then latencies at shares of it under Poisson arrivals."""
    rate, overloaded = 4.0, 0.0
    while True:
        run = _run(engine, rate, PROBE_SECONDS, cache)
        if run.latencies["throughput"] < 0.6 * rate:
            overloaded = run.latencies["throughput"]
            break
        rate *= 2
    points = []
    for number, share in enumerate(SHARES):
        run = _run(engine, share * overloaded, POINT_SECONDS, cache, seed=SEED + 1 + number)
        points.append({"rate": round(share * overloaded, 4), **{k: round(v, 3) for k, v in run.latencies.items()}})
    return {"engine": engine.name, "seed": SEED, "overloadRate": round(overloaded, 4), "points": points}


def read_or_measure(engine: Engine, folder: Path, cache: Path) -> dict[str, Any]:
    """The table from the results, or measured now and written there."""
    path = folder / f"profile-{engine.name}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measure(engine, cache), indent=1) + "\n")
    table: dict[str, Any] = json.loads(path.read_text())
    return table


def concurrency_at(table: dict[str, Any], rate: float) -> float:
    """Requests in flight at a rate, by Little's law: between measured points as they lie."""
    points = [(p["rate"], p["rate"] * p["meanE2eMs"] / 1000) for p in table["points"]]
    for (low, before), (high, after) in zip([(0.0, 0.0), *points], points, strict=False):
        if rate <= high:
            return float(before + (after - before) * (rate - low) / (high - low))
    return float(points[-1][1])


def _run(engine: Engine, rate: float, seconds: float, cache: Path, seed: int = SEED) -> Run:
    setting = Setting(engine, startup_seconds=0.0, ttft_ms=NO_LIMIT_MS, itl_ms=NO_LIMIT_MS)
    trace = make_trace(Shape(((seconds, rate, rate),)), engine.lengths, seed)
    return simulate(setting, trace, Schedule(), cache)
