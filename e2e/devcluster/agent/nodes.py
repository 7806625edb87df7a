"""Nodes as the API sees them: Node, Lease, ResourceSlice, DeviceClass."""

from __future__ import annotations

import asyncio
import datetime
import logging
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from e2e.devcluster.agent.devices import DRIVER, EXTENDED_RESOURCE, NodeDevices
from e2e.devcluster.agent.gpus import NodeGpus
from e2e.devcluster.agent.status import now
from e2e.devcluster.binary import kubernetes_version
from e2e.devcluster.client import STRATEGIC_PATCH, ApiClient, ApiError, Object
from e2e.devcluster.config import NodeConfig

log = logging.getLogger("nodes")

KUBELET_PORT = 10250
_LEASE_SECONDS = 20
_RENEW_SECONDS = 5.0
# The node controller overwrites conditions of a node that it thought lost: ours are posted again now and then.
_STATUS_SECONDS = 30.0
_MOST_PODS = 250


class Node:
    """One node: its GPUs, its address, and whether it is up."""

    def __init__(self, config: NodeConfig, address: str, gpu_directory: Path) -> None:
        self.config = config
        self.address = address
        self.devices = NodeDevices(NodeGpus(config, gpu_directory))
        self.failed = False

    @property
    def name(self) -> str:
        """The node's name."""
        return self.config.name

    def make_object(self) -> Object:
        """Return the Node without its status."""
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture,
            "topology.kubernetes.io/zone": self.config.zone,
            "topology.kubernetes.io/region": "dev",
        }
        if self.config.accelerator:
            labels["nvidia.com/gpu.product"] = self.config.accelerator
            labels["nvidia.com/gpu.count"] = str(len(self.devices.gpus.gpus))
        metadata = {"name": self.name, "labels": labels | dict(self.config.labels)}
        return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}

    def make_status(self) -> Object:
        """Return the Node's status: capacity, addresses, healthy conditions."""
        capacity = {"cpu": str(self.config.cpu), "memory": self.config.ram, "pods": str(_MOST_PODS)}
        capacity["ephemeral-storage"] = "1Ti"
        if self.config.claim == "extended" and self.devices.gpus.gpus:
            capacity[EXTENDED_RESOURCE] = str(len(self.devices.gpus.gpus))
        version = kubernetes_version()
        conditions = [("Ready", "True", "KubeletReady")]
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure"):
            conditions.append((kind, "False", f"KubeletHasNo{kind}"))
        return {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [
                {"type": "InternalIP", "address": self.address},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
            "conditions": [
                {"type": kind, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now()}
                for kind, status, reason in conditions
            ],
            "nodeInfo": {
                "kubeletVersion": version,
                "kubeProxyVersion": version,
                "operatingSystem": "linux",
                "architecture": platform.machine(),
                "osImage": "devcluster",
                "kernelVersion": platform.release(),
                "containerRuntimeVersion": "shoal://processes",
                "machineID": self.name,
                "systemUUID": self.name,
                "bootID": self.name,
            },
        }

    def make_slice(self) -> Object:
        """Return the ResourceSlice of the node's GPUs."""
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": f"{self.name}-{DRIVER}"},
            "spec": {
                "driver": DRIVER,
                "nodeName": self.name,
                "pool": {"name": self.name, "generation": 1, "resourceSliceCount": 1},
                "devices": self.devices.gpus.slice_devices(),
            },
        }

    def make_lease(self) -> Object:
        """Return the Lease that says the node is alive now."""
        renewed = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": renewed},
        }


def make_device_class() -> Object:
    """Return the DeviceClass that NVIDIA's driver installs."""
    expression = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == 'gpu'"
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": DRIVER},
        "spec": {"selectors": [{"cel": {"expression": expression}}]},
    }


async def register(client: ApiClient, node: Node) -> None:
    """Make or renew the node's objects, its status last: pods may come from then on. Raises ApiError."""
    await client.apply(node.make_object(), manager="node-agent")
    if node.config.claim == "dra" and node.devices.gpus.gpus:
        await client.apply(make_device_class(), manager="node-agent")
        await client.apply(node.make_slice(), manager="node-agent")
    await client.apply(node.make_lease(), manager="node-agent")
    await post_status(client, node)


async def post_status(client: ApiClient, node: Node) -> None:
    """Post the node's status. Raises ApiError."""
    body = {"status": node.make_status()}
    await client.patch(f"/api/v1/nodes/{node.name}/status", body, content_type=STRATEGIC_PATCH)


async def keep_alive(client: ApiClient, node: Node) -> None:
    """Renew the node's Lease and post its status for as long as it has not failed."""
    await asyncio.gather(
        _repeat(_RENEW_SECONDS, node, lambda: client.apply(node.make_lease(), manager="node-agent")),
        _repeat(_STATUS_SECONDS, node, lambda: post_status(client, node)),
    )


async def _repeat(seconds: float, node: Node, act: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        if not node.failed:
            try:
                await act()
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                log.warning("node %s: %s", node.name, error)
