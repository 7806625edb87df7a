"""`shoal simulate` from the command line."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from types import ModuleType

import pytest

from shoal.cli.main import main
from shoal.sim.scenario_file import shipped_scenarios

KEYS = {
    "attainment", "gpuHours", "moves", "requests", "lost", "p50TtftMs", "p95TtftMs", "p99TtftMs", "p95ItlMs",
    "costPerHour",
}  # fmt: skip
SHORT = """
startup_seconds: 10
pools: [{name: l40s, accelerator: NVIDIA-L40S, gpus: 2, memory_gib: 48, max_clock_mhz: 2520, price_per_gpu_hour: 2}]
services:
- {name: chat, model: Qwen/Qwen2.5-7B-Instruct, objective: {itl_ms: 80}, schedule: [[30, 2]]}
"""


@pytest.fixture
def short(tmp_path: Path) -> str:
    path = tmp_path / "short.yaml"
    path.write_text(SHORT)
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    lines = [{"timestamp": 500 * n, "input_length": 300 + n, "output_length": 20} for n in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {**lines[-1], "input_length": 90_000}]))
    return str(path)


def test_one_json_object_with_the_promised_keys(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--scenario", short, "-o", "json"]) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed.keys() >= KEYS
    assert captured.err == ""
    assert isinstance(printed["moves"], int)
    assert printed["requests"] == printed["answered"] + printed["refused"] + printed["lost"] + printed["inFlight"]
    assert 0 < printed["p50TtftMs"] <= printed["p95TtftMs"] <= printed["p99TtftMs"]
    assert printed["costPerHour"] == pytest.approx(2 * printed["gpuHours"] / (30 / 3600), rel=1e-3)


def test_a_trace_alone_is_played_on_the_shipped_service(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--trace", trace, "-o", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["requests"], printed["seconds"], printed["lost"]) == (61, 29.5, 0)
    assert printed["services"][0]["shortened"] == 1
    assert main(["simulate", "--trace", trace, "--speed", "2", "--seconds", "10"]) == 0
    assert "default with trace.jsonl: 5 s" in capsys.readouterr().out


def test_a_trace_in_place_of_a_scenarios_traffic(short: str, trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--scenario", short, "--trace", trace, "--policy", "static:2", "-o", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["policy"], printed["mostGPUs"], printed["requests"]) == ("static:2", 2, 61)


def test_traces_are_named_in_scenarios_too(tmp_path: Path, trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "with-trace.yaml"
    path.write_text(SHORT.replace("schedule: [[30, 2]]", "traffic: {kind: trace, file: trace.jsonl, seconds: 10}"))
    assert main(["simulate", "--scenario", str(path), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 21


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--scenario", "heat", "--trace", "TRACE"),
            "which service gets the trace? Give --service, one of",
        ),
        (("--trace", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--trace", "TRACE", "--speed", "0"), "a speed of 0.0 plays nothing"),
        (("--trace", "TRACE", "--policy", "static:1,pool=none"), "chat may not use pool none"),
    ],
)
def test_what_cannot_be_played_is_said_in_a_line(
    words: tuple[str, ...], told: str, trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *(trace if word == "TRACE" else word for word in words)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("shoal simulate: ")
    assert captured.err.count("\n") == 1
    assert told in captured.err


def test_neither_scenario_nor_trace_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate"]) == 2
    assert "give --scenario NAME|FILE, --trace FILE, or both" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--policy", "magic"), ("--plot", "picture.txt"), ("--routing", "random")])
def test_wrong_arguments(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", "--scenario", "step", *words])
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_picture(short: str, tmp_path: Path, suffix: str, begin: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"picture.{suffix}"
    assert main(["simulate", "--scenario", short, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(begin)
    assert "within the SLO" in capsys.readouterr().out


def test_without_matplotlib_a_picture_is_refused_before_anything_is_played(
    short: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> ModuleType:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["simulate", "--scenario", short, "--plot", "picture.png"]) == 1
    captured = capsys.readouterr()
    assert "pip install matplotlib" in captured.err
    assert captured.out == ""


def test_a_scenario_of_each_kind_is_shipped() -> None:
    wanted = {"step", "constant", "diurnal", "flash-crowd", "bursts", "heat", "gpu-loss", "default"}
    assert wanted <= set(shipped_scenarios())
