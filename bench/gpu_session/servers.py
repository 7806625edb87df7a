"""Starts vLLM servers together, each on its GPUs and cores, and waits for those that come up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from bench.gpu_session.plans import GIB, Engine

ADDRESS = "127.0.0.1"
MODELS = Path("/tmp/models")
VLLM = "vllm.entrypoints.openai.api_server"  # SHOAL_SESSION_SERVER=shoal.sim.server rehearses without GPUs
MPS_PIPE, MPS_LOG = "/tmp/mps", "/tmp/mpslog"
# With an explicit cache this is only what must be free at the start: others are on the GPU already.
LEAST_FREE = "0.1"
# No weights here, so none are loaded: speed and power do not depend on their values.
FIXED = ("--load-format", "dummy", "--no-enable-prefix-caching", "--disable-uvicorn-access-log")
PIN = "import os, sys; os.sched_setaffinity(0, {cpus}); os.execv(sys.argv[1], sys.argv[1:])"
ENVIRONMENT = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


class VllmServer:
    """One process group, pinned to some cores."""

    def __init__(self, engine: Engine, port: int, log: Path, cpus: Sequence[int], *, mps: bool) -> None:
        self.engine = engine
        self.url = f"http://{ADDRESS}:{port}"
        self.log = log
        self.arguments = make_arguments(engine, port)
        self.ready_seconds: float | None = None
        self.began = time.monotonic()
        environment = os.environ | ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ",".join(map(str, engine.gpus))}
        if mps:
            environment["CUDA_MPS_PIPE_DIRECTORY"] = MPS_PIPE
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PIN.format(cpus=set(cpus)), sys.executable, *self.arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self.process.poll() is not None

    def is_healthy(self) -> bool:
        """Whether it serves."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def last_lines(self, count: int = 12) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def stop(self) -> None:
        """End it and all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def make_arguments(engine: Engine, port: int) -> list[str]:
    """vLLM's command line after the interpreter."""
    return [
        *("-m", os.environ.get("SHOAL_SESSION_SERVER", VLLM), "--model", str(MODELS / engine.model)),
        *("--served-model-name", "m", "--host", ADDRESS, "--port", str(port)),
        *("--tensor-parallel-size", str(len(engine.gpus)), "--max-model-len", "2048"),
        *("--max-num-seqs", str(engine.seqs), "--max-num-batched-tokens", str(engine.chunk)),
        *("--kv-cache-memory-bytes", str(int(engine.kv_gib * GIB)), "--gpu-memory-utilization", LEAST_FREE, *FIXED),
    ]


def wait_all(servers: Sequence[VllmServer], seconds: float) -> list[VllmServer]:
    """Wait until each serves or has ended; return those that serve."""
    deadline = time.monotonic() + seconds
    pending = list(servers)
    while pending and time.monotonic() < deadline:
        for server in list(pending):
            if server.ended:
                pending.remove(server)
            elif server.is_healthy():
                server.ready_seconds = round(time.monotonic() - server.began, 1)
                pending.remove(server)
        time.sleep(0.3)
    return [server for server in servers if server.ready_seconds is not None]


def start_mps(gpu: int) -> None:
    """Start the MPS daemon for one GPU. Raises CalledProcessError."""
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": str(gpu),
        "CUDA_MPS_PIPE_DIRECTORY": MPS_PIPE,
        "CUDA_MPS_LOG_DIRECTORY": MPS_LOG,
    }
    for directory in (MPS_PIPE, MPS_LOG):
        Path(directory).mkdir(exist_ok=True)
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True)


def stop_mps() -> None:
    """End the daemon."""
    environment = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": MPS_PIPE}
    subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, env=environment, check=False, timeout=20)
