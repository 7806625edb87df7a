"""The GPUs of a replica as a DRA claim: so many devices of exactly this type, on one island of the fast link."""

from __future__ import annotations

import json
from typing import Any, Final

from shoal.api.gpu_pool import DynamicClaim, GPUPool
from shoal.domain.configuration import Configuration
from shoal.render.names import GPU_CLAIM

ISLAND_ATTRIBUTE: Final = "resource.kubernetes.io/pcieRoot"
"""Kubernetes' own attribute for devices that sit close together; only pools with an `islandSize` ask for it."""

_NVIDIA_DRIVER: Final = "gpu.nvidia.com"


def make_claim_spec(pool: GPUPool, claim: DynamicClaim, configuration: Configuration) -> dict[str, Any]:
    """Spec of a ResourceClaim (`resource.k8s.io/v1`) of one replica."""
    devices: dict[str, Any] = {
        "requests": [
            {
                "name": GPU_CLAIM,
                "exactly": {
                    "deviceClassName": claim.device_class_name,
                    "allocationMode": "ExactCount",
                    "count": configuration.gpus_per_replica,
                    "selectors": [{"cel": {"expression": make_selector(claim.driver, configuration.accelerator)}}],
                },
            }
        ]
    }
    if configuration.tensor_parallel > 1 and pool.spec.island_size is not None:
        devices["constraints"] = [{"requests": [GPU_CLAIM], "matchAttribute": ISLAND_ATTRIBUTE}]
    if configuration.engines_per_gpu > 1 and claim.driver == _NVIDIA_DRIVER and pool.spec.sharing in _STRATEGIES:
        devices["config"] = [{"requests": [GPU_CLAIM], "opaque": _sharing(_STRATEGIES[pool.spec.sharing])}]
    return {"devices": devices}


def make_selector(driver: str, accelerator: str) -> str:
    """CEL over a device. Product names have blanks there and dashes everywhere else.

    The attribute is asked for first: reading one that is missing is an error that would stop the whole allocation.
    """
    attributes, wanted = f"device.attributes[{json.dumps(driver)}]", json.dumps(accelerator)
    return (
        f"device.driver == {json.dumps(driver)} && has({attributes}.productName) && "
        f'{attributes}.productName.replace(" ", "-") == {wanted}'
    )


def runs_mps(pool: GPUPool, configuration: Configuration) -> bool:
    """Whether the engines of a GPU share it through MPS: what the pool says its nodes are set up for."""
    return configuration.engines_per_gpu > 1 and pool.spec.sharing == "MPS"


_STRATEGIES: Final = {"MPS": "MPS", "TimeSlicing": "TimeSlicing"}


def _sharing(strategy: str) -> dict[str, Any]:
    parameters = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "GpuConfig",
        "sharing": {"strategy": strategy},
    }
    return {"driver": _NVIDIA_DRIVER, "parameters": parameters}
