"""`python -m bench [NAME ...] [-o json]`."""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys

from rich.console import Console

from bench import apply_latency, by_length, fleet, planner_scale, step_latency
from bench.report import RESULTS, Result, make_table, write_result
from bench.run import Benchmark, execute

EXIT_CODES = "Exit codes: 0 all targets met, 1 a target missed, 2 wrong arguments, 3 a benchmark could not be run."


def make_benchmarks(*, quick: bool) -> dict[str, Benchmark]:
    """Every benchmark by name."""
    apply_settings = apply_latency.QUICK if quick else apply_latency.Settings()
    step_settings = step_latency.QUICK if quick else step_latency.Settings()
    fleet_settings = fleet.QUICK if quick else fleet.Settings()
    length_settings = by_length.QUICK if quick else by_length.Settings()
    scale_settings = planner_scale.QUICK if quick else planner_scale.Settings()
    found = (
        Benchmark("apply-latency", apply_latency.TITLE, functools.partial(apply_latency.run, apply_settings)),
        Benchmark("step-latency", step_latency.TITLE, functools.partial(step_latency.run, step_settings)),
        Benchmark("fleet200", fleet.TITLE, functools.partial(fleet.run, fleet_settings)),
        Benchmark("by-length", by_length.TITLE, functools.partial(by_length.run, length_settings)),
        Benchmark("planner-scale", planner_scale.TITLE, functools.partial(planner_scale.run, scale_settings)),
    )
    return {benchmark.name: benchmark for benchmark in found}


def main() -> int:
    """Run the benchmarks named on the command line, or all."""
    options = _parse()
    benchmarks = make_benchmarks(quick=options.quick)
    console = Console()
    results: list[Result] = []
    failed = False
    for name in options.names or benchmarks:
        try:
            result = execute(benchmarks[name], _command())
        except (RuntimeError, OSError, TimeoutError) as error:
            failed = True
            sys.stderr.write(f"{name} could not be run: {error}\n")
            continue
        results.append(result)
        if not options.quick:
            path = write_result(result)
            sys.stderr.write(f"{name}: written to {path.relative_to(RESULTS.parent.parent)}\n")
        if options.output == "table":
            console.print(make_table(result))
    if options.output == "json":
        sys.stdout.write(json.dumps([result.to_dict() for result in results], indent=2) + "\n")
    if failed:
        return 3
    return 1 if any(result.missed for result in results) else 0


def _parse() -> argparse.Namespace:
    names = list(make_benchmarks(quick=False))
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures what the documentation states, on this machine, against a real control plane with hollow "
        "nodes. Run it while nothing else runs: the result says how loaded the machine was.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)}; none: all of them")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it works: figures mean nothing, none is written"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"there is no benchmark {', '.join(unknown)}: use {', '.join(names)}")
    return options


def _command() -> str:
    return shlex.join(["python", "-m", "bench", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
