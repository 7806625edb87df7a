"""A benchmark's result: a file for programs, a table for people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.machine import Machine
from bench.spread import Figure, round_to_digits

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark measured, and how.

    `setting` is what the figures depend on (numbers of services, rates, windows), `notes` what a reader must know to
    judge them.
    """

    name: str
    title: str
    machine: Machine
    command: str
    date: str
    commit: str
    setting: dict[str, Any]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    @property
    def missed(self) -> tuple[Figure, ...]:
        """Figures whose target was not met."""
        return tuple(figure for figure in self.figures if figure.met is False)

    def to_dict(self) -> dict[str, Any]:
        """What stands in the result file."""
        return {
            "benchmark": self.name,
            "title": self.title,
            "date": self.date,
            "commit": self.commit,
            "command": self.command,
            "machine": self.machine.to_dict(),
            "setting": self.setting,
            "figures": [figure.to_dict() for figure in self.figures],
            "missed": [figure.name for figure in self.missed],
            "notes": list(self.notes),
        }


def write_result(result: Result, folder: Path = RESULTS) -> Path:
    """Write the result file, named by the benchmark, in place of an earlier one; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_text(json.dumps(result.to_dict(), indent=2) + "\n")
    return path


def make_table(result: Result) -> RenderableType:
    """The result for people."""
    table = Table(title=result.title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("figure", overflow="fold")
    for heading in ("runs", "min", "median", "p95", "max", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for figure in result.figures:
        spread = figure.spread
        numbers = (short(value) for value in (spread.min, spread.median, spread.p95, spread.max))
        name = f"{figure.name} ({figure.unit})"
        table.add_row(name, str(spread.count), *numbers, _target(figure), _verdict(figure))
    setting = ", ".join(f"{key} {value}" for key, value in result.setting.items())
    lines = (str(result.machine), f"{result.date}, commit {result.commit}: {result.command}", setting, *result.notes)
    return Group(table, *(Text(line, style="dim") for line in lines))


def _target(figure: Figure) -> str:
    return f"{figure.target.statistic} < {short(figure.target.below)}" if figure.target else ""


def _verdict(figure: Figure) -> Text:
    if figure.met is None:
        return Text("")
    return Text("met", style="green") if figure.met else Text("MISSED", style="bold red")


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{round_to_digits(value, 3):,.10g}"
