"""What the tests of the profiler share: a small simulated engine as a process, command lines, made-up points."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.ports import free_port
from shoal.api.model_profile import Provenance
from shoal.domain.profile import LengthMix, ModelFacts, Profile, ProfileRow, Source, StepModel
from shoal.profiler.command import make_parser, run
from shoal.profiler.points import Point, Statistic
from shoal.profiler.specs import Kind, Spec
from shoal.sim.profile_files import render_profile

MODEL = "acme/tiny-1b"
STEPS = StepModel(alpha_ms=4.0, beta_ms_per_token=0.05, gamma_ms_per_kv_token=0.0005)
BATCH, CHUNK = 8, 512
QUICK = (
    *("--horizon", "3", "--warm-up", "0.5", "--probe", "1", "--clients", "1", "--repeats", "1", "--most-lag", "500"),
    *("--lengths", "gamma:64,32", "--max-num-seqs", str(BATCH), "--max-num-batched-tokens", str(CHUNK)),
    *("--accelerator", "NVIDIA-L40S", "--profile-model", MODEL, "--slo", "ttft=300", "--tolerance", "0.2"),
)


@dataclass
class SimProcess:
    """A running simulated engine."""

    url: str
    process: subprocess.Popen[bytes]


def write_truth(directory: Path) -> None:
    """The profile that the engine obeys."""
    row = ProfileRow(1, 1, BATCH, CHUNK, 32_000, LengthMix(64, 32, 150, 75), steps=STEPS)
    profile = Profile(
        name="tiny",
        namespace="default",
        model=MODEL,
        accelerator="NVIDIA-L40S",
        engine="vllm",
        engine_version="0.26.0",
        source=Source.SIMULATED,
        facts=ModelFacts(parameters=1e9, weights_bytes=2e9, kv_bytes_per_token=1000, max_context_tokens=4096),
        rows=(row,),
    )
    (directory / "tiny.yaml").write_text(render_profile(profile, Provenance(tool="test"), "for a test"))


def sim_environment(directory: Path, fault: str = "") -> dict[str, str]:
    found = {
        "SHOAL_SIM_PROFILE_DIR": str(directory),
        "SHOAL_SIM_STARTUP_SECONDS": "0",
        "SHOAL_SIM_MAX_WAITING": "0",
        "SHOAL_SIM_STREAM_SECONDS": "0.1",
        "SHOAL_SIM_FAULTS": "1",
    }
    return found | ({"SHOAL_SIM_FAULT": fault} if fault else {})


@contextlib.contextmanager
def sim_server(directory: Path, *, fault: str = "") -> Iterator[SimProcess]:
    """A server of MODEL, by the name `tiny`, that listens."""
    write_truth(directory)
    port = free_port()
    words = ["--model", MODEL, "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--max-model-len", "2048"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal.sim.server", *words],
        env={**os.environ, **sim_environment(directory, fault)},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with contextlib.suppress(TimeoutError, OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield SimProcess(url, process)
    finally:
        process.kill()
        process.wait()


def profile(*words: str) -> int:
    """Run a command line; its exit status."""
    return run(make_parser().parse_args(list(words)))


def post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
        pass


def statistic(value: float) -> Statistic:
    near = (value * 0.98, value * 1.02)
    return Statistic(value, value, value, value, value, near, near, near)


def made_point(name: str, *, rate: float | None = None, connections: int = 0, seed: int = 1, **changes: Any) -> Point:
    """A point as a measurement makes them; all of it answered in time unless `changes` says otherwise."""
    kind = Kind.OPEN if rate is not None else Kind.CLOSED
    spec = Spec(name, kind, 60.0, 10.0, seed, "gamma:512,128", rate=rate, connections=connections)
    served = rate if rate is not None else 10.0
    values: dict[str, Any] = {
        "spec": spec,
        "began": 1.7e9,
        "took": 70.0,
        "planned": round(served * 60),
        "answered": round(served * 60),
        "failed": 0,
        "under_way": 0,
        "finished_rate": served,
        "output_rate": served * 128,
        "prompt_rate": served * 512,
        "late_first": 0,
        "late_gap": 0,
        "gap_ms": 10.0,
        "decoding": served * 128 * 0.01,
        "context": 600.0,
        "output_mean": 128.0,
        "growth": 0.0,
        "prompt_quantiles": (200.0, 500.0, 900.0),
        "ttft": statistic(50.0),
        "itl": statistic(10.0),
        "e2e": statistic(1400.0),
        "client_processes": 1,
        "client_cpu": 0.1,
        "send_lag_p99_ms": 1.0,
    }
    return Point(**{**values, **changes})
