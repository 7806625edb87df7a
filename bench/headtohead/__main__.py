"""`python -m bench.headtohead [PART ...]`: profiles, tuning, runs, page. What is done already is not done again."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bench.headtohead import mixes, scaling, sizing
from bench.machine import read_commit

FOLDER = Path(__file__).resolve().parent
PARTS = ("tune", "scaling", "fresh", "constant", "keda", "sizing", "mixes")
EXIT_CODES = "Exit codes: 0 done, 1 a run failed (called again, it is tried again), 2 wrong arguments."


def main() -> int:
    """Run the parts named on the command line, or all."""
    options = _parse()
    os.environ.setdefault("DYN_LOG", "error")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the pool ends its processes
    plan = yaml.safe_load((FOLDER / "plan.yaml").read_text())
    commit = options.commit or read_commit()
    bench = scaling.Bench(plan, Path(options.results).resolve(), Path(options.cache).resolve(), commit)
    for engine in bench.plan["engines"]:
        bench.table(engine)  # measured here once, not in every process
    parts = [part for part in PARTS if part in (options.parts or PARTS)]
    failed = tune(bench, options) if "tune" in parts else 0
    calls = [call for part in parts if part in QUEUED for call in QUEUED[part](bench, options)]
    failed += scaling.run_all(calls, options.jobs, say) if calls else 0
    for part in parts:
        if part in ALONE:
            ALONE[part](bench)
    return 1 if failed else 0


def tune(bench: scaling.Bench, options: argparse.Namespace) -> int:
    """Every grid point on the tuning seeds; the best of each into results/tuned.json. Returns how many runs failed."""
    path = bench.results / "tuning.jsonl"
    calls = [scaling.Call(path, job.key, bench, job) for job in scaling.tuning_jobs(bench)]
    failed = scaling.run_all(calls, options.jobs, say)
    rows = scaling.read_rows(path)
    chosen = scaling.choose_tuned(bench, [rows[call.key] for call in calls if call.key in rows])
    (bench.results / "tuned.json").write_text(json.dumps(chosen, indent=1, sort_keys=True) + "\n")
    return failed


def scaling_calls(bench: scaling.Bench, options: argparse.Namespace) -> Iterator[scaling.Call]:
    """All policies on the evaluated seeds, but the slow one."""
    return _evaluation(bench, options, slow=False)


def fresh_calls(bench: scaling.Bench, _options: argparse.Namespace) -> Iterator[scaling.Call]:
    """Shoal and the tuned peers on fresh seeds."""
    tuned: dict[str, Any] = json.loads((bench.results / "tuned.json").read_text())
    for job in scaling.fresh_jobs(bench, tuned):
        yield scaling.Call(bench.results / "fresh.jsonl", job.key, bench, job)


def keda_calls(bench: scaling.Bench, options: argparse.Namespace) -> Iterator[scaling.Call]:
    """The policy that takes many passes."""
    return _evaluation(bench, options, slow=True)


def _evaluation(bench: scaling.Bench, options: argparse.Namespace, *, slow: bool) -> Iterator[scaling.Call]:
    tuned: dict[str, Any] = json.loads((bench.results / "tuned.json").read_text())
    for job in scaling.evaluation_jobs(bench, tuned):
        if (
            (job.policy == "keda") == slow
            and options.scenario in (None, job.scenario)
            and options.engine in (None, job.engine)
            and options.router in (None, job.router)
            and job.seed <= options.seeds
        ):
            yield scaling.Call(bench.results / "scaling.jsonl", job.key, bench, job)


def constant_calls(bench: scaling.Bench, options: argparse.Namespace) -> Iterator[scaling.Call]:
    """Constant load with noise."""
    spec = bench.plan["constant"]
    for seed in spec["seeds"][: options.seeds]:
        for share in spec["rates"]:
            key = f"constant/{share}/{seed}"
            yield scaling.Call(bench.results / "constant.jsonl", key, bench, constant=(share, seed))


def run_sizing(bench: scaling.Bench) -> None:
    """AIConfigurator's recommendation beside Shoal's."""
    spec = bench.plan["sizing"]
    path = bench.results / "sizing.jsonl"
    done = scaling.read_rows(path)
    for case in spec["cases"]:
        if case["name"] not in done:
            row = sizing.run_case(spec, case, bench.results, bench.cache)
            scaling.append(path, {**row, "commit": bench.commit})
            say(f"{path.name}: {case['name']}")


def run_mixes(bench: scaling.Bench) -> None:
    """AIBrix's optimizer beside Shoal's choice among GPU types."""
    path = bench.results / "mixes.json"
    path.write_text(json.dumps({**mixes.compare(bench.plan["mixes"]), "commit": bench.commit}, indent=1) + "\n")


QUEUED = {  # one queue for all processes
    "scaling": scaling_calls,
    "fresh": fresh_calls,
    "constant": constant_calls,
    "keda": keda_calls,
}
ALONE = {"sizing": run_sizing, "mixes": run_mixes}
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
    parser.add_argument("--commit", help="commit to note in results, where there is no git")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}: use {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
