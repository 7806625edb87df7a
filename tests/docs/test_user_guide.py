"""The user guide knows every condition and reason that the code gives, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shoal.domain.reasons import Binding, HoldReason, ProfileState, Rejection
from shoal.render.reasons import ConditionReason, ConditionType, EventReason, ProblemReason, RunReason

GUIDE = (Path(__file__).parents[2] / "docs" / "user-guide.md").read_text()
REASONS = (ConditionReason, ProblemReason, HoldReason, Binding, ProfileState, EventReason)


def read_table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    section = re.split(r"^#+ ", GUIDE.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def words(heading: str) -> list[str]:
    return [row[0].strip("`") for row in read_table(heading)]


def test_every_condition_is_explained() -> None:
    assert words("## What the conditions mean") == [str(kind) for kind in ConditionType]


def test_every_reason_is_explained_once() -> None:
    told = words("### Reasons")
    assert sorted(told) == sorted({str(reason) for kind in REASONS for reason in kind})


def test_every_reason_of_a_run_is_explained() -> None:
    assert words("### Reasons of a ProfileRun") == [str(reason) for reason in RunReason]


def test_every_rejection_is_explained() -> None:
    assert words("### Why a configuration is not in the plan") == [str(reason) for reason in Rejection]


@pytest.mark.parametrize("row", read_table("### Reasons"), ids=lambda row: row[0].strip("`"))
def test_reasons_name_conditions_that_exist(row: list[str]) -> None:
    named = {word.strip() for word in row[1].split(",") if word.strip()}
    places = {str(kind) for kind in ConditionType} | {"events", "`plan.bindingConstraint`"}
    assert named <= places
