"""`python -m bench.profiler.knees [--seeds N]`: the search for the knee beside an exhaustive sweep, in virtual time.

Engines are simulated; what decides is the code that runs on a GPU. For each case and seed the sweep plays the very same
trace, rescaled in time, at every rate in steps of 2 % of the saturation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.machine import read_commit
from bench.profiler.__main__ import CASES, Case, settings_for, tolerance, truth_of
from bench.profiler.sweep import sweep
from bench.profiler.virtual_clients import run_virtual_step
from shoal.profiler.agenda import next_step
from shoal.profiler.knee import find_bracket
from shoal.profiler.points import Point
from shoal.profiler.specs import Settings

RESULTS: Final = Path(__file__).parent / "knees.json"
GOAL_SECONDS: Final = 300.0
STEPS_OF_THE_SEARCH: Final = ("idle", "full", "overload", "search")
H100, L40S = "NVIDIA-H100-80GB-HBM3", "NVIDIA-L40S"
MORE: Final = (
    Case("05b-h100", "Qwen/Qwen2.5-0.5B-Instruct", H100, 256, "ttft=500,itl=20"),
    Case("7b-h100-256", "Qwen/Qwen2.5-7B-Instruct", H100, 256, "ttft=500,itl=40"),
    Case("7b-h100-tight", "Qwen/Qwen2.5-7B-Instruct", H100, 64, "ttft=300,itl=9"),
    Case("05b-l40s-answers", "Qwen/Qwen2.5-0.5B-Instruct", L40S, 64, "ttft=300,itl=30", "gamma:200,400"),
)


@dataclass(frozen=True, slots=True)
class Search:
    """One search: requests per second, seconds of measuring until the knee was known, and the points it took."""

    case: str
    seed: int
    knee: float
    swept: float
    tolerance: float
    seconds: float
    points: int

    @property
    def error(self) -> float:
        """knee/swept - 1."""
        return self.knee / self.swept - 1


def search(case: Case, seed: int) -> Search:
    """Search and sweep with one seed."""
    settings, truth = replace(settings_for(case), seed=seed), truth_of(case)
    points = list(_points_until_knee(case, settings))
    bracket = find_bracket(points, settings.objective)
    swept = sweep(truth.steps, truth.limits, settings, seeds=(seed,)).knee
    return Search(
        case=case.name,
        seed=seed,
        knee=0.0 if bracket is None or bracket.knee is None else bracket.knee,
        swept=swept,
        tolerance=tolerance(swept, settings),
        seconds=sum(point.took for point in points),
        points=len(points),
    )


def _points_until_knee(case: Case, settings: Settings) -> Iterator[Point]:
    truth, points = truth_of(case), list[Point]()
    while (spec := next_step(settings, points)) is not None and spec.name in STEPS_OF_THE_SEARCH:
        points.append(run_virtual_step(truth.steps, truth.limits, settings, spec))
        yield points[-1]


def summarise(case: Case, found: Sequence[Search]) -> dict[str, Any]:
    """What all seeds of one case say."""
    return {
        "case": asdict(case),
        "searches": [asdict(one) | {"error": one.error} for one in found],
        "secondsMean": statistics.mean(one.seconds for one in found),
        "secondsMost": max(one.seconds for one in found),
        "withinGoal": sum(one.seconds <= GOAL_SECONDS for one in found),
        "withinTolerance": sum(abs(one.error) <= one.tolerance for one in found),
        "errorMedian": statistics.median(abs(one.error) for one in found),
        "errorWorst": max((one.error for one in found), key=abs),
    }


def main() -> int:
    """Print a row of a table for each case, and write everything."""
    parser = argparse.ArgumentParser(prog="python -m bench.profiler.knees", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="seeds 1 to N (10)")
    options = parser.parse_args()
    rows = []
    for case in (*CASES, *MORE):
        row = summarise(case, [search(case, seed) for seed in range(1, options.seeds + 1)])
        rows.append(row)
        first, mean = row["searches"][0], statistics.mean(one["tolerance"] for one in row["searches"])
        print(
            f"| {case.name} | {first['knee']:.4g} | {first['swept']:.4g} | {first['error']:+.1%} | {mean:.0%} | "
            f"{row['errorMedian']:.1%} | {row['errorWorst']:+.1%} | {row['withinTolerance']} | "
            f"{row['secondsMean']:.0f} | {row['secondsMost']:.0f} | {row['withinGoal']} |",
            flush=True,
        )
    result = {"commit": read_commit(), "seeds": options.seeds, "cases": rows}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
