"""Reports, merging, differences, imports: with files, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.api.load import load_files
from shoal.api.model_profile import ModelProfile
from shoal.cli.main import main
from shoal.domain.profile import Source

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "profiles" / "measured" / "measured-qwen2-5-7b-instruct-nvidia-h100-80gb-hbm3.yaml"
SIMULATED = ROOT / "profiles" / "simulated" / "sim-qwen2-5-7b-h100.yaml"
BENCH = {
    "model_id": "Qwen/Qwen2.5-7B-Instruct",
    "request_rate": 8.0,
    "burstiness": 1.0,
    "completed": 480,
    "total_input_tokens": 480 * 500,
    "total_output_tokens": 480 * 120,
    "request_throughput": 7.9,
    "mean_ttft_ms": 60.0,
    "median_ttft_ms": 50.0,
    "p99_ttft_ms": 180.0,
    "mean_tpot_ms": 9.0,
    "median_tpot_ms": 8.9,
    "p99_tpot_ms": 12.0,
}
TABLE = """model,isl,osl,prefix,concurrency,request_rate,bs,global_bs,ttft,tpot,request_latency,seq/s,seq/s/gpu,\
tokens/s,tokens/s/gpu,tokens/s/user,num_total_gpus,tp,pp,dp,parallel,memory,backend,version,system,power_w
MODEL,512,128,0,8,0,8,8,40.0,7.5,1000,8.0,8.0,1024,1024,133,1,1,1,1,tp1,20,vllm,0.22.0,h200_sxm,500
MODEL,512,128,0,64,0,64,64,90.0,14.0,1900,33.0,33.0,4224,4224,71,1,1,1,1,tp1,22,vllm,0.22.0,h200_sxm,650
MODEL,512,128,0,8,0,8,8,30.0,5.0,700,11.0,5.5,1408,704,200,2,2,1,1,tp2,12,vllm,0.22.0,h200_sxm,450
""".replace("MODEL", "Qwen/Qwen2.5-7B-Instruct")


def load(path: Path) -> ModelProfile:
    (resource,) = load_files([path])
    assert isinstance(resource, ModelProfile)
    return resource


@pytest.mark.parametrize("name", ["page.html", "page.png"])
def test_a_report_of_a_profile(name: str, tmp_path: Path) -> None:
    assert main(["profile", "report", str(MEASURED), "-o", str(tmp_path / name)]) == 0
    body = (tmp_path / name).read_bytes()
    assert len(body) > 10_000
    if name.endswith("html"):
        assert b"Qwen/Qwen2.5-7B-Instruct" in body
        assert b"<svg" in body
        assert b"Measured" in body


def test_a_report_needs_latencies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = ROOT / "profiles" / "mem-gap" / "mem-gap-opt-1-3b.yaml"
    assert main(["profile", "report", str(without), "-o", str(tmp_path / "x.html")]) == 2
    assert "there is nothing to draw" in capsys.readouterr().err


def test_equal_rows_are_replaced_and_others_added(tmp_path: Path) -> None:
    text = SIMULATED.read_text()
    changed = text.replace("tensorParallel: 2", "tensorParallel: 4").replace("overloadRate: ", "overloadRate: 1")
    (tmp_path / "newer.yaml").write_text(changed)
    out = tmp_path / "merged.yaml"
    assert main(["profile", "merge", str(SIMULATED), str(tmp_path / "newer.yaml"), "-o", str(out)]) == 0
    old, merged = load(SIMULATED).spec.rows, load(out).spec.rows
    assert sorted({row.tensor_parallel for row in merged}) == [1, 2, 4]
    newer = load(tmp_path / "newer.yaml").spec.rows[0]
    assert newer.overload_rate is not None
    assert merged[0].overload_rate == pytest.approx(newer.overload_rate, rel=1e-5)
    assert merged[0].overload_rate != old[0].overload_rate
    assert len(merged) == 6


def test_profiles_of_different_sources_are_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "merge", str(SIMULATED), str(MEASURED), "-o", str(tmp_path / "x.yaml")]) == 2
    assert "differ in engine: vllm 0.26.0 is not vllm 0.33.0" in capsys.readouterr().err


def test_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "diff", str(MEASURED), str(MEASURED)]) == 0
    rate = load(MEASURED).spec.rows[0].overload_rate
    assert rate is not None
    (tmp_path / "new.yaml").write_text(
        MEASURED.read_text().replace(f"overloadRate: {rate}", f"overloadRate: {rate * 1.1}")
    )
    capsys.readouterr()
    assert main(["profile", "diff", str(MEASURED), str(tmp_path / "new.yaml"), "-o", "json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["field"] == "overloadRate"
    assert found["change"] == pytest.approx(0.1)


def test_results_of_vllm_bench(tmp_path: Path) -> None:
    over = BENCH | {"request_rate": "inf", "request_throughput": 21.0}
    for name, run in (("a", BENCH), ("b", over)):
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    words = [
        "import",
        "vllm-bench",
        str(tmp_path / "a.json"),
        str(tmp_path / "b.json"),
        "--to",
        str(tmp_path / "p.yaml"),
    ]
    assert main([*words, "--accelerator", "NVIDIA-H100-80GB-HBM3", "--engine-version", "0.26.0"]) == 0
    spec = load(tmp_path / "p.yaml").spec
    assert spec.source is Source.MEASURED
    (row,) = spec.rows
    assert row.overload_rate == 21.0
    assert row.points is not None
    (point,) = row.points
    assert (point.requests_per_second, point.itl_milliseconds.mean, point.itl_milliseconds.p99) == (8.0, 9.0, 12.0)
    assert row.input_tokens.mean == 500.0


def test_estimates_of_aiconfigurator_are_labelled(tmp_path: Path) -> None:
    (tmp_path / "pareto.csv").write_text(TABLE)
    assert main(["import", "aiconfigurator", str(tmp_path / "pareto.csv"), "--to", str(tmp_path / "p.yaml")]) == 0
    spec = load(tmp_path / "p.yaml").spec
    assert spec.source is Source.ESTIMATED
    assert (spec.accelerator, spec.engine.version) == ("NVIDIA-H200", "0.22.0")
    assert [(row.tensor_parallel, row.overload_rate, row.max_num_seqs) for row in spec.rows] == [
        (1, 33.0, 64),
        (2, 11.0, 8),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vllm-bench", "x.json", "--accelerator", "A", "--engine-version", "1"], "is not a result of vllm bench"),
        (["vllm-bench", "x.json"], "give --accelerator"),
        (["aiconfigurator", "x.json"], "is not a table of AIConfigurator: it lacks model"),
    ],
)
def test_files_of_another_kind(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.json").write_text("[]")
    assert main(["import", *words, "--to", "p.yaml"]) == 1
    assert message in capsys.readouterr().err
