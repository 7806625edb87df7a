"""`python -m bench.headtohead [PART ...]`: profiles, tuning, runs, page. What is done already is not done again."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from bench.headtohead import mixes, scaling, sizing
from bench.machine import read_commit

FOLDER = Path(__file__).resolve().parent
PARTS = ("tune", "scaling", "constant", "keda", "sizing", "mixes")
EXIT_CODES = "Exit codes: 0 done, 2 wrong arguments."


def main() -> int:
    """Run the parts named on the command line, or all."""
    options = _parse()
    os.environ.setdefault("DYN_LOG", "error")
    plan = yaml.safe_load((FOLDER / "plan.yaml").read_text())
    bench = scaling.Bench(plan, Path(options.results).resolve(), Path(options.cache).resolve(), read_commit())
    for engine in bench.plan["engines"]:
        bench.table(engine)  # measured here once, not in every process
    for part in options.parts or PARTS:
        RUN[part](bench, options)
    return 0


def tune(bench: scaling.Bench, options: argparse.Namespace) -> None:
    """Every grid point on the tuning seeds; the best of each into results/tuned.json."""
    jobs = list(scaling.tuning_jobs(bench))
    rows = scaling.run_all(
        [(job.key, (bench, "scaling", job)) for job in jobs], bench.results / "tuning.jsonl", options.jobs, say
    )
    chosen = scaling.choose_tuned(bench, rows.values())
    (bench.results / "tuned.json").write_text(json.dumps(chosen, indent=1, sort_keys=True) + "\n")


def run_scaling(bench: scaling.Bench, options: argparse.Namespace) -> None:
    """All policies on the evaluated seeds, but the slow one."""
    _run_scaling(bench, options, slow=False)


def run_keda(bench: scaling.Bench, options: argparse.Namespace) -> None:
    """The policy that takes many passes."""
    _run_scaling(bench, options, slow=True)


def _run_scaling(bench: scaling.Bench, options: argparse.Namespace, *, slow: bool) -> None:
    tuned: dict[str, Any] = json.loads((bench.results / "tuned.json").read_text())
    jobs = [
        job
        for job in scaling.evaluation_jobs(bench, tuned)
        if (job.policy == "keda") == slow
        and options.scenario in (None, job.scenario)
        and options.engine in (None, job.engine)
        and options.router in (None, job.router)
        and job.seed <= options.seeds
    ]
    scaling.run_all(
        [(job.key, (bench, "scaling", job)) for job in jobs], bench.results / "scaling.jsonl", options.jobs, say
    )


def run_constant(bench: scaling.Bench, options: argparse.Namespace) -> None:
    """Constant load with noise."""
    spec = bench.plan["constant"]
    calls = [
        (f"constant/{share}/{seed}", (bench, "constant", (share, seed)))
        for seed in spec["seeds"][: options.seeds]
        for share in spec["rates"]
    ]
    scaling.run_all(calls, bench.results / "constant.jsonl", options.jobs, say)


def run_sizing(bench: scaling.Bench, _options: argparse.Namespace) -> None:
    """AIConfigurator's recommendation beside Shoal's."""
    spec = bench.plan["sizing"]
    path = bench.results / "sizing.jsonl"
    done = scaling.read_rows(path)
    for case in spec["cases"]:
        if case["name"] not in done:
            row = sizing.run_case(spec, case, bench.results, bench.cache)
            _append(path, {**row, "commit": bench.commit})
            say(f"{path.name}: {case['name']}")


def run_mixes(bench: scaling.Bench, _options: argparse.Namespace) -> None:
    """AIBrix's optimizer beside Shoal's choice among GPU types."""
    path = bench.results / "mixes.json"
    path.write_text(json.dumps({**mixes.compare(bench.plan["mixes"]), "commit": bench.commit}, indent=1) + "\n")


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


RUN = {
    "tune": tune,
    "scaling": run_scaling,
    "constant": run_constant,
    "keda": run_keda,
    "sizing": run_sizing,
    "mixes": run_mixes,
}
_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Progress on standard error."""
    sys.stderr.write(f"{time.monotonic() - _BEGAN:7.1f} s  {text}\n")
    sys.stderr.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.headtohead", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none: all of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--scenario", help="this scenario alone")
    parser.add_argument("--engine", help="this engine alone")
    parser.add_argument("--router", help="this router alone")
    parser.add_argument("--seeds", type=int, default=10**6, help="the first so many seeds alone")
    parser.add_argument("--cache", default=".run/headtohead", help="where traces and step times lie between runs")
    parser.add_argument("--results", default=str(FOLDER / "results"), help="folder of the results")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}: use {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
