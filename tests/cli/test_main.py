"""What a person meets first: `shoal` alone, the help of every command, tables in a pipe."""

from __future__ import annotations

import io
import sys

import pytest

from shoal.cli.console import WIDE, make_console
from shoal.cli.main import COMMANDS, main


def test_without_arguments_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr().err
    assert all(f"    {name}" in told for name in COMMANDS)
    assert "shoal plan --help" in told


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_ends_well(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_an_unknown_command_is_told_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plann"])
    assert ended.value.code == 2
    assert "'plan'" in capsys.readouterr().err


def test_a_pipe_is_wide_and_a_terminal_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console().width == WIDE
    monkeypatch.setenv("COLUMNS", "72")
    assert make_console().width == 72
