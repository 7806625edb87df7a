"""Predictions are frozen: what is written is what the planner said, and it is not written twice."""

from __future__ import annotations

import json

import pytest

from bench.gpu_session import predict
from bench.gpu_session.estimate_aic import PREDICTIONS as ESTIMATES
from bench.gpu_session.estimate_aic import config_of
from shoal.domain.profile import LengthMix, ProfileRow, StepModel
from shoal.planner.curves import KNEE
from shoal.profiler.lengths import parse_lengths

ROW = ProfileRow(
    tensor_parallel=1,
    engines_per_gpu=2,
    max_num_seqs=256,
    max_num_batched_tokens=2048,
    kv_cache_tokens=200_000,
    lengths=LengthMix(512, 128, 1200, 300),
    overload_rate=20.0,
    steps=StepModel(5.0, 0.02, 0.0001, 0.0, 0.0),
)


def test_its_own_mix_is_what_was_measured() -> None:
    rating = predict.rate(ROW, ROW.lengths)
    assert rating is not None
    assert predict.rates_of(rating, 2) == {
        "saturation": 40.0,
        "knee": pytest.approx(40 * KNEE),
        "planned": pytest.approx(0.9 * 40 * KNEE),
        "margin": 0.9,
        "limit": "measured knee",
        "notes": [],
    }


def test_longer_answers_lower_every_rate_and_the_margin() -> None:
    here = predict.rate(ROW, ROW.lengths)
    there = predict.rate(ROW, parse_lengths("gamma:512,320").mix(2000))
    assert here is not None
    assert there is not None
    assert predict.knee_of(there) < predict.knee_of(here)
    assert there.capacity.margin < here.capacity.margin


def test_a_written_file_stays(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(predict, "PREDICTIONS", tmp_path)
    monkeypatch.setattr("sys.argv", ["predict", "day"])
    (tmp_path / "day.json").write_text("{}")
    assert predict.main() == 1
    assert "written once" in capsys.readouterr().err
    assert (tmp_path / "day.json").read_text() == "{}"


def test_every_configuration_has_both_answers() -> None:
    ours = json.loads((predict.PREDICTIONS / "2026-11-28.json").read_text())["entries"]
    theirs = json.loads((ESTIMATES / "2026-11-28-aiconfigurator.json").read_text())["entries"]
    key = ("model", "accelerator", "tensorParallel", "enginesPerGPU", "maxNumBatchedTokens", "kvCacheTokens", "mix")
    assert [[e[k] for k in key] for e in ours] == [[e[k] for k in key] for e in theirs]
    assert {e["mix"] for e in ours} == set(predict.MIXES)
    assert all("none" in e for e in theirs if e["model"].startswith("facebook/"))
    assert all("saturation" in e for e in theirs if e["model"].startswith("Qwen/"))


def test_heads_divide_the_hidden_size() -> None:
    config = config_of("Qwen/Qwen2.5-7B-Instruct")
    assert config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]
