"""Figures, targets, result files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import document
from bench.machine import Machine, read_commit, read_machine
from bench.report import Result, make_table, write_result
from bench.spread import Target, make_figure, make_spread

MACHINE = Machine("a CPU", 2, 24.0, "6.1", "3.11.2", 0.1)


def make_result(*values: float) -> Result:
    figure = make_figure("apply to Deployment", "s", values, Target(1.0))
    setting = {"services": len(values)}
    return Result(
        "x", "X", MACHINE, "python -m bench x", "2026-01-01T00:00:00Z", "abc", setting, (figure,), ("a note",)
    )


def test_spread_of_known_values() -> None:
    spread = make_spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (spread.count, spread.min, spread.median, spread.max) == (5, 1.0, 3.0, 5.0)
    assert spread.p95 == pytest.approx(4.8)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_spread_is_ordered_and_inside_the_values(values: list[float]) -> None:
    spread = make_spread(values)
    slack = 1e-9 * max(values)
    assert min(values) == spread.min <= spread.median + slack
    assert spread.median <= spread.p95 + slack
    assert spread.p95 <= spread.max + slack
    assert spread.max == max(values)


def test_nothing_measured_is_an_error_not_zero() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        make_figure("x", "s", [])


@pytest.mark.parametrize(
    ("statistic", "met"), [("median", True), ("p95", False), ("max", False)], ids=["median", "p95", "max"]
)
def test_target_looks_at_its_statistic(statistic: str, met: bool) -> None:
    assert make_figure("x", "s", [0.1, 0.2, 3.0], Target(1.0, statistic)).met is met  # type: ignore[arg-type]


def test_a_value_at_the_target_has_missed_it() -> None:
    assert make_figure("x", "s", [1.0], Target(1.0)).met is False
    assert make_figure("x", "s", [1.0]).met is None


def test_result_file_says_how_it_came_about(tmp_path: Path) -> None:
    written = json.loads(write_result(make_result(0.5, 2.0, 1.5), tmp_path).read_text())
    assert written["missed"] == ["apply to Deployment"]
    assert written["machine"] == {
        "cpu": "a CPU",
        "cores": 2,
        "memoryGiB": 24.0,
        "kernel": "6.1",
        "python": "3.11.2",
        "load": 0.1,
    }
    assert written["figures"][0]["spread"] == {"count": 3, "min": 0.5, "median": 1.5, "p95": 1.95, "max": 2.0}
    assert written["figures"][0]["target"] == {"statistic": "median", "below": 1.0}
    assert {"date", "commit", "command", "setting", "notes"} <= written.keys()


@pytest.mark.parametrize(("value", "verdict"), [(0.5, "met"), (2.0, "MISSED")])
def test_table_prints_a_missed_target_as_missed(value: float, verdict: str) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(make_table(make_result(value)))
    assert verdict in console.export_text()


def test_this_machine_can_be_described() -> None:
    machine = read_machine()
    assert machine.cores >= 1
    assert machine.memoryGiB > 0
    assert str(machine.cores) in str(machine)
    assert read_commit()


def test_the_page_is_written_from_the_results() -> None:
    assert document.PAGE.read_text() == document.make_page(document.read_results())


def test_the_page_tells_what_was_missed() -> None:
    page = document.make_page({"fleet200": make_result(2.0).to_dict()})
    assert "| apply to Deployment (s) | 1 | 2 | 2 | 2 | 2 | median < 1 | **missed** |" in page
    assert "python -m bench x" in page
