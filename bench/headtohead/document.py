"""Writes docs/head-to-head.md and its plots from the result files: `python -m bench.headtohead.document`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import yaml

from bench.headtohead import report
from bench.headtohead.scaling import Bench
from bench.machine import CHECKOUT, read_machine

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "shoal"  # the same file from the same results

from matplotlib import pyplot  # noqa: E402 - after the choice of the backend

FOLDER = Path(__file__).resolve().parent
PAGE = CHECKOUT / "docs" / "head-to-head.md"
PLOTS = CHECKOUT / "docs" / "head-to-head"
COLOURS = {"shoal": "tab:red", "hpa": "tab:blue", "kpa": "tab:green", "dynamo": "tab:purple", "keda": "tab:brown"}


def make_page(bench: Bench, findings: str) -> str:
    """The whole page."""
    parts = [(FOLDER / "page-head.md").read_text(), findings, "## Engines", "", *report.profile_table(bench)]
    for place in report.read_places(bench):
        plot = f"![attainment against GPU-hours](head-to-head/{plot_name(place)})"
        parts += _section(bench, place, place.scenario.capitalize(), plot)
    for place in report.read_places(bench, "fresh.jsonl"):
        note = "Nothing was looked at on these seeds while the planner was made."
        parts += _section(bench, place, f"{place.scenario.capitalize()} on fresh seeds", note)
    parts += [(FOLDER / "page-constant.md").read_text(), *report.constant_table(bench, "constant.jsonl")]
    parts += [(FOLDER / "page-constant-c.md").read_text(), *report.constant_table(bench, "constant-c.jsonl")]
    parts += [(FOLDER / "page-sizing.md").read_text(), *report.sizing_table(bench)]
    parts += [(FOLDER / "page-mixes.md").read_text(), *report.mixes_table(bench)]
    parts += [
        "## Where it was run",
        "",
        f"In virtual time, so that the machine does not matter (but for times of the GPU mixes: {read_machine()}). "
        f"Results were made from {', '.join(report.commits(bench))}.",
        "",
    ]
    return "\n".join(parts)


def _section(bench: Bench, place: report.Place, title: str, below: str) -> list[str]:
    return [
        f"## {title}: {place.engine}, {place.router.replace('_', ' ')}",
        "",
        below,
        "",
        *report.scaling_table(bench, place),
        *report.bound_lines(bench, place),
        *report.judge_place(place),
    ]


def plot_name(place: report.Place) -> str:
    """File of a place's plot."""
    return f"{place.scenario}-{place.engine}-{place.router}.svg"


def draw(place: report.Place, path: Path) -> None:
    """Attainment against GPU-hours: one point for each seed. Up and to the left is better."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, runs in sorted(place.runs.items()):
        policy, _, variant = name.partition(" ")
        axes.scatter(
            [row["gpuHours"] for row in runs.values()],
            [100 * row["attainment"] for row in runs.values()],
            s=22,
            marker={"default": "o", "tuned": "^", "": "*"}.get(variant, "s"),
            color=COLOURS.get(policy, "0.6"),
            label=name if policy != "static" else None,
        )
        if policy == "static":
            row = next(iter(runs.values()))
            axes.annotate(variant, (row["gpuHours"], 100 * row["attainment"]), color="0.4", fontsize=8)
    axes.set_xlabel("GPU-hours")
    axes.set_ylabel("requests within both objectives, %")
    axes.set_title(f"{place.scenario}, {place.engine}, {place.router} (grey: static N)", fontsize=10)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> int:
    """Write page and plots."""
    plan = yaml.safe_load((FOLDER / "plan.yaml").read_text())
    bench = Bench(plan, FOLDER / "results", CHECKOUT / ".run" / "headtohead")
    PLOTS.mkdir(exist_ok=True)
    for place in report.read_places(bench):
        draw(place, PLOTS / plot_name(place))
    PAGE.write_text(make_page(bench, (FOLDER / "page-findings.md").read_text()))
    sys.stderr.write(f"written: {PAGE.relative_to(CHECKOUT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
