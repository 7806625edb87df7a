"""`shoal plan`: what would be decided for the ModelServices in files, offline, by the planner of the operator."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from shoal.api.errors import ApiError
from shoal.cli.console import make_console
from shoal.cli.offline import Question, parse_gpus, read_question
from shoal.domain.configuration import Placement
from shoal.domain.plan import Decision, Infeasible, NearestFeasible, Quality
from shoal.domain.service import ServiceKey
from shoal.domain.words import count
from shoal.planner.decide import decide
from shoal.planner.replay import Difference, Record, decode_record, replay

FEASIBLE: Final = 0
INFEASIBLE: Final = 1
BAD_INPUT: Final = 2
DIFFERENT: Final = 1
_MOST_DIFFERENCES: Final = 20
_MOST_REJECTED: Final = 12  # lines of the table; -o json has all

EPILOG: Final = """\
Exit codes: 0 every wish can be met, 1 one of them cannot (the best effort is shown), 2 a file or an argument is wrong.
With --replay: 0 the same answer as the operator's, 1 another one, 2 the file is wrong.

Files hold ModelService, GPUPool, EngineClass and ModelProfile manifests; other kinds are skipped. A directory stands
for its YAML files. How many GPUs there are comes from --gpus, else from spec.maxGPUs of the pool. Without a
ModelProfile the answer rests on an estimate.

  shoal plan -f chat.yaml pools.yaml profiles/ --gpus h100=8 --rate 40
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "plan",
        help="what would be decided for ModelServices in files, offline",
        description="Decides as the operator would on the first day, from files alone; or again what an operator has "
        "decided. Changes nothing anywhere.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument(
        "-f",
        "--filename",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="manifests, or directories of them",
    )
    question.add_argument(
        "--replay", type=Path, metavar="FILE", help="decide again what `shoal explain --dump FILE` wrote; - is stdin"
    )
    parser.add_argument(
        "--gpus", type=_gpus, action="append", default=[], metavar="POOL=N", help="GPUs a pool has, instead of maxGPUs"
    )
    parser.add_argument("--rate", type=_rate, metavar="R", help="requests per second, instead of spec.workload")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="write frontier and cost as a picture (png, svg, pdf)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    try:
        if args.replay is not None:
            return _replay(args)
        question = read_question(args.filename, gpus=dict(args.gpus), rate=args.rate)
        answer = decide(question.snapshot)
        decisions = answer.decisions
        if args.plot is not None:
            _plot(question, decisions.values(), args.plot)
    except ApiError as error:
        sys.stderr.write(f"shoal plan: {error}\n")
        return BAD_INPUT
    ordered = [decisions[service.key] for service in question.snapshot.services]
    if args.output == "json":
        answers = [make_json(decision, answer.quality) for decision in ordered]
        sys.stdout.write(json.dumps(answers[0] if len(answers) == 1 else answers, indent=2, allow_nan=False) + "\n")
    else:
        show(question, ordered, answer.quality, make_console())
    return INFEASIBLE if any(isinstance(decision, Infeasible) for decision in ordered) else FEASIBLE


def _replay(args: argparse.Namespace) -> int:
    """Decide a snapshot again. Raises ApiError when it cannot be read."""
    if args.gpus or args.rate is not None or args.plot is not None:
        raise ApiError("a snapshot is decided as it is", advice="Leave out --gpus, --rate and --plot")
    record = _read_record(args.replay)
    answer, differences = replay(record)
    decisions = [answer.decisions[key] for key in sorted(answer.decisions)]
    if args.output == "json":
        document = {
            "equal": not differences,
            "madeBy": record.made_by,
            "at": record.snapshot.now,
            "differences": [{**asdict(found), "service": str(found.service)} for found in differences],
            "decisions": [make_json(decision, answer.quality) for decision in decisions],
        }
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    else:
        show(Question(record.snapshot), decisions, answer.quality, make_console())
        _show_differences(record, differences, make_console())
    return DIFFERENT if differences else FEASIBLE


def _read_record(path: Path) -> Record:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        return decode_record(json.loads(text))
    except (OSError, ValueError) as error:
        raise ApiError(str(error), where=str(path), advice="Name a file of `shoal explain --dump`") from error


