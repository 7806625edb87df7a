"""`shoal simulate`: plays a scenario or a recorded trace in virtual time, with the planner that runs in the cluster."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from shoal.api.errors import ApiError
from shoal.cli.console import make_console
from shoal.domain.profile import Profile, Quantiles
from shoal.domain.words import count
from shoal.sim.policies.parse import HELP, PolicyError, make_policy
from shoal.sim.policies.protocol import Policy
from shoal.sim.profile_files import read_profiles
from shoal.sim.result import Result
from shoal.sim.scenario import Routing, Scenario, ScenarioError, ServiceSpec
from shoal.sim.scenario_file import load_scenario, shipped_scenarios
from shoal.sim.traces import TraceError, read_trace
from shoal.sim.truth import NoTruthError
from shoal.sim.world import run as play

SHIPPED_PROFILES: Final = Path(__file__).parents[3] / "profiles" / "simulated"
DEFAULT_SCENARIO: Final = "default"
PICTURES: Final = (".png", ".svg", ".pdf")
_MOST_MOVES: Final = 20  # lines of the table; -o json has all

EPILOG: Final = f"""\
Policies: {HELP}.

Traces: JSON lines as Mooncake publishes them (timestamp in milliseconds, input_length, output_length), or a .csv file
as the Azure LLM inference traces (TIMESTAMP,ContextTokens,GeneratedTokens). Longer prompts than the context are cut.

Engines are simulated: their step times come from ModelProfiles (--truth, else what the planner is told).

