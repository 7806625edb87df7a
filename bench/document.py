"""Writes docs/benchmarks.md from the result files: `python -m bench.document [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.machine import CHECKOUT
from bench.report import RESULTS, short

PAGE = CHECKOUT / "docs" / "benchmarks.md"
_HEAD = """\
# Benchmarks

`make bench` (or `python -m bench [NAME ...] [-o json]`) measures these on your machine and writes `bench/results/`;
this page is written from there by `python -m bench.document`. A target that is missed says so.

What is real: kube-apiserver, controller manager, scheduler, etcd, and the operator as a process of its own with the
ServiceAccount, RBAC and settings of the chart. What is not: nodes, GPUs and engines. *Hollow* nodes (`bench/hollow`,
another process) say of every pod that it runs, answer for engines, routers and GPU agents over HTTP with pages of
vLLM's and Envoy's shape and size, and subscribe to the operator's xDS as routers do. All of it shares the one machine
named below, control plane included: where the control plane has machines of its own, a start is faster than this.
"""
_ABOUT = {
    "apply-latency": """\
One ModelService after the other is applied on an idle operator; the time runs from before the request to the moment
another client sees the Deployment.""",
    "step-latency": """\
The request rate of one service after the other steps from half of what a replica carries to two and a half times that;
the time runs to the moment another client sees the larger plan in the status. Arrivals are Poisson, and the step falls
anywhere in a planning interval.""",
    "fleet200": """\
200 ModelServices over two pools, a third of them on either, so that all are planned together. Cold start: everything
is applied before the operator starts for the first time. Steady state: constant mean rates with Poisson noise.""",
    "by-length": """\
Four GPU types at published prices. The cheapest replicas that all get the same mix of lengths, against the cheapest
when a router sent each of four buckets of prompt length to the type that serves it cheapest (decision 0071).""",
    "planner-scale": """\
`decide()` alone, without a cluster: 1,000 services share four pools, each may use 20 configurations. All new: nobody
has a target, nothing is remembered from earlier decisions. All dirty: everything runs and every rate becomes half to
twice what it was. The gap is what a better choice among the same candidate plans could save at most.""",
}


def make_page(results: Mapping[str, Any]) -> str:
    """The whole page, benchmarks in the order of `_ABOUT`."""
    parts = [_HEAD]
    parts += [_make_section(name, results[name]) for name in _ABOUT if name in results]
    return "\n".join(parts)


def read_results(folder: Path = RESULTS) -> dict[str, Any]:
    """Result files by the benchmark's name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _make_section(name: str, result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"## {name}",
        "",
        f"{result['title']}. {_ABOUT[name]}",
        "",
        "| figure | runs | min | median | p95 | max | target | |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        *(_make_row(figure) for figure in result["figures"]),
        "",
        f"- `{result['command']}`, {result['date']}, commit {result['commit']}",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memoryGiB']:.0f} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}; load {machine['load']:.2f} at the start",
        f"- {', '.join(f'{key}: {value}' for key, value in result['setting'].items())}",
        *(f"- {note}" for note in result["notes"]),
        "",
    ]
    return "\n".join(lines)


def _make_row(figure: Mapping[str, Any]) -> str:
    spread, target = figure["spread"], figure.get("target")
    numbers = " | ".join(short(spread[key]) for key in ("min", "median", "p95", "max"))
    wanted = f"{target['statistic']} < {short(target['below'])}" if target else ""
    verdict = {None: "", True: "met", False: "**missed**"}[figure.get("met")]
    return f"| {figure['name']} ({figure['unit']}) | {spread['count']} | {numbers} | {wanted} | {verdict} |"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check say whether it is up to date."""
    page = make_page(read_results())
    if "--check" in arguments:
        if PAGE.read_text() == page:
            return 0
        sys.stderr.write(f"{PAGE.relative_to(CHECKOUT)} is out of date: run python -m bench.document\n")
        return 1
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