def _show_differences(record: Record, differences: Sequence[Difference], console: Console) -> None:
    at = datetime.fromtimestamp(record.snapshot.now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    whose = f"operator {record.made_by} decided at {at}"
    if not differences:
        console.print(f"\n[green]The same answer[/] as {whose}, to the last bit.", highlight=False)
        return
    table = _table(f"[red]Another answer[/] than {whose}", "SERVICE", "FIELD", "THEN", "NOW")
    for found in differences[:_MOST_DIFFERENCES]:
        table.add_row(str(found.service), found.field, found.then, found.now)
    console.print("", table)
    if len(differences) > _MOST_DIFFERENCES:
        console.print(f"and {len(differences) - _MOST_DIFFERENCES} more: -o json", style="dim")


def make_json(decision: Decision, quality: Quality) -> dict[str, Any]:
    """The answer for programs; the fields are a contract. `quality` is that of all answers together."""
    plan = decision.plan
    return {
        "service": str(decision.service),
        "decision": type(decision).__name__,
        "variants": [
            {
                "accelerator": variant.placement.configuration.accelerator,
                "tensorParallel": variant.placement.configuration.tensor_parallel,
                "enginesPerGPU": variant.placement.configuration.engines_per_gpu,
                "replicas": variant.replicas,
                "gpus": variant.gpus,
                "capacityPerReplica": _number(variant.replica_rate),
            }
            for variant in plan.variants
        ],
        "gpus": plan.gpus,
        "costPerHour": _number(plan.cost_per_hour),
        "predicted": {
            "ttftMs": _number(plan.predicted.ttft_ms),
            "itlMs": _number(plan.predicted.itl_ms),
            "utilization": _number(plan.predicted.utilization),
        },
        "bindingConstraint": str(plan.binding),
        "frontier": [
            {
                "configuration": describe(point.placement),
                "capacityPerGPU": _number(point.rate_per_gpu),
                "costPerMillionRequests": _number(point.cost_per_million_requests),
                "ttftMs": _number(point.capacity.ttft_ms),
                "itlMs": _number(point.capacity.itl_ms),
                "source": str(point.capacity.source),
            }
            for point in decision.explanation.frontier
        ],
        "rejected": [
            {"configuration": describe(entry.placement), "reason": f"{entry.reason}: {entry.message}"}
            for entry in decision.explanation.rejected
        ],
        "quality": {
            "costPerHour": _number(quality.cost),
            "boundPerHour": _number(quality.bound),
            "gap": _number(quality.gap),
            "exact": quality.exact,
        },
    }


def describe(placement: Placement) -> str:
    """A placement in one line, engine limits included."""
    configuration = placement.configuration
    servers = f", {configuration.api_servers} API servers" if configuration.api_servers > 1 else ""
    limits = f"{configuration.max_num_seqs} requests, {configuration.max_num_batched_tokens} tokens{servers}"
    return f"{placement.pool} {configuration.accelerator} {configuration.shape}, {limits}"


def show(question: Question, decisions: Iterable[Decision], quality: Quality, console: Console) -> None:
    """The answer for people."""
    for decision in decisions:
        plan = decision.plan
        word = type(decision).__name__
        console.print(f"\n[bold]{decision.service}[/]: {word} [bold]{plan.summary}[/], bound by {plan.binding}")
        console.print(decision.explanation.message, highlight=False)
        if isinstance(decision, Infeasible):
            console.print(f"Nearest that could be met: {_nearest(decision.nearest)}", highlight=False)
        for table in _tables(decision):
            console.print(table)
    console.print(f"\n{_judge(quality)}", highlight=False)
    for note in question.assumptions:
        console.print(f"Assumed: {note}.", style="dim", highlight=False)


def _judge(quality: Quality) -> str:
    """How good all targets are together; costs include moves, spread over an hour."""
    cost = f"All together cost {quality.cost:.2f} an hour, moves included"
    if quality.exact:
        return f"{cost}: no other choice among the plans that were looked at costs less."
    return f"{cost}: no other choice costs less than {quality.bound:.2f}, so {quality.gap:.2%} could be saved at most."


def _tables(decision: Decision) -> Iterator[Table]:
    plan = decision.plan
    if plan.variants:
        title = f"{count(plan.gpus, 'GPU')}, {plan.cost_per_hour:.2f} an hour; {_prediction(decision)}"
        table = _table(title, "POOL", "ACCELERATOR", "SHAPE", "REPLICAS", "GPUS", "REQ/S EACH", "LIMITED BY", "FROM")
        for variant in plan.variants:
            configuration, capacity = variant.placement.configuration, variant.capacity
            table.add_row(
                variant.placement.pool,
                configuration.accelerator,
                configuration.shape,
                str(variant.replicas),
                str(variant.gpus),
                f"{variant.replica_rate:.3g}",
                capacity.limit,
                f"{capacity.source} {capacity.profile or ''}".strip(),
            )
        yield table
    rejected = decision.explanation.rejected
    if rejected:
        more = f" ({len(rejected) - _MOST_REJECTED} more: -o json)" if len(rejected) > _MOST_REJECTED else ""
        table = _table(f"Not used{more}", "POOL", "SHAPE", "WHY", "")
        for entry in rejected[:_MOST_REJECTED]:
            table.add_row(entry.placement.pool, entry.placement.configuration.shape, entry.reason, entry.message)
        yield table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _prediction(decision: Decision) -> str:
    predicted = decision.plan.predicted
    parts = [
        f"TTFT {predicted.ttft_ms:.0f} ms" if predicted.ttft_ms is not None else "",
        f"ITL {predicted.itl_ms:.1f} ms" if predicted.itl_ms is not None else "",
    ]
    latencies = ", ".join(filter(None, parts)) or "no latency"
    return f"predicted {latencies} at {predicted.utilization:.0%} of capacity"


def _nearest(nearest: NearestFeasible) -> str:
    parts = [
        f"TTFT {nearest.ttft_ms:g} ms" if nearest.ttft_ms is not None else "",
        f"ITL {nearest.itl_ms:g} ms" if nearest.itl_ms is not None else "",
        f"{nearest.rate:.3g} req/s with what there is" if nearest.rate is not None else "",
        f"{count(nearest.gpus, 'GPU')} for all of it" if nearest.gpus is not None else "",
    ]
    return ", ".join(filter(None, parts)) or "nothing by changing numbers alone"


def _number(value: float | None) -> float | None:
    """Six significant digits; what is no finite number is left out."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _gpus(text: str) -> tuple[str, int]:
    try:
        return parse_gpus(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate: give requests per second, from 0 to 1000000")
    return rate


def _plot(question: Question, decisions: Iterable[Decision], path: Path) -> None:
    try:
        from shoal.cli.plot import plot_plans  # noqa: PLC0415 - drawing takes a second to import
    except ImportError as error:
        raise ApiError("drawing needs matplotlib", advice="Install it: pip install matplotlib") from error
    by_key: dict[ServiceKey, Decision] = {decision.service: decision for decision in decisions}
    plot_plans(question.snapshot, by_key, path)
