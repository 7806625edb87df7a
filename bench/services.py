"""ModelServices, and the pools of hollow GPUs they run on."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

POOLS: tuple[Object, ...] = (
    {
        "apiVersion": "shoal.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": "h100"},
        "spec": {
            "accelerator": "NVIDIA-H100-80GB-HBM3",
            "memory": {"perGPU": "80Gi", "reserve": "2Gi"},
            "claim": {"dra": {"deviceClassName": "gpu.nvidia.com", "driver": "gpu.nvidia.com"}},
            "pricePerGPUHour": "7.50",
            "link": "NVLink",
        },
    },
    {
        "apiVersion": "shoal.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": "l40s"},
        "spec": {
            "accelerator": "NVIDIA-L40S",
            "memory": {"perGPU": "48Gi", "reserve": "2Gi"},
            "claim": {"extendedResource": "nvidia.com/gpu"},
            "pricePerGPUHour": "1.90",
            "link": "PCIe",
        },
    },
)
# None of these has a profile: each is planned from an estimate, as on every service's first day.
MODELS = (
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-3B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
)
_POOL_CHOICES = (["h100"], ["l40s"], ["h100", "l40s"])


def make_service(namespace: str, name: str, model: str, **spec: Any) -> Object:
    """A ModelService with an SLO that one replica can meet on either pool."""
    return {
        "apiVersion": "shoal.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"name": model}, "slo": {"ttftMilliseconds": 2000, "itlMilliseconds": 80}, **spec},
    }


def make_fleet(count: int, namespaces: int) -> list[Object]:
    """`count` services over `bench-0` to `bench-<namespaces - 1>`.

    A third may use either pool, so that all of them are planned together.
    """
    return [
        make_service(
            f"bench-{index % namespaces}",
            f"model-{index:03}",
            MODELS[index % len(MODELS)],
            pools=_POOL_CHOICES[index % len(_POOL_CHOICES)],
        )
        for index in range(count)
    ]
