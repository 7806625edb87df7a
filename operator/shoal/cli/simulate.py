"""`shoal simulate`: plays a scenario in virtual time with the planner that runs in the cluster."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from shoal.api.errors import ApiError
from shoal.domain.profile import Profile, Quantiles
from shoal.sim.profile_files import read_profiles
from shoal.sim.result import Result
from shoal.sim.scenario import ScenarioError
from shoal.sim.scenario_file import load_scenario, shipped_scenarios
from shoal.sim.truth import NoTruthError
from shoal.sim.world import run as play

SHIPPED_PROFILES = Path(__file__).parents[3] / "profiles" / "simulated"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "simulate",
        help="play a scenario through the real planner, in virtual time",
        description="Plays traffic and heat on simulated engines; the planner is the one that runs in the cluster.",
        epilog="Exit codes: 0 played, 1 the scenario or a profile cannot be used, 2 wrong arguments.",
    )
    parser.add_argument(
        "--scenario",
        required=True,
        metavar="NAME|FILE",
        help=f"one of {', '.join(shipped_scenarios())}, or a YAML file",
    )
    parser.add_argument(
        "--profiles", type=Path, default=SHIPPED_PROFILES, metavar="DIR", help="ModelProfiles the planner is told"
    )
    parser.add_argument("--truth", type=Path, metavar="DIR", help="ModelProfiles the engines obey (as told)")
    parser.add_argument("--seed", type=int, help="another draw of the same traffic")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    try:
        scenario = load_scenario(args.scenario)
        if args.seed is not None:
            scenario = replace(scenario, seed=args.seed)
        told = _read(args.profiles)
        result = play(scenario, told, _read(args.truth) if args.truth else told)
    except (ScenarioError, ApiError, NoTruthError, OSError) as error:
        print(f"shoal simulate: {error}", file=sys.stderr)
        return 1
    if args.output == "json":
        print(json.dumps(result.as_json(), indent=2))
    else:
        _show(result, Console())
    return 0


def _read(directory: Path) -> tuple[Profile, ...]:
    if not directory.is_dir():
        raise ScenarioError(f"{directory} is no directory: name one with ModelProfiles (--profiles DIR)")
    return read_profiles(directory)


def _show(result: Result, console: Console) -> None:
    services = Table(title=f"{result.scenario}: {result.seconds:g} s in virtual time, simulated engines")
    for name in ("SERVICE", "SENT", "429", "LOST", "IN SLO", "CALM", "CEILING", "TTFT p95", "ITL p95"):
        services.add_column(name, justify="left" if name == "SERVICE" else "right")
    for service in result.services:
        services.add_row(
            service.name,
            str(service.sent),
            str(service.refused),
            str(service.lost),
            f"{service.attainment:.1%}",
            f"{service.attainment_outside_steps:.1%}",
            f"{service.ceiling:.1%}",
            _p95(service.ttft),
            _p95(service.itl),
        )
    console.print(services)
    for move in result.moves:
        console.print(
            f"{move.at:7.0f} s  {move.service}: {move.before} -> {move.after}\n           {move.why}", highlight=False
        )
    console.print(
        f"{result.gpu_hours:.3f} GPU-hours, cost {result.cost:.2f}, at most {result.most_gpus} GPUs at once, "
        f"{len(result.moves)} moves. CALM: outside the time after steps; CEILING: of a policy that acts after a "
        "step, where the step overloads what runs at once.",
        highlight=False,
    )


def _p95(latency: Quantiles | None) -> str:
    return "-" if latency is None or latency.p95 is None else f"{latency.p95:.0f} ms"
