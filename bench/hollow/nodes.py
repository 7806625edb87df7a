"""Nodes with GPUs that do not exist: Node, Lease, ResourceSlice."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Literal

from bench.hollow.pages import Gpu
from e2e.devcluster.agent.status import now

Object = dict[str, Any]

DRIVER = "gpu.nvidia.com"
DEVICE_CLASS = "gpu.nvidia.com"
EXTENDED_RESOURCE = "nvidia.com/gpu"
GPUS_PER_NODE = 8
LEASE_SECONDS = 40
_NAMES = uuid.UUID("6f1d0a52-2f9c-4b7c-9a53-3b5d6c0e7a11")


@dataclass(frozen=True, slots=True)
class HollowNode:
    """One node of eight GPUs, claimed by DRA or through a device plugin's extended resource."""

    name: str
    address: str
    product: str  # with blanks, as NVML tells it
    memory: str
    claim: Literal["dra", "extended"]

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Its GPUs; their UUIDs follow from the node's name."""
        return tuple(
            Gpu(f"GPU-{uuid.uuid5(_NAMES, f'{self.name}/{index}')}", index, self.product)
            for index in range(GPUS_PER_NODE)
        )


def make_node(node: HollowNode) -> Object:
    """The Node with its status (which a second request writes)."""
    capacity = {"cpu": "192", "memory": "2Ti", "pods": "250", "ephemeral-storage": "8Ti"}
    if node.claim == "extended":
        capacity[EXTENDED_RESOURCE] = str(GPUS_PER_NODE)
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "hollow",
        "lastHeartbeatTime": now(),
        "lastTransitionTime": now(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "nvidia.com/gpu.product": node.product.replace(" ", "-"),
            },
        },
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [condition],
            "addresses": [{"type": "InternalIP", "address": node.address}],
            "nodeInfo": _node_info(node.name),
        },
    }


def make_lease(node: HollowNode, renewed: str) -> Object:
    """What keeps the node alive in the eyes of the node controller."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node.name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": node.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renewed},
    }


def make_device_class() -> Object:
    """What the DRA driver's chart would install."""
    expression = f"device.driver == '{DRIVER}'"
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": DEVICE_CLASS},
        "spec": {"selectors": [{"cel": {"expression": expression}}]},
    }


def make_slice(node: HollowNode) -> Object:
    """The node's GPUs as its DRA driver publishes them."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node.name}-{DRIVER}"},
        "spec": {
            "driver": DRIVER,
            "nodeName": node.name,
            "pool": {"name": node.name, "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {
                    "name": f"gpu-{gpu.index}",
                    "attributes": {
                        "type": {"string": "gpu"},
                        "uuid": {"string": gpu.uuid},
                        "productName": {"string": gpu.product},
                    },
                    "capacity": {"memory": {"value": node.memory}},
                }
                for gpu in node.gpus
            ],
        },
    }


def _node_info(name: str) -> Object:
    fixed = dict.fromkeys(("bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeProxyVersion"), "none")
    return {
        **fixed,
        "machineID": name,
        "systemUUID": name,
        "kubeletVersion": "v1.37.2",
        "operatingSystem": "linux",
        "architecture": "amd64",
    }