Exit codes: 0 played, 1 the scenario, trace or a profile cannot be used, 2 wrong arguments.

  shoal simulate --scenario step --policy keda --plot step.png
  shoal simulate --trace conversation_trace.jsonl -o json
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "simulate",
        help="play a scenario or a trace through the real planner, in virtual time",
        description="Plays traffic and incidents on simulated engines, with the planner that runs in the cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scenario", metavar="NAME|FILE", help=f"one of {', '.join(shipped_scenarios())}, or a YAML file")
    add("--trace", type=Path, metavar="FILE", help="recorded requests, in place of the traffic of a service")
    add("--service", metavar="NAME", help="the service that gets the trace (needed when there are several)")
    add("--speed", type=float, default=1.0, metavar="X", help="replay the trace so many times as fast (1)")
    add("--seconds", type=float, metavar="S", help="replay only so much of the trace")
    add("--policy", type=_policy, default="shoal", metavar="POLICY", help="who decides: shoal (usual), or see below")
    add("--routing", type=Routing, choices=list(Routing), help="how requests find an engine (as the scenario says)")
    add("--profiles", type=Path, default=SHIPPED_PROFILES, metavar="DIR", help="ModelProfiles the planner is told")
    add("--truth", type=Path, metavar="DIR", help="ModelProfiles the engines obey (as told)")
    add("--seed", type=int, help="another draw of the same traffic")
    add("-o", "--output", choices=("table", "json"), default="table")
    add("--plot", type=_picture, metavar="FILE", help="write rate, replicas and latency over time (png, svg, pdf)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    if args.scenario is None and args.trace is None:
        sys.stderr.write("shoal simulate: give --scenario NAME|FILE, --trace FILE, or both\n")
        return 2
    try:
        if args.plot is not None:
            _check_drawing()
        scenario = _read_scenario(args)
        told = _read(args.profiles)
        result = play(scenario, told, _read(args.truth) if args.truth else told, args.policy)
        if args.plot is not None:
            _plot(result, scenario, args.plot)
    except (ScenarioError, TraceError, ApiError, NoTruthError, OSError, ValueError) as error:
        sys.stderr.write(f"shoal simulate: {error}\n")
        return 1
    if args.output == "json":
        sys.stdout.write(json.dumps(result.as_json(), indent=2, allow_nan=False) + "\n")
    else:
        show(result, make_console())
    return 0


def _read_scenario(args: argparse.Namespace) -> Scenario:
    scenario = load_scenario(args.scenario or DEFAULT_SCENARIO)
    if args.trace is not None:
        chosen = _service_for_trace(scenario, args.service)
        trace = read_trace(args.trace, speed=args.speed, most_seconds=args.seconds)
        traced = replace(chosen, trace=trace, schedule=())
        services = tuple(traced if service is chosen else service for service in scenario.services)
        scenario = replace(scenario, services=services, name=f"{scenario.name} with {args.trace.name}")
    if args.seed is not None:
        scenario = replace(scenario, seed=args.seed)
    return replace(scenario, routing=args.routing) if args.routing is not None else scenario


def _service_for_trace(scenario: Scenario, name: str | None) -> ServiceSpec:
    found = [service for service in scenario.services if name in (None, service.name)]
    if len(found) != 1:
        names = ", ".join(service.name for service in scenario.services)
        raise ScenarioError(f"which service gets the trace? Give --service, one of {names}")
    return found[0]


def _read(directory: Path) -> tuple[Profile, ...]:
    if not directory.is_dir():
        raise ScenarioError(f"{directory} is no directory: name one with ModelProfiles (--profiles DIR)")
    return read_profiles(directory)


def show(result: Result, console: Console) -> None:
    """The result for people."""
    console.print(_make_table(result))
    for move in result.moves[:_MOST_MOVES]:
        console.print(
            f"{move.at:7.0f} s  {move.service}: {move.before} -> {move.after}\n           {move.why}", highlight=False
        )
    if len(result.moves) > _MOST_MOVES:
        console.print(f"... {len(result.moves) - _MOST_MOVES} more moves (-o json has them)", highlight=False)
    console.print(
        f"Policy {result.policy}: {result.attainment:.2%} within the SLO, {result.gpu_hours:.3f} GPU-hours, "
        f"{result.cost_per_hour:.2f} an hour, at most {count(result.most_gpus, 'GPU')} at once, "
        f"{count(len(result.moves), 'move')}. Latencies in milliseconds. CALM: outside the time after steps; "
        "CEILING: of a policy that acts after a step, "
        "where the step overloads what runs at once.",
        highlight=False,
    )
    for service in result.services:
        if service.cut:
            console.print(f"{service.name}: {service.cut} requests of the trace were cut to the context.", style="dim")


def _make_table(result: Result) -> Table:
    title = f"{result.scenario}: {result.seconds:g} s in virtual time, simulated engines"
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, padding=(0, 1, 0, 0)
    )
    headings = "SERVICE", "SENT", "429", "LOST", "IN SLO", "CALM", "CEILING", "TTFT p50", "p95", "p99", "ITL p95"
    for name in headings:
        is_name = name == "SERVICE"
        table.add_column(name, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for service in result.services:
        table.add_row(
            service.name,
            str(service.sent),
            str(service.refused),
            str(service.lost),
            f"{service.attainment:.1%}",
            f"{service.attainment_outside_steps:.1%}",
            f"{service.ceiling:.1%}",
            *(_latency(service.ttft, name) for name in ("p50", "p95", "p99")),
            _latency(service.itl, "p95"),
        )
    return table


def _latency(latency: Quantiles | None, name: str) -> str:
    value = getattr(latency, name, None)
    return "-" if value is None else f"{value:.0f}"


def _policy(text: str) -> Policy:
    try:
        return make_policy(text)
    except PolicyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} is no picture: name a file that ends in {', '.join(PICTURES)}")
    return Path(text)


def _check_drawing() -> None:
    """Say that drawing is impossible before anything is played."""
    try:
        import matplotlib  # noqa: F401, PLC0415 - drawing takes a second to import
    except ImportError as error:
        raise ApiError("drawing needs matplotlib", advice="Install it: pip install matplotlib") from error


def _plot(result: Result, scenario: Scenario, path: Path) -> None:
    from shoal.cli.plot_simulation import plot_result  # noqa: PLC0415 - drawing takes a second to import

    plot_result(result, scenario, path)
