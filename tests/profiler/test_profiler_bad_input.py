"""What is wrong with a server, a name or a budget is said in words, and what was measured is kept."""

from __future__ import annotations

import http.server
import json
import threading
import time
from pathlib import Path

import pytest
import yaml
from profiler_world import QUICK, post, profile, sim_server

from shoal.api.load import load_files
from shoal.api.model_profile import ModelProfile
from shoal.profiler.errors import ProfilerError
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.specs import parse_objective


def journal_lines(path: Path) -> list[str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [f"{line['point']['spec']['name']}" for line in lines if line["type"] == "point"]


def test_a_server_that_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert profile("--url", "http://127.0.0.1:9", *QUICK, "-o", str(tmp_path / "p.yaml")) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "p.yaml").exists()


def test_something_else_than_a_model_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert profile("--url", url, *QUICK, "-o", str(tmp_path / "p.yaml")) == 1
        server.shutdown()
    assert "is this an OpenAI-compatible server?" in capsys.readouterr().err


def test_a_name_that_the_server_does_not_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sim_server(tmp_path) as server:
        assert profile("--url", server.url, "--model", "gpt", *QUICK, "-o", str(tmp_path / "p.yaml")) == 1
    assert "serves tiny, not gpt: use --model tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("errors", "the server answers no request: HTTP 500"),
        ("empty-stream", "the server answers no request: the answer was an empty stream"),
        ("slow=3000", "the server answers no request"),
    ],
)
def test_a_server_that_answers_nothing_of_use(
    fault: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.profiler.measure.WARM_LIMIT_SECONDS", 4.0)
    with sim_server(tmp_path, fault=fault) as server:
        assert profile("--url", server.url, *QUICK, "-o", str(tmp_path / "p.yaml")) == 1
    assert message in capsys.readouterr().err


def test_a_server_that_hangs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.profiler.server._TIMEOUT", 1.0)
    with sim_server(tmp_path, fault="hang") as server:
        assert profile("--url", server.url, *QUICK, "-o", str(tmp_path / "p.yaml")) == 1
    assert "cannot be reached (timed out)" in capsys.readouterr().err


def test_a_server_that_is_too_slow_for_the_horizon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sim_server(tmp_path, fault="slow=60") as server:  # 0.24 s for a token, 8 s for an answer
        assert profile("--url", server.url, *QUICK, "-o", str(tmp_path / "p.yaml")) == 1
    assert "use a longer --probe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crash", "no longer answers"),
        ("errors", "requests failed in step overload"),
        ("empty-stream", "the answer was an empty stream"),
        ("hang", "no longer answers"),
    ],
)
def test_a_server_that_fails_before_its_saturation(
    fault: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that all fail are no saturation of 0. What was measured before stands in the journal."""
    monkeypatch.setattr("shoal.profiler.server._TIMEOUT", 1.0)
    journal, output = tmp_path / "p.jsonl", tmp_path / "p.yaml"
    with sim_server(tmp_path) as server:

        def break_when_full() -> None:
            while not (journal.exists() and '"full"' in journal.read_text()):
                time.sleep(0.05)
            post(f"{server.url}/sim/faults", json.dumps({"faults": [fault]}).encode())

        threading.Thread(target=break_when_full, daemon=True).start()
        assert profile("--url", server.url, *QUICK, "-o", str(output)) in (1, 3)
    assert message in capsys.readouterr().err
    assert journal_lines(journal)[:2] == ["idle", "full"]


@pytest.mark.long
def test_a_server_that_dies_midway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal, output = tmp_path / "p.jsonl", tmp_path / "p.yaml"
    with sim_server(tmp_path) as server:

        def crash_when_overloaded() -> None:
            while not (journal.exists() and '"overload"' in journal.read_text()):
                time.sleep(0.05)
            post(f"{server.url}/sim/faults", b'{"faults": ["crash"]}')

        threading.Thread(target=crash_when_overloaded, daemon=True).start()
        assert profile("--url", server.url, *QUICK, "-o", str(output)) == 3
    assert "no longer answers" in capsys.readouterr().err
    (resource,) = load_files([output])
    assert isinstance(resource, ModelProfile)
    (row,) = resource.spec.rows
    assert row.overload_rate is not None
    assert row.provenance is not None
    assert row.provenance.partial is True
    assert "PARTIAL" in (row.provenance.notes or "")
    assert "PARTIAL" in (resource.spec.provenance.notes if resource.spec.provenance else "" or "")


@pytest.mark.long
def test_a_budget_that_is_too_short_and_then_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "p.yaml"
    with sim_server(tmp_path) as server:
        words = ("--url", server.url, *QUICK, "--horizon", "2", "--tolerance", "0.5", "-o", str(output))
        assert profile(*words, "--budget", "0.02") == 1
        assert "out of budget before step idle" in capsys.readouterr().err
        assert not output.exists()
        assert profile(*words, "--budget", "0.3") == 3
        assert "the same command with a larger --budget continues" in capsys.readouterr().err
        assert yaml.safe_load(output.read_text())["spec"]["rows"][0]["provenance"]["partial"] is True
        before = (tmp_path / "p.jsonl").read_text()
        done = journal_lines(tmp_path / "p.jsonl")
        assert profile(*words, "--budget", "10", "--no-probes") == 0
    assert (tmp_path / "p.jsonl").read_text().startswith(before)
    after = journal_lines(tmp_path / "p.jsonl")
    assert after[: len(done)] == done
    assert after.count("idle") == after.count("full") == 1
    assert "partial" not in yaml.safe_load(output.read_text())["spec"]["rows"][0]["provenance"]


def test_a_journal_of_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sim_server(tmp_path) as server:
        words = ("--url", server.url, *QUICK, "-o", str(tmp_path / "p.yaml"), "--budget", "0.02")
        profile(*words)
        assert profile(*words, "--seed", "2") == 1
    assert "belongs to other settings (seed differ)" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["ttft", "ttft=0", "speed=4", "p=20", "itl=abc"])
def test_an_objective_that_is_none(text: str) -> None:
    with pytest.raises(ProfilerError, match="objective"):
        parse_objective(text)


@pytest.mark.parametrize("text", ["gamma:512", "fixed:0,12", "lognormal:a,b", "no-such-file.csv", "gamma:512,128,-1"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(ProfilerError, match="lengths"):
        parse_lengths(text)


def test_a_file_of_lengths(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,answer\n100,20\n300,40\n")
    prompts, outputs = parse_lengths(str(path)).draw(100, seed=1, longest=2048)
    assert set(zip(prompts.tolist(), outputs.tolist(), strict=True)) == {(100, 20), (300, 40)}
    path.write_text('{"input": 7, "output": 3}\n{"prompt_tokens": 8, "completion_tokens": 0}\n')
    with pytest.raises(ProfilerError, match="line 2: expected two whole numbers"):
        parse_lengths(str(path))
