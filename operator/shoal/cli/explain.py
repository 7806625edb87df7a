"""`shoal explain NAMESPACE/NAME`: what was decided for a ModelService, and why, from its status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shoal.api.errors import ApiError
from shoal.api.load import parse_object
from shoal.api.model_service import ModelService
from shoal.api.model_service_status import FrontierEntry, GPUUse, LearningEntry, ModelServiceStatus, Placed, PlanStatus
from shoal.cli.cluster_reader import ClusterReader, Object, ReadError
from shoal.cli.console import make_console
from shoal.cli.offline import LIBRARY
from shoal.cli.snapshots import OperatorReader
from shoal.domain.words import count

NO_STATUS = (
    "nothing has been decided yet: is the operator running (`kubectl get pods -A -l app.kubernetes.io/name=shoal`)?"
)
EPILOG: Final = """\
Exit codes: 0 explained, 1 it could not be read, 2 wrong arguments.

--dump asks the leading operator for the whole snapshot of its last decision: services, pools, profiles, loads,
memories, brakes. For that you need the rights, in its namespace, to create a token of its ServiceAccount
(serviceaccounts/token), to get its Lease, and to reach its pod through the API server (pods/proxy).
"""
_JSON_PARTS = (
    "observedGeneration",
    "url",
    "plan",
    "frontier",
    "rejected",
    "conditions",
    "observed",
    "learning",
    "gpus",
    "history",
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "explain",
        help="what was decided for a ModelService in the cluster, and why",
        description="Prints plan, reasons, frontier, rejected options, conditions and history of a ModelService.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("service", metavar="[NAMESPACE/]NAME", help="without a namespace: that of the context")
    add_cluster_arguments(parser)
    parser.add_argument(
        "--dump", metavar="FILE", type=Path, help="write what the operator last decided from; - is standard output"
    )
    parser.add_argument("--operator-namespace", default=LIBRARY, metavar="NAME", help="default: %(default)s")
    parser.add_argument(
        "--operator-address", metavar="HOST:PORT", help="the leader's metrics port, not through the API server"
    )
    parser.set_defaults(run=run)


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command takes that reads a cluster."""
    parser.add_argument("-n", "--namespace", help="namespace of the ModelService")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, then ~/.kube/config")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig; default: the current one")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    namespace, _, name = args.service.rpartition("/")
    reader = ClusterReader(args.kubeconfig, args.context)
    if args.dump is not None:
        return _dump(args, reader, namespace, name)
    try:
        manifest = reader.read_service(namespace or args.namespace, name)
        report = make_report(parse_object(ModelService, manifest))
    except (ReadError, ApiError) as error:
        sys.stderr.write(f"shoal explain: {error}\n")
        return 1
    if args.output == "json":
        sys.stdout.write(json.dumps(make_json(manifest), indent=2) + "\n")
    else:
        make_console().print(report)
    return 0


def _dump(args: argparse.Namespace, reader: ClusterReader, namespace: str, name: str) -> int:
    """Fetch the snapshot from the operator and write it."""
    operator = OperatorReader(args.operator_namespace, args.kubeconfig, args.context, args.operator_address)
    try:
        text = operator.read_snapshot(namespace or args.namespace or reader.own_namespace(), name)
        if str(args.dump) == "-":
            sys.stdout.write(text + "\n")
            return 0
        args.dump.write_text(text + "\n")
    except (ReadError, OSError) as error:
        sys.stderr.write(f"shoal explain: {error}\n")
        return 1
    sys.stdout.write(f"wrote {args.dump}: decide it again with `shoal plan --replay {args.dump}`\n")
    return 0


def make_json(manifest: Object) -> Object:
    """What programs get; parts that are not there yet are null."""
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "generation": metadata.get("generation"),
        **{part: status.get(part) for part in _JSON_PARTS},
    }


def make_report(service: ModelService) -> RenderableType:
    """What people get."""
    status = service.status or ModelServiceStatus()
    head = [_make_headline(service)]
    if status.observed_generation is None:
        return Group(*head, Text(NO_STATUS, style="yellow"))
    if status.observed_generation != service.metadata.generation:
        seen, now = status.observed_generation, service.metadata.generation
        head.append(Text(f"this is about generation {seen}; the present one is {now}", style="yellow"))
    return Group(*head, *_make_parts(status))


def _make_headline(service: ModelService) -> Text:
    slo = service.spec.slo
    objectives = [
        f"TTFT {slo.ttft_milliseconds} ms" if slo.ttft_milliseconds is not None else "",
        f"ITL {slo.itl_milliseconds:g} ms" if slo.itl_milliseconds is not None else "",
    ]
    name = f"{service.metadata.namespace}/{service.metadata.name}"
    text = Text.assemble((name, "bold"), f"  {service.spec.model.name}, {', '.join(filter(None, objectives))}")
    if service.status is not None and service.status.url is not None:
        text.append(f"  {service.status.url}", style="dim")
    return text


