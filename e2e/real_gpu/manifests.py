"""What an administrator and a user would apply for the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from e2e.devcluster import NodeConfig

TEAM = "team-a"
POOL = "real"
SERVICE = "chat"
MODEL = "Qwen/Qwen2.5-7B-Instruct"
WEIGHTS = "qwen2.5-7b"
# No weights here: speed and power do not depend on their values. Prompts are random, so nothing could be cached.
ENGINE_ARGS = ("--load-format", "dummy", "--no-enable-prefix-caching", "--disable-uvicorn-access-log")
ENGINE_ENV = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}

Object = dict[str, Any]


def make_node(accelerator: str, gpus: int, memory_gib: int, *, simulated: bool) -> NodeConfig:
    """The one node: this machine."""
    return NodeConfig(
        "gpu-real", accelerator, gpus=gpus, memory=f"{memory_gib}Gi", claim="dra", cpu=32, ram="256Gi",
        simulated=simulated,
    )  # fmt: skip


def make_pool(accelerator: str, memory_gib: int) -> Object:
    """All GPUs of the machine."""
    return _object(
        "GPUPool",
        POOL,
        {
            "accelerator": accelerator,
            "memory": {"perGPU": f"{memory_gib}Gi", "reserve": "2Gi"},
            "claim": {"dra": {"deviceClassName": "gpu.nvidia.com", "driver": "gpu.nvidia.com"}},
            "pricePerGPUHour": "7.50",
            "link": "NVLink",
            "namespaces": [{"selector": {"matchLabels": {"kubernetes.io/metadata.name": TEAM}}}],
        },
    )


def make_service(*, ttft_ms: float, itl_ms: float, rate: float) -> Object:
    """One model with an objective; its files come from an image, as nothing can be downloaded here."""
    spec = {
        "model": {
            "name": MODEL,
            "maxContextTokens": 2048,
            "source": {"ociImage": {"reference": f"models.local/{WEIGHTS}:dummy"}},
        },
        "pools": [POOL],
        "parallelism": {"tensor": [1]},
        "slo": {"ttftMilliseconds": ttft_ms, "itlMilliseconds": itl_ms},
        "workload": {
            "requestsPerSecond": rate,
            "inputTokens": {"mean": 512, "p95": 1213},
            "outputTokens": {"mean": 128, "p95": 303},
        },
    }
    return _object("ModelService", SERVICE, spec) | {"metadata": {"name": SERVICE, "namespace": TEAM}}


def read_profile(path: Path, accelerator: str) -> Object:
    """A ModelProfile from a file, for the namespace of the operator. Raises ValueError when it is of another GPU."""
    profile: Object = yaml.safe_load(path.read_text(encoding="utf-8"))
    if profile["spec"]["accelerator"] != accelerator:
        raise ValueError(f"{path} was measured on {profile['spec']['accelerator']}; this machine has {accelerator}")
    return profile


def make_values(*, engine_version: str, simulated_profiles: Path | None) -> Object:
    """Values of the chart: real vLLM, or the simulated engine for a rehearsal."""
    engine: Object = {"version": engine_version, "spec": {"allowedSources": ["OCIImage"]}}
    if simulated_profiles is None:
        engine["image"] = {"repository": "vllm-openai", "tag": f"v{engine_version}"}
        engine["env"] = ENGINE_ENV
        engine["spec"] |= {"extraArgs": list(ENGINE_ARGS), "startupSeconds": 600}
    else:
        engine["image"] = {"repository": "shoal-sim-engine", "tag": "dev"}
        engine["env"] = {"SHOAL_SIM_PROFILE_DIR": str(simulated_profiles), "SHOAL_SIM_STARTUP_SECONDS": "20"}
    return {"operator": {"shrinkAfterSeconds": 30, "logFormat": "text"}, "engineClass": engine}


def dump(objects: Sequence[Object]) -> str:
    """YAML of several objects."""
    return yaml.safe_dump_all(objects, sort_keys=False)


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": "shoal.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
