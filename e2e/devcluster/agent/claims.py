"""PersistentVolumeClaims: every claim of the default StorageClass gets a directory on this machine."""

from __future__ import annotations

import logging
from pathlib import Path

import aiohttp

from e2e.devcluster.agent.volumes import claim_directory
from e2e.devcluster.client import ApiClient, ApiError, Object

log = logging.getLogger("claims")

STORAGE_CLASS = "devcluster"


def make_storage_class() -> Object:
    """Return the default StorageClass."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "shoal.dev/devcluster",
        "volumeBindingMode": "Immediate",
    }


def make_volume(claim: Object, cluster: Path) -> Object:
    """Return the PersistentVolume that satisfies a claim; the claim's own size is what it gets."""
    metadata = claim["metadata"]
    reference = {key: metadata[key] for key in ("name", "namespace", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pvc-{metadata['uid']}"},
        "spec": {
            "capacity": claim["spec"]["resources"]["requests"],
            "accessModes": claim["spec"]["accessModes"],
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
            "hostPath": {"path": str(claim_directory(cluster, metadata["namespace"], metadata["name"]))},
        },
    }


async def provision(client: ApiClient, cluster: Path) -> None:
    """Make volumes for pending claims of our class, and delete them with their claims, for ever."""
    await client.apply(make_storage_class(), manager="node-agent")
    async for kind, claim in client.watch("/api/v1/persistentvolumeclaims"):
        if claim["spec"].get("storageClassName") != STORAGE_CLASS:
            continue
        try:
            if kind == "DELETED":
                await client.delete(f"/api/v1/persistentvolumes/pvc-{claim['metadata']['uid']}")
            elif (claim.get("status") or {}).get("phase") == "Pending" and "volumeName" not in claim["spec"]:
                await client.apply(make_volume(claim, cluster), manager="node-agent")
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            log.warning("claim %s/%s: %s", claim["metadata"]["namespace"], claim["metadata"]["name"], error)
