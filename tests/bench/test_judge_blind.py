"""Predictions against journals: every line is there, and errors are told against what was really seen."""

from __future__ import annotations

import json

import pytest

from bench.gpu_session.judge_blind import OPTIMISTIC, Bracket, Line, judge, main, read_runs, summary
from bench.gpu_session.predict import PREDICTIONS
from bench.gpu_session.results import RESULTS

SESSION = RESULTS / "h200-2026-11-28"
FROZEN = PREDICTIONS / "2026-11-28.json"


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    """The first session: its own journals made the profiles, so nothing here is blind."""
    return judge(read_runs(SESSION), json.loads(FROZEN.read_text())["entries"], [])


@pytest.mark.parametrize(
    ("bracket", "predicted", "error"),
    [
        (Bracket(90.0, 100.0), 94.868, pytest.approx(0.0, abs=1e-4)),  # narrow: against the middle
        (Bracket(90.0, 100.0), 120.0, pytest.approx(0.2649, abs=1e-4)),
        (Bracket(50.0, 100.0), 70.0, None),  # wide: neither right nor wrong
        (Bracket(50.0, 100.0), 125.0, pytest.approx(0.25)),
        (Bracket(50.0, 100.0), 40.0, pytest.approx(-0.2)),
        (Bracket(50.0, None), 60.0, None),  # nothing that was tried missed the objective
        (Bracket(50.0, None), 40.0, pytest.approx(-0.2)),
        (Bracket(0.0, 100.0), 150.0, pytest.approx(0.5)),
    ],
)
def test_error_against_a_bracket(bracket: Bracket, predicted: float, error: float | None) -> None:
    assert bracket.error(predicted) == error


def test_every_journal_of_the_session_is_a_line(lines: list[Line]) -> None:
    assert {line.run.name for line in lines} == {path.stem for path in SESSION.glob("*.jsonl")}


def test_other_mixes_are_answered_from_the_session_and_from_the_file(lines: list[Line]) -> None:
    named = {line.run.name: line for line in lines}
    line = named["qwen2.5-7b-long-prompts"]
    assert line.saturation == pytest.approx(36.2, abs=0.1)
    assert line.bracket is not None
    assert line.bracket.low == pytest.approx(32.56, abs=0.01)
    for name in ("frozen", "same session"):
        error = line.saturation_error(name)
        assert error is not None
        assert error == pytest.approx(line.answers[name].saturation / line.saturation - 1)
        assert abs(error) < OPTIMISTIC


def test_what_no_profile_has_is_left_empty(lines: list[Line]) -> None:
    named = {line.run.name: line for line in lines}
    assert named["opt-13b-starved"].answers["frozen"] is None  # the profile's row has five times its KV cache
    assert named["opt-1.3b-mps-k2"].answers["frozen"] is None


def test_its_own_mix_is_not_a_prediction_of_the_same_session(lines: list[Line]) -> None:
    assert all(line.answers["same session"] is None for line in lines if line.run.mix == "chat")
    assert not [row for row in summary(lines) if "another run | same session" in row]


def test_says_whether_it_is_blind(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["judge", str(SESSION), str(FROZEN)])
    assert main() == 0
    assert "NOT blind" in capsys.readouterr().out
