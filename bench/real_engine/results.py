"""What `measure.py` found, as points of the profiler: what it did not record is left empty, so no step times follow."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.real_engine.measure import MODELS, POINT_SECONDS, WARM_UP_SECONDS
from shoal.domain.profile import Link
from shoal.profiler.measured import Measured, Shape, Subject
from shoal.profiler.points import Point, Statistic
from shoal.profiler.specs import Kind, Objective, Settings, Spec

RESULTS: Final = Path(__file__).parent / "results"
ENGINE_VERSION: Final = "0.26.0"
LENGTHS: Final = "gamma:512,128"
LONGEST: Final = 2000
CORES: Final = 16
OVERLOAD_SECONDS, OVERLOAD_WARM_UP = 14.0, 8.0
TOOL: Final = "bench.real_engine.measure 0.1.0"
UNKNOWN: Final = (math.nan, math.nan)


def read_runs() -> Iterator[tuple[Subject, Measured]]:
    """Every model of every file, in the order of the files."""
    for path in sorted(RESULTS.glob("*.json")):
        results = json.loads(path.read_text())
        for model, entry in results["models"].items():
            accelerator = results["device"]["name"].replace(" ", "-")
            # Two GPUs were never joined; the sessions' machines had NVLink, and one profile has one link.
            subject = Subject(model, accelerator, ENGINE_VERSION, link=Link.NVLINK)
            yield subject, _make_measured(model, entry, results)


def _make_measured(model: str, entry: dict[str, Any], results: dict[str, Any]) -> Measured:
    tokens = float(_cache_tokens(entry["page"]["cacheConfig"][0]))
    offered = next(known.overload for known in MODELS.values() if known.name == model)
    points = [
        _make_point("overload", entry["overload"] | {"rate": offered}, OVERLOAD_WARM_UP, OVERLOAD_SECONDS, results),
        *(
            _make_point("search", point, WARM_UP_SECONDS, POINT_SECONDS - WARM_UP_SECONDS, results)
            for point in entry["points"]
        ),
    ]
    settings = Settings(
        LENGTHS, Objective(), longest=LONGEST, horizon=POINT_SECONDS - WARM_UP_SECONDS, warm_up=WARM_UP_SECONDS
    )
    facts = {
        "gpu": {"name": results["device"]["name"], "driver": results["device"]["driver"]},
        "kvCacheTokens": tokens,
        "engineVersion": ENGINE_VERSION,
        "arguments": [["-m", *entry["arguments"]]],
        "cores": CORES,
        "tool": TOOL,
        "link": str(Link.NONE),
    }
    return Measured(Shape(kv_cache_tokens=tokens), settings, tuple(points), True, facts)


def _make_point(name: str, given: dict[str, Any], warm_up: float, seconds: float, results: dict[str, Any]) -> Point:
    window = (given["began"] + warm_up + 1, given["began"] + warm_up + seconds + 1)  # clients start within a second
    samples = [sample for sample in results["gpu"] if window[0] <= sample["at"] <= window[1]]
    finished, outputs = given["finishedPerSecond"], given["outputMean"]
    return Point(
        spec=Spec(name, Kind.OPEN, seconds, warm_up, 0, LENGTHS, rate=float(f"{given['rate']:.6g}")),
        began=given["began"],
        took=given["ended"] - given["began"],
        planned=given["sent"],
        answered=given["answered"],
        failed=0,
        under_way=given["sent"] - given["answered"],
        finished_rate=finished,
        output_rate=finished * outputs,
        prompt_rate=finished * given["inputMean"],
        late_first=0,
        late_gap=0,
        gap_ms=None,
        decoding=None,
        context=given["inputMean"] + outputs / 2,
        output_mean=outputs,
        growth=1 - finished / given["rate"],
        prompt_quantiles=(),
        ttft=_statistic(given["ttftMs"]),
        itl=_statistic(given["itlMs"]),
        e2e=None,
        client_processes=given["client"]["processes"],
        client_cpu=given["client"]["cpuPerProcess"],
        send_lag_p99_ms=given["client"]["sendLagP99Ms"],
        gpu={
            "watts": statistics.mean(sample["watts"] for sample in samples),
            "clock_mhz": statistics.median(sample["clockMHz"] for sample in samples),
        }
        if samples
        else {},
    )


def _statistic(given: dict[str, float]) -> Statistic:
    return Statistic(given["mean"], given["p50"], given["p90"], given["p95"], given["p99"], UNKNOWN, UNKNOWN, UNKNOWN)


def _cache_tokens(line: str) -> int:
    found = re.search(r'kv_cache_size_tokens="(\d+)"', line)
    assert found is not None
    return int(found[1])