def _make_parts(status: ModelServiceStatus) -> Iterator[RenderableType]:
    if status.plan is not None:
        yield from _make_plan(status.plan)
        yield _make_latencies(status)
    if status.learning:
        yield _make_learning(status.learning)
    if status.frontier:
        yield _make_frontier(status.frontier)
    if status.rejected:
        rows = ((entry.configuration, entry.reason) for entry in status.rejected)
        yield _make_table("Rejected", ("configuration", "why"), rows)
    if status.gpus:
        yield _make_gpus(status)
    if status.conditions:
        rows_ = ((c.type, c.status, c.reason, c.message) for c in status.conditions)
        yield _make_table("Conditions", ("condition", "status", "reason", "message"), rows_)
    if status.history:
        entries = ((entry.at, entry.from_, entry.to, entry.why) for entry in status.history)
        yield _make_table("History", ("at", "from", "to", "why"), entries)


def _make_plan(plan: PlanStatus) -> Iterator[RenderableType]:
    numbers = f": {count(plan.gpus, 'GPU')}, {plan.cost_per_hour} an hour, bound by {plan.binding_constraint}"
    yield Text.assemble("\nPlan ", (plan.summary, "bold"), numbers)
    yield Text(plan.reason)
    if not plan.variants:
        return
    rows = ((*_placed(v), v.replicas, _number(v.capacity_per_replica), v.weight, v.name) for v in plan.variants)
    headings = ("pool", "accelerator", "shape", "engine limits", "replicas", "req/s each", "weight", "Deployment")
    yield _make_table("Variants", headings, rows)


def _make_latencies(status: ModelServiceStatus) -> RenderableType:
    assert status.plan is not None
    predicted, seen, effective = status.plan.predicted, status.observed, status.effective
    percentile = f"p{effective.percentile}" if effective is not None else "at the SLO's percentile"
    rows: list[tuple[Any, ...]] = [
        (
            f"predicted ({percentile})",
            _number(predicted.ttft_milliseconds),
            _number(predicted.itl_milliseconds),
            "",
            "nothing serves" if not status.plan.variants else f"{predicted.utilization:.0%}",
        )
    ]
    if seen is not None:
        numbers = (seen.ttft_milliseconds, seen.itl_milliseconds, seen.requests_per_second)
        rows.append((f"observed (mean) at {seen.at}", *map(_number, numbers), ""))
    return _make_table("Latency", ("", "TTFT ms", "ITL ms", "req/s", "utilization"), rows)


def _make_learning(entries: Sequence[LearningEntry]) -> RenderableType:
    rows = (
        (
            entry.configuration,
            f"{entry.requests:,.0f}",
            _number(entry.credited_rate),
            _number(entry.ttft_predicted),
            _number(entry.ttft_observed),
            _number(entry.itl_predicted),
            _number(entry.itl_observed),
            _number(entry.time_ratio),
        )
        for entry in entries
    )
    headings = (
        "configuration",
        "requests",
        "credited req/s",
        "TTFT predicted",
        "observed",
        "ITL predicted",
        "observed",
        "times slower",
    )
    return _make_table("Predicted beside observed (means of the last minute, ms)", headings, rows)


def _make_frontier(entries: Sequence[FrontierEntry]) -> RenderableType:
    rows = (
        (
            *_placed(entry),
            _number(entry.capacity_per_replica),
            _number(entry.capacity_per_gpu),
            _number(entry.ttft_milliseconds),
            _number(entry.itl_milliseconds),
            entry.source,
        )
        for entry in entries
    )
    headings = (
        "pool",
        "accelerator",
        "shape",
        "engine limits",
        "req/s each",
        "req/s per GPU",
        "TTFT ms",
        "ITL ms",
        "from",
    )
    return _make_table("Frontier: no other configuration beats these", headings, rows)


def _make_gpus(status: ModelServiceStatus) -> RenderableType:
    rows = (
        (
            gpu.node,
            gpu.uuid or "unknown",
            "unknown" if gpu.derating is None else f"{gpu.derating:.0%}",
            _gpu_now(gpu),
            gpu.pod,
            gpu.reason,
        )
        for gpu in status.gpus or ()
    )
    return _make_table("GPUs", ("node", "UUID", "capacity left", "when observed", "pod", "why"), rows)


def _gpu_now(gpu: GPUUse) -> str:
    told = ((gpu.clock_mhz, "MHz"), (gpu.power_watts, "W"), (gpu.temperature_c, "°C"))
    return ", ".join(f"{value:.0f} {unit}" for value, unit in told if value is not None)


def _placed(placed: Placed) -> tuple[str, ...]:
    shared = placed.engines_per_gpu > 1
    shape = f"{placed.engines_per_gpu}/GPU" if shared else f"TP{placed.tensor_parallel}"
    servers = f", {placed.api_servers} API servers" if (placed.api_servers or 1) > 1 else ""
    limits = f"{placed.max_num_seqs} requests, {placed.max_num_batched_tokens} tokens{servers}"
    return placed.pool, placed.accelerator, shape, limits


def _make_table(title: str, headings: Iterable[str], rows: Iterable[Sequence[Any]]) -> RenderableType:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", header_style="dim", box=None)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    return table


def _number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    return "" if value is None else f"{float(f'{value:.3g}'):,.10g}"
