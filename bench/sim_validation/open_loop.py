"""The engine against a real vLLM server under open-loop load over HTTP (bench/real_engine/results).

A point has 20 seconds of one run, so it has noise of its own. The server's step times are not known: they are fitted
here to some of the figures (`FITS`); the others, and every TTFT, are predicted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.sim_validation.spread import summarise
from shoal.domain.profile import LengthMix, StepModel
from shoal.planner.catalog import model_facts
from shoal.sim.engine import EngineLimits
from shoal.sim.measure import measure_overload, measure_point

RESULTS = Path(__file__).parent.parent / "real_engine" / "results"
SEATS, CHUNK, LONGEST = 256, 2048, 2048
KV_BANDWIDTH = 3.35e12 * 0.6  # bytes per second that reading the KV cache reaches: datasheet and usual efficiency
WINDOW_SECONDS, FIT_SECONDS = 60.0, 25.0  # of load, for what is told and in each try of a fit
OVERLOAD_REQUESTS = 1000
GUESS = StepModel(3.0, 0.02, 0.0, 8.0, 12.0, 12_000.0)


@dataclass(frozen=True, slots=True)
class Sight:
    """What a fit may see: gaps at these shares of the overloaded throughput, and perhaps that throughput."""

    name: str
    shares: tuple[float, ...]
    overload: bool


FITS = (
    Sight("gaps at 0.2, 0.5, 0.85", (0.2, 0.5, 0.85), overload=False),
    Sight("gaps at 0.2, 0.7 and the overloaded throughput", (0.2, 0.7), overload=True),
)


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one rate; `share` of the overloaded throughput. Milliseconds."""

    share: float
    rate: float
    lengths: LengthMix
    itl: dict[str, float]
    ttft: dict[str, float]


@dataclass(frozen=True, slots=True)
class Server:
    """One model's measurements."""

    model: str
    limits: EngineLimits
    gamma_ms: float
    overload: float
    overload_lengths: LengthMix
    points: tuple[Point, ...]


def read_servers() -> list[Server]:
    """Every model that was measured."""
    servers = []
    for path in sorted(RESULTS.glob("h100-*.json")):
        for model, entry in json.loads(path.read_text())["models"].items():
            facts = model_facts(model)
            assert facts is not None
            found = re.search(r'num_gpu_blocks="(\d+)"', entry["page"]["cacheConfig"][0])
            assert found is not None
            servers.append(
                Server(
                    model,
                    EngineLimits(SEATS, CHUNK, int(found.group(1))),
                    1000 * facts.kv_bytes_per_token / KV_BANDWIDTH,
                    entry["overload"]["finishedPerSecond"],
                    _lengths(entry["overload"]),
                    tuple(_point(point) for point in entry["points"]),
                )
            )
    return servers


def _point(given: dict[str, Any]) -> Point:
    return Point(given["load"], given["rate"], _lengths(given), given["itlMs"], given["ttftMs"])


def _lengths(given: dict[str, Any]) -> LengthMix:
    """The lengths that happened to be drawn, for they differ between points by several percent."""
    return LengthMix(given["inputMean"], given["outputMean"], 2 * given["inputMean"], 2 * given["outputMean"])


def fit(server: Server, sight: Sight, evaluations: int) -> StepModel:
    """Step times that come closest to what the fit may see: squares of logarithms of ratios."""
    seen = [point for point in server.points if point.share in sight.shares]

    def distance(logs: Sequence[float]) -> float:
        steps = _steps(logs, server.gamma_ms)
        terms = [2 * math.log(_overload(server, steps) / server.overload)] if sight.overload else []
        for point in seen:
            played = _play(server, steps, point, FIT_SECONDS)
            terms += [math.log(played["itl"][name] / point.itl[name]) for name in ("mean", "p50", "p95")]
        return sum(term * term for term in terms)

    start = [math.log(v) for v in (GUESS.alpha_ms, GUESS.beta_ms_per_token, GUESS.floor_small_ms, GUESS.floor_large_ms)]
    found = nelder_mead(distance, [*start, math.log(GUESS.api_tokens_per_second or 1.0)], 0.4, evaluations)
    return _steps(found, server.gamma_ms)


