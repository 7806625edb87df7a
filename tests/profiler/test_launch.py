"""The profiler starts engines itself: simulated ones here, over several configurations, one of which cannot start."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from profiler_world import MODEL, sim_environment, write_truth

from shoal.api.load import load_files
from shoal.api.model_profile import ModelProfile
from shoal.profiler.command import make_parser, run
from shoal.profiler.engines import make_command
from shoal.profiler.plan import Lane, load_plan, make_jobs


def write_plan(tmp_path: Path, *configurations: dict[str, object], budget: float = 5.0) -> Path:
    write_truth(tmp_path)
    plan = {
        "engine": {
            "command": [sys.executable, "-m", "shoal.sim.server"],
            "args": ["--max-model-len", "2048"],
            "env": sim_environment(tmp_path),
        },
        "accelerator": "NVIDIA-L40S",
        "lengths": "gamma:64,32",
        "slo": "ttft=400",
        "horizon": 3,
        "warm_up": 0.5,
        "probe": 1,
        "budget": budget,
        "tolerance": 0.3,
        "probes": False,
        "lanes": [{"gpus": [0], "clients": 1}],
        "models": [{"name": MODEL, "parameters": 1e9, "configurations": list(configurations)}],
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def launch(plan: Path, out: Path) -> int:
    return run(make_parser().parse_args(["--plan", str(plan), "-o", str(out)]))


@pytest.mark.long
def test_engines_are_started_measured_and_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"engines": 2, "max_num_seqs": 4, "max_num_batched_tokens": 512, "kv": "32MiB"}
    hopeless = {"max_num_seqs": 4, "kv": "1MiB"}  # one context does not fit
    plan, out = write_plan(tmp_path, hopeless, small, budget=0.5), tmp_path / "out"
    launch(plan, out)
    summary = json.loads((out / "summary.json").read_text())
    states = {name.partition("-kv")[0]: outcome["state"] for name, outcome in summary.items()}
    assert states["tiny-1b-tp1-k1-b4-c2048"] == "failed"
    assert "more KV cache memory is needed" in next(o["why"] for o in summary.values() if o["state"] == "failed")
    assert states["tiny-1b-tp1-k2-b4-c512"] in ("measured", "out of budget")
    (resource,) = load_files([out / "tiny-1b.yaml"])
    assert isinstance(resource, ModelProfile)
    (row,) = resource.spec.rows
    assert row.engines_per_gpu == 2
    assert not row.mps
    capsys.readouterr()
    launch(plan, out)  # neither what is done nor what failed is started again
    assert "starting" not in capsys.readouterr().out


def test_the_command_line_of_an_engine(tmp_path: Path) -> None:
    plan = load_plan(write_plan(tmp_path, {"engines": 4, "mps": True, "kv": "2GiB", "args": ["--seed", "{port}"]}))
    (job,) = make_jobs(plan)
    words = make_command(plan.engine, job, Lane(gpus=[0], server_cpus=[0]), "m", 8101)
    assert words[1] == "-c"  # pins itself to its CPUs, then becomes the engine
    text = " ".join(words[3:])
    assert f"--model {MODEL} --served-model-name m --host 127.0.0.1 --port 8101" in text
    assert "--kv-cache-memory-bytes 2147483648" in text
    assert "--gpu-memory-utilization 0.225" in text
    assert text.endswith("--max-model-len 2048 --seed 8101")
