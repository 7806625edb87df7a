"""What a ProfileRun may take: never what a service holds, plans or lacks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from objects import (
    add_claim,
    add_namespace,
    add_node,
    add_pool,
    add_slice,
    make_store,
    put,
    raw,
)

from shoal.api.gpu_pool import GPUPool
from shoal.api.load import parse_object
from shoal.reconciler.inventory import OwnedPool, make_inventory
from shoal.reconciler.kinds import GPU_POOL, JOB, POD
from shoal.reconciler.run_room import Room, count_profiling, explain_shortage, observe_room
from shoal.reconciler.store import Store
from shoal.reconciler.wishes import make_pool

FREE = Room(
    pool="h100",
    usable=4,
    on_one_node=4,
    committed=2,
    promised=0,
    limit=None,
    limit_used=2,
    quota=None,
    quota_used=2,
    short=(),
)


@pytest.mark.parametrize(
    ("room", "gpus", "words"),
    [
        (FREE, 2, None),
        (FREE, 4, "needs 4 GPUs of pool h100; of 4 that Shoal may use, services hold or plan 2"),
        (replace(FREE, promised=2), 1, "services hold or plan 2, other runs wait for 2"),
        (replace(FREE, usable=None), 1, "could not be listed"),
        (replace(FREE, on_one_node=1), 2, "on one node; at most 1"),
        (replace(FREE, quota=3), 2, "quota of 3 there, 2 are used"),
        (replace(FREE, quota=3), 1, None),
        (replace(FREE, limit=2), 1, "maxGPUs 2, 2 are used"),
        (replace(FREE, short=("a/b",)), 1, "services are short of GPUs: a/b"),
        (replace(FREE, short=("a/b", "a/c", "a/d", "a/e")), 1, "a/b, a/c, a/d and 1 more"),
    ],
)
def test_shortages(room: Room, gpus: int, words: str | None) -> None:
    found = explain_shortage(room, gpus)
    assert (found is None) == (words is None)
    assert words is None or words in (found or "")


def add_job(store: Store, run: str, tensor: int, *, namespace: str = "team", node: str | None = None) -> None:
    placement = {
        "pool": "h100",
        "accelerator": "NVIDIA-H100-80GB-HBM3",
        "tensorParallel": tensor,
        "enginesPerGPU": 1,
        "maxNumSeqs": 256,
        "maxNumBatchedTokens": 2048,
    }
    labels = {
        "app.kubernetes.io/managed-by": "shoal",
        "app.kubernetes.io/component": "profiler",
        "shoal.dev/profile-run": run,
    }
    annotations = {"shoal.dev/configuration": json.dumps(placement)}
    job = put(store, JOB, raw(f"{run}-1", namespace, metadata={"labels": labels, "annotations": annotations}))
    owner = [{"uid": job.uid, "controller": True}]
    spec: dict[str, Any] = {"containers": [], **({"nodeName": node} if node else {})}
    pod = raw(f"{run}-1-x", namespace, spec=spec, metadata={"labels": labels, "ownerReferences": owner})
    put(store, POD, pod)
    if node:
        add_claim(store, f"{run}-claim", node, range(tensor), namespace=namespace, pod=f"{run}-1-x", labels=labels)


def make_world(gpus: int = 4) -> Store:
    store = make_store()
    add_node(store, "a")
    add_slice(store, "a", gpus)
    add_namespace(store, "team")
    add_pool(store)
    return store


def look(store: Store, run: str = "qwen", **more: Any) -> Room:
    pool = next(iter(store.all(GPU_POOL)))
    owned = OwnedPool(0.0, parse_object(GPUPool, pool.body.raw))
    inventory = make_inventory(store, [owned], (), set())
    wanted = {"pool": "h100", "limit": None, "namespace": "team", "quota": None, "run": run, **more}
    return observe_room(store, inventory, {}, **wanted)


def test_another_runs_gpus_are_gone_as_soon_as_its_job_exists() -> None:
    store = make_world()
    add_job(store, "other", 2)
    assert (look(store).usable, look(store).promised) == (4, 2)
    assert explain_shortage(look(store), 2) is None
    assert explain_shortage(look(store), 4) is not None
    placed = make_world()
    add_job(placed, "other", 2, node="a")
    assert (look(placed).usable, look(placed).promised, look(placed).on_one_node) == (2, 0, 2)


def test_its_own_gpus_count_as_free() -> None:
    store = make_world()
    add_job(store, "qwen", 4, node="a")
    assert (look(store).usable, look(store).on_one_node) == (4, 4)
    assert explain_shortage(look(store), 4) is None
    assert explain_shortage(look(store, "other"), 1) is not None


def test_the_holder_has_a_name_and_the_quota_shrinks() -> None:
    store = make_world()
    add_job(store, "other", 2, node="a")
    pool = parse_object(GPUPool, next(iter(store.all(GPU_POOL))).body.raw)
    stock = make_inventory(store, [OwnedPool(0.0, pool)], (), set()).stocks["h100"]
    assert stock is not None
    assert [(holder.name, holder.gpus) for holder in stock.holders] == [("profile team/other", 2)]
    assert count_profiling(store) == {"h100": {"team": 2}}
    admission = {"selector": {"matchLabels": {}}, "gpuQuota": 3}
    bounded = pool.model_validate_json(json.dumps(_with(pool, namespaces=[admission])))
    (found,) = make_pool(bounded, stock, {"team": {}}, count_profiling(store)["h100"]).admissions
    assert found.gpu_quota == 1
    assert look(store, quota=3).quota_used == 2


def _with(pool: GPUPool, **spec: Any) -> dict[str, Any]:
    body = pool.to_dict()
    return {**body, "spec": {**body["spec"], **spec}}