def _steps(logs: Sequence[float], gamma: float) -> StepModel:
    alpha, beta, small, large, api = (math.exp(value) for value in logs)
    return StepModel(alpha, beta, gamma, small, max(small, large), api)


def _play(
    server: Server, steps: StepModel, point: Point, seconds: float = WINDOW_SECONDS
) -> dict[str, dict[str, float]]:
    requests = max(300, round(point.rate * seconds))
    seen = measure_point(steps, server.limits, point.lengths, point.rate, seed=1, longest=LONGEST, requests=requests)
    return {
        name: {"mean": q.mean, "p50": q.p50 or 0.0, "p95": q.p95 or 0.0, "p99": q.p99 or 0.0}
        for name, q in (("itl", seen.itl), ("ttft", seen.ttft))
    }


def _overload(server: Server, steps: StepModel) -> float:
    return measure_overload(
        steps, server.limits, server.overload_lengths, seed=2, longest=LONGEST, requests=OVERLOAD_REQUESTS
    )


def nelder_mead(
    distance: Callable[[Sequence[float]], float], start: Sequence[float], size: float, evaluations: int
) -> list[float]:
    """The downhill simplex of Nelder and Mead: the best point after so many evaluations."""
    points = [list(start)] + [[v + size * (i == n) for i, v in enumerate(start)] for n in range(len(start))]
    simplex = sorted(((distance(point), point) for point in points), key=lambda pair: pair[0])
    used = len(points)
    while used < evaluations:
        worst = simplex[-1][1]
        centre = [sum(point[i] for _, point in simplex[:-1]) / (len(simplex) - 1) for i in range(len(start))]

        def along(step: float, centre: list[float] = centre, worst: list[float] = worst) -> tuple[float, list[float]]:
            point = [c + step * (c - w) for c, w in zip(centre, worst, strict=True)]
            return distance(point), point

        tried = along(1.0)
        used += 1
        if tried[0] < simplex[0][0]:
            further, used = along(2.0), used + 1
            simplex[-1] = min(tried, further, key=lambda pair: pair[0])
        elif tried[0] < simplex[-2][0]:
            simplex[-1] = tried
        else:
            inside, used = along(-0.5), used + 1
            if inside[0] < simplex[-1][0]:
                simplex[-1] = inside
            else:
                best = simplex[0][1]
                moved = [[(b + v) / 2 for b, v in zip(best, point, strict=True)] for _, point in simplex[1:]]
                simplex[1:] = [(distance(point), point) for point in moved]
                used += len(moved)
        simplex.sort(key=lambda pair: pair[0])
    return simplex[0][1]


def validate(evaluations: int = 120) -> dict[str, Any]:
    """Per model: the fitted step times, and errors of what the fit saw and did not see."""
    return {
        server.model: {sight.name: _validate_server(server, sight, fit(server, sight, evaluations)) for sight in FITS}
        for server in read_servers()
    }


def _validate_server(server: Server, sight: Sight, steps: StepModel) -> dict[str, Any]:
    played = [(point, _play(server, steps, point)) for point in server.points]
    unseen = [(point, seen) for point, seen in played if point.share not in sight.shares]
    errors = {
        f"{kind}.{name}": [
            (f"{point.share:g} of saturation", seen[kind][name] / getattr(point, kind)[name] - 1)
            for point, seen in pairs
        ]
        for kind, pairs in (("itl", unseen), ("ttft", played))
        for name in ("mean", "p95")
    }
    return {
        "steps": {name: float(f"{getattr(steps, name):.4g}") for name in StepModel.__dataclass_fields__},
        "overload": [server.overload, round(_overload(server, steps), 2)],
        "errorsUnseen": {name: summarise(values).to_dict() for name, values in errors.items()},
        "points": [{"fitted": point.share in sight.shares, **_row(point, seen)} for point, seen in played],
    }


def _row(point: Point, seen: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Real and simulated side by side."""
    pairs = {
        f"{kind}{name.capitalize()}Ms": [round(getattr(point, kind)[name], 2), round(seen[kind][name], 2)]
        for kind in ("itl", "ttft")
        for name in ("mean", "p95")
    }
    return {"share": point.share, "rate": round(point.rate, 2), **pairs}
