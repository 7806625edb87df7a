"""Registers the hollow nodes and keeps them alive."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Sequence

import aiohttp

from bench.hollow.nodes import HollowNode, Object, make_device_class, make_lease, make_node, make_slice
from e2e.devcluster import ApiClient, ApiError
from e2e.devcluster.addresses import Slot

log = logging.getLogger("hollow")

RENEW_SECONDS = 5.0  # the devcluster's node controller gives up on a node after 20 s
_AT_ONCE = 16


def make_nodes(slot: Slot, dra: int, extended: int) -> dict[str, HollowNode]:
    """So many nodes of H100 by DRA and of L40S by extended resource, by name."""
    kinds = [("NVIDIA H100 80GB HBM3", "80Gi", "dra")] * dra + [("NVIDIA L40S", "48Gi", "extended")] * extended
    nodes = [
        HollowNode(f"hollow-{index:03}", slot.node(index), product, memory, "dra" if claim == "dra" else "extended")
        for index, (product, memory, claim) in enumerate(kinds)
    ]
    return {node.name: node for node in nodes}


async def register(client: ApiClient, nodes: Sequence[HollowNode]) -> None:
    """Create nodes, leases, slices and the DeviceClass."""
    await client.apply(make_device_class(), manager="hollow")
    limit = asyncio.Semaphore(_AT_ONCE)

    async def add(node: HollowNode) -> None:
        async with limit:
            await _register(client, node)

    await asyncio.gather(*(add(node) for node in nodes))


async def keep_alive(client: ApiClient, nodes: Sequence[HollowNode]) -> None:
    """Renew the leases for ever, a few at once: a busy machine must not make nodes look dead."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        limit = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(_renew(client, node, limit) for node in nodes))
        await asyncio.sleep(max(0.0, began + RENEW_SECONDS - loop.time()))


async def _renew(client: ApiClient, node: HollowNode, limit: asyncio.Semaphore) -> None:
    async with limit:
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node.name}"
        try:
            await client.patch(path, {"spec": {"renewTime": _now()}})
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            log.warning("the lease of %s was not renewed: %s", node.name, error)


async def _register(client: ApiClient, node: HollowNode) -> None:
    manifest = make_node(node)
    await _create(client, "/api/v1/nodes", manifest)
    await client.patch(f"/api/v1/nodes/{node.name}/status", {"status": manifest["status"]})
    await _create(client, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", make_lease(node, _now()))
    if node.claim == "dra":
        await _create(client, "/apis/resource.k8s.io/v1/resourceslices", make_slice(node))


async def _create(client: ApiClient, path: str, manifest: Object) -> None:
    try:
        await client.create(path, manifest)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
