"""Objects as the API server sends them, for tests without one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from shoal.reconciler.items import Item, Kind, make_item
from shoal.reconciler.kinds import (
    CLAIM,
    DEPLOYMENT,
    ENGINE_CLASS,
    GPU_POOL,
    MODEL_SERVICE,
    NAMESPACE,
    NODE,
    POD,
    SLICE,
    TAINT_RULE,
    WATCHED,
)
from shoal.reconciler.store import Store

Object = dict[str, Any]

H100 = "NVIDIA-H100-80GB-HBM3"
L40S = "NVIDIA-L40S"
DRIVER = "gpu.nvidia.com"
_versions = itertools.count(1000)


def raw(name: str, namespace: str | None = "team", *, uid: str = "", version: int | None = None, **more: Any) -> Object:
    metadata = {
        "name": name,
        "uid": uid or f"uid-{namespace}-{name}",
        "resourceVersion": str(next(_versions) if version is None else version),
        "generation": 1,
        "creationTimestamp": "2026-11-22T10:00:00Z",
        **({"namespace": namespace} if namespace else {}),
        **more.pop("metadata", {}),
    }
    return {"metadata": metadata, **more}


def put(store: Store, kind: Kind[Any], content: Object) -> Item[Any]:
    item = make_item(kind, content)
    store.put(kind, item)
    return item


def make_store(now: float = 0.0) -> Store:
    """A store that was listed completely while the cluster was empty."""
    store = Store(lambda: now)
    for kind in WATCHED:
        store.replace(kind, (), 0)
    return store


def add_node(store: Store, name: str, *, ready: bool = True, devices: Object | None = None, **more: Any) -> None:
    status = {
        "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        "allocatable": {"cpu": "8", **(devices or {})},
    }
    put(store, NODE, raw(name, None, spec=more.pop("spec", {}), status=status, metadata=more))


def add_slice(
    store: Store, node: str, gpus: int, *, product: str = "NVIDIA H100 80GB HBM3", generation: int = 1
) -> None:
    devices = [
        {
            "name": f"gpu-{index}",
            "attributes": {
                "uuid": {"string": f"GPU-{node}-{index}"},
                "productName": {"string": product},
                "index": {"int": index},
            },
        }
        for index in range(gpus)
    ]
    spec = {"driver": DRIVER, "nodeName": node, "pool": {"name": node, "generation": generation}, "devices": devices}
    put(store, SLICE, raw(f"{node}-{generation}", None, spec=spec))


def add_claim(
    store: Store, name: str, node: str, indices: Sequence[int], *, namespace: str = "team", pod: str = "", **more: Any
) -> None:
    results = [{"driver": DRIVER, "pool": node, "device": f"gpu-{index}"} for index in indices]
    users = [{"resource": "pods", "name": pod, "uid": f"uid-{pod}"}] if pod else []
    status = {"allocation": {"devices": {"results": results}}, "reservedFor": users}
    put(store, CLAIM, raw(name, namespace, spec={}, status=status, metadata=more))


def add_taint(store: Store, name: str, *, effect: str = "NoSchedule", **selector: str) -> None:
    spec = {"deviceSelector": selector, "taint": {"key": "shoal.dev/hot", "effect": effect}}
    put(store, TAINT_RULE, raw(name, None, spec=spec))


def add_namespace(store: Store, name: str, **labels: str) -> None:
    put(store, NAMESPACE, raw(name, None, metadata={"labels": {"kubernetes.io/metadata.name": name, **labels}}))


def make_pool(name: str = "h100", *, accelerator: str = H100, created: str = "10:00:00", **spec: Any) -> Object:
    wish = {
        "accelerator": accelerator,
        "memory": {"perGPU": "80Gi"},
        "claim": {"dra": {"deviceClassName": DRIVER, "driver": DRIVER}},
        "pricePerGPUHour": "7.50",
        "link": "NVLink",
        **spec,
    }
    metadata = {"creationTimestamp": f"2026-11-22T{created}Z"}
    return raw(name, None, apiVersion="shoal.dev/v1alpha1", kind="GPUPool", spec=wish, metadata=metadata)


def add_pool(store: Store, name: str = "h100", **spec: Any) -> None:
    put(store, GPU_POOL, make_pool(name, **spec))


def add_engine_class(store: Store, name: str = "default") -> None:
    spec = {"image": "vllm:1", "version": "0.33.0"}
    put(store, ENGINE_CLASS, raw(name, None, apiVersion="shoal.dev/v1alpha1", kind="EngineClass", spec=spec))


def make_service(name: str = "chat", *, namespace: str = "team", status: Object | None = None, **spec: Any) -> Object:
    metadata = spec.pop("metadata", {})
    wish = {"model": {"name": "Qwen/Qwen2.5-1.5B-Instruct"}, "slo": {"ttftMilliseconds": 500}, **spec}
    more = {"status": status} if status is not None else {}
    return raw(
        name, namespace, apiVersion="shoal.dev/v1alpha1", kind="ModelService", spec=wish, metadata=metadata, **more
    )


def add_service(store: Store, name: str = "chat", **more: Any) -> Item[Any]:
    return put(store, MODEL_SERVICE, make_service(name, **more))


def add_deployment(store: Store, service: str, variant: str, replicas: int, annotations: Object, **more: Any) -> None:
    namespace = more.pop("namespace", "team")
    metadata = {
        "labels": {
            "app.kubernetes.io/managed-by": "shoal",
            "shoal.dev/model-service": service,
            "shoal.dev/variant": variant,
        },
        "annotations": annotations,
        "ownerReferences": [{"uid": f"uid-{namespace}-{service}", "controller": True}],
        **more,
    }
    put(store, DEPLOYMENT, raw(f"{service}-{variant}", namespace, spec={"replicas": replicas}, metadata=metadata))


def make_engine_pod(
    name: str,
    service: str = "chat",
    variant: str = "00000000",
    *,
    node: str | None = "a",
    ready: Sequence[bool] = (True,),
    address: str | None = "127.1.2.3",
    claim: str | None = None,
    **more: Any,
) -> Object:
    statuses = [
        {"name": f"engine-{index}", "ready": is_ready, "restartCount": 0, "state": {"running": {}}}
        for index, is_ready in enumerate(ready)
    ]
    *sidecars, main = statuses
    conditions = [
        {
            "type": "Ready",
            "status": "True" if all(ready) else "False",
            "lastTransitionTime": "2026-11-22T10:01:00Z",
        }
    ]
    metadata = {
        "labels": {
            "app.kubernetes.io/component": "engine",
            "app.kubernetes.io/managed-by": "shoal",
            "shoal.dev/model-service": service,
            "shoal.dev/variant": variant,
        },
        **more.pop("metadata", {}),
    }
    status = {
        "phase": "Running" if node else "Pending",
        "podIP": address,
        "startTime": "2026-11-22T10:00:10Z",
        "conditions": conditions if node else [{"type": "PodScheduled", "status": "False", "message": "no GPU"}],
        "initContainerStatuses": sidecars,
        "containerStatuses": [main],
        "resourceClaimStatuses": [{"name": "gpus", "resourceClaimName": claim}] if claim else [],
        **more.pop("status", {}),
    }
    names = [item["name"] for item in statuses]
    spec = {
        **({"nodeName": node} if node else {}),
        "initContainers": [{"name": each, "restartPolicy": "Always"} for each in names[:-1]],
        "containers": [{"name": names[-1], "resources": {"limits": more.pop("limits", {})}}],
    }
    return raw(name, more.pop("namespace", "team"), spec=spec, status=status, metadata=metadata)


def add_pod(store: Store, name: str, **more: Any) -> Item[Any]:
    return put(store, POD, make_engine_pod(name, **more))


async def until(holds: Callable[[], bool], timeout: float = 5.0) -> None:
    """Wait until something the test cannot await has happened."""
    async with asyncio.timeout(timeout):
        while not holds():  # noqa: ASYNC110 - what is waited for are plain values
            await asyncio.sleep(0.005)
