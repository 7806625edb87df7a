"""Starts vLLM with the very arguments that Shoal renders for a pod."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from shoal.api.engine_class import EngineClass
from shoal.api.gpu_pool import GPUPool
from shoal.api.model_service import ModelService
from shoal.domain.configuration import Configuration, Placement
from shoal.render.arguments import make_arguments
from shoal.render.recipe import Recipe

ADDRESS = "127.0.0.1"
START_SECONDS = 300.0
# Beside what Shoal renders: no weights here, so none are loaded; speed does not depend on their values.
EXTRA = ("--load-format", "dummy", "--no-enable-prefix-caching", "--disable-uvicorn-access-log")
ENVIRONMENT = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True, slots=True)
class Model:
    """A model's shape under `folder`. `overload` is an arrival rate (requests/s) beyond what it can serve."""

    name: str
    folder: Path
    overload: float
    kv_bytes: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048


class Server:
    """One vLLM server process on its own port."""

    def __init__(self, model: Model, port: int, log: Path) -> None:
        self.model = model
        self.port = port
        self.arguments = rendered_arguments(model, port)
        self._began = time.monotonic()
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *self.arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return f"http://{ADDRESS}:{self.port}"

    def wait(self) -> float:
        """Wait until it is healthy; return the seconds since its start. Raises RuntimeError when it ends first."""
        while time.monotonic() - self._began < START_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.model.name}: vLLM ended with {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return time.monotonic() - self._began
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise RuntimeError(f"{self.model.name}: vLLM is not healthy after {START_SECONDS:.0f} s")

    def metrics(self) -> bytes:
        """Return its /metrics page."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as page:
            body: bytes = page.read()
            return body

    def terminate(self) -> None:
        """Send SIGTERM, as the kubelet would."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def rendered_arguments(model: Model, port: int) -> list[str]:
    """Render the arguments for a pod; only the model's place, the port and the size of the KV cache differ here."""
    service = ModelService.model_validate(
        {
            "apiVersion": "shoal.dev/v1alpha1",
            "kind": "ModelService",
            "metadata": {"name": "bench", "namespace": "bench"},
            "spec": {"model": {"name": model.name, "servedName": "m"}, "slo": {"ttftMilliseconds": 500}},
        }
    )
    pool = GPUPool.model_validate(
        {
            "apiVersion": "shoal.dev/v1alpha1",
            "kind": "GPUPool",
            "metadata": {"name": "bench"},
            "spec": {
                "accelerator": "NVIDIA-H100-80GB-HBM3",
                "memory": {"perGPU": "80Gi"},
                "claim": {"dra": {"deviceClassName": "gpu.nvidia.com", "driver": "gpu.nvidia.com"}},
                "pricePerGPUHour": "1",
            },
        }
    )
    engine = EngineClass.model_validate(
        {
            "apiVersion": "shoal.dev/v1alpha1",
            "kind": "EngineClass",
            "metadata": {"name": "bench"},
            "spec": {"image": "vllm:v0.26.0", "version": "0.26.0", "extraArgs": EXTRA},
        }
    )
    configuration = Configuration(
        "NVIDIA-H100-80GB-HBM3",
        max_num_seqs=model.max_num_seqs,
        max_num_batched_tokens=model.max_num_batched_tokens,
    )
    recipe = Recipe(service, pool, engine, Placement("bench", configuration), 2048)
    rendered = make_arguments(recipe, 0)
    # Two servers share this GPU, one loaded at a time: each may look at less than half of it when it starts.
    here = {"$(POD_IP)": ADDRESS, model.name: str(model.folder), "8000": str(port), "0.90": "0.45"}
    arguments = [here.get(word, word) for word in rendered]
    at = arguments.index("--revision")
    del arguments[at : at + 2]
    return [*arguments, "--kv-cache-memory-bytes", str(model.kv_bytes)]
