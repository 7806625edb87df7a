"""`shoal top`: every ModelService in a line: rate, plan, ready, GPUs, SLO, reason."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.cli.cluster_reader import ClusterReader, Object, ReadError
from shoal.cli.console import make_console
from shoal.cli.explain import add_cluster_arguments
from shoal.domain.words import count

_STYLES = {"True": "green", "False": "red"}


@dataclass(frozen=True, slots=True)
class Line:
    """One ModelService. None: not known yet.

    `requestsPerSecond` is what the operator wrote down last, at most a minute ago; `ready` is the condition's status.
    """

    namespace: str
    name: str
    model: str
    requestsPerSecond: float | None  # noqa: N815 - names in the JSON
    plan: str | None
    replicas: int | None
    readyReplicas: int | None  # noqa: N815
    gpus: int | None
    slo: str | None
    ready: str | None
    reason: str | None


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "top",
        help="all ModelServices of the cluster: rate, plan, GPUs, SLO",
        description="Lists the ModelServices of all namespaces, or of one with -n.",
        epilog="Exit codes: 0 listed, 1 the cluster could not be read, 2 wrong arguments.",
    )
    add_cluster_arguments(parser)
    parser.add_argument("-w", "--watch", type=float, metavar="SECONDS", help="read again so often, until Ctrl-C")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    reader = ClusterReader(args.kubeconfig, args.context)
    try:
        lines = read_lines(reader, args.namespace)
        if args.output == "json":
            sys.stdout.write(json.dumps([asdict(line) for line in lines], indent=2) + "\n")
        elif args.watch is None:
            make_console().print(make_table(lines))
        else:
            _watch(reader, args.namespace, args.watch, lines)
    except ReadError as error:
        sys.stderr.write(f"shoal top: {error}\n")
        return 1
    return 0


def read_lines(reader: ClusterReader, namespace: str | None) -> list[Line]:
    """Read the cluster once. Raises ReadError."""
    return [make_line(item) for item in reader.read_services(namespace)]


def make_line(manifest: Object) -> Line:
    """One ModelService as it stands in the list."""
    status = manifest.get("status") or {}
    plan, observed = status.get("plan") or {}, status.get("observed") or {}
    ready: Object = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    return Line(
        namespace=manifest["metadata"]["namespace"],
        name=manifest["metadata"]["name"],
        model=manifest["spec"]["model"]["name"],
        requestsPerSecond=observed.get("requestsPerSecond"),
        plan=plan.get("summary"),
        replicas=status.get("replicas"),
        readyReplicas=status.get("readyReplicas"),
        gpus=plan.get("gpus"),
        slo=status.get("sloSummary"),
        ready=ready.get("status"),
        reason=ready.get("reason"),
    )


def make_table(lines: Sequence[Line]) -> RenderableType:
    """The list for people, with the sum of GPUs and rates."""
    if not lines:
        return Text("no ModelServices")
    table = Table(header_style="dim", show_footer=True, box=None, padding=(0, 1, 0, 0))
    rate = sum(line.requestsPerSecond or 0.0 for line in lines)
    gpus = sum(line.gpus or 0 for line in lines)
    for heading, footer in (
        ("namespace", ""),
        ("name", count(len(lines), "service")),
        ("model", ""),
        ("req/s", f"{rate:.1f}"),
        ("plan", ""),
        ("ready", ""),
        ("GPUs", str(gpus)),
        ("SLO", ""),
        ("reason", ""),
    ):
        justify: JustifyMethod = "right" if heading in ("req/s", "GPUs") else "left"
        table.add_column(heading, footer, overflow="fold", justify=justify, no_wrap=heading not in ("model", "SLO"))
    for line in lines:
        table.add_row(*_make_row(line))
    return table


def _make_row(line: Line) -> tuple[str | Text, ...]:
    ready = f"{_known(line.readyReplicas)}/{_known(line.replicas)}"
    return (
        line.namespace,
        line.name,
        line.model,
        "-" if line.requestsPerSecond is None else f"{line.requestsPerSecond:.1f}",
        line.plan or "-",
        Text(ready, style=_STYLES.get(line.ready or "", "yellow")),
        _known(line.gpus),
        line.slo or "-",
        line.reason or "-",
    )


def _known(value: int | None) -> str:
    return "-" if value is None else str(value)


def _watch(reader: ClusterReader, namespace: str | None, seconds: float, lines: Sequence[Line]) -> None:
    """Show the list until the user stops it. Raises ReadError when the cluster is lost."""
    try:
        with Live(make_table(lines), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(seconds)
                live.update(make_table(read_lines(reader, namespace)), refresh=True)
    except KeyboardInterrupt:
        return
