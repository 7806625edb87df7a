"""Who holds which GPUs: tables of small worlds."""

from __future__ import annotations

from typing import Any

import pytest
from objects import (
    L40S,
    add_claim,
    add_node,
    add_pod,
    add_slice,
    add_taint,
    make_engine_pod,
    make_pool,
    make_store,
    raw,
)

from shoal.api.gpu_pool import GPUPool
from shoal.api.load import parse_object
from shoal.domain.pool import Stock
from shoal.reconciler.inventory import Inventory, OwnedPool, group_name, make_inventory
from shoal.reconciler.items import Item, make_item, parse_time
from shoal.reconciler.kinds import POD, SLICE
from shoal.reconciler.store import Store

OURS = {
    "labels": {
        "app.kubernetes.io/managed-by": "shoal",
        "shoal.dev/model-service": "chat",
        "shoal.dev/variant": "00000000",
    }
}
EXTENDED = {"claim": {"extendedResource": "nvidia.com/gpu"}}
PRODUCT = {"labels": {"nvidia.com/gpu.product": L40S}}


def owned(**pool: Any) -> OwnedPool:
    content = make_pool(**pool)
    return OwnedPool(parse_time(content["metadata"]["creationTimestamp"]), parse_object(GPUPool, content))


COUNTED = {("team", "chat-00000000")}


def count(
    store: Store, *pools: OwnedPool, foreign: tuple[Item[Any], ...] | None = (), counted: set[tuple[str, str]] = COUNTED
) -> Inventory:
    return make_inventory(store, pools or (owned(),), foreign, counted)


def summary(stock: Stock | None) -> tuple[int, int, dict[str, int]] | None:
    if stock is None:
        return None
    return stock.existing, stock.usable, {holder.name: holder.gpus for holder in stock.holders}


def a_node_with_four() -> Store:
    store = make_store()
    add_node(store, "a")
    add_slice(store, "a", 4)
    return store


def test_free_gpus() -> None:
    inventory = count(a_node_with_four())
    assert summary(inventory.stocks["h100"]) == (4, 4, {})
    assert {gpu.uuid for gpu in inventory.gpus.values()} == {f"GPU-a-{index}" for index in range(4)}


def test_claims_of_others_are_grouped() -> None:
    store = a_node_with_four()
    add_claim(store, "x", "a", [0], namespace="ml", pod="train-7f9c4d5b6-x2x9k")
    add_claim(store, "y", "a", [1], namespace="ml", pod="train-7f9c4d5b6-b4c5d")
    add_claim(store, "z", "a", [2], namespace="ml", pod="probe")
    assert summary(count(store).stocks["h100"]) == (4, 1, {"ml/train-*": 2, "ml/probe": 1})


def test_our_own_stay_usable() -> None:
    store = a_node_with_four()
    add_claim(store, "x", "a", [0], pod="chat-1", **OURS)
    assert summary(count(store).stocks["h100"]) == (4, 4, {"Shoal": 1})


def test_what_no_plan_counts_is_nobodys_to_give() -> None:
    """Pods of a deleted ModelService, or of one that cannot be planned now."""
    store = a_node_with_four()
    add_claim(store, "x", "a", [0], pod="chat-1", **OURS)
    assert summary(count(store, counted=set()).stocks["h100"]) == (4, 3, {"team/chat (not planned)": 1})


@pytest.mark.parametrize(
    ("selector", "hot"),
    [
        ({"driver": "gpu.nvidia.com", "pool": "a", "device": "gpu-1"}, 1),
        ({"driver": "gpu.nvidia.com", "pool": "a"}, 4),
        ({}, 4),
        ({"driver": "other.example.com"}, 0),
        ({"driver": "gpu.nvidia.com", "pool": "b", "device": "gpu-1"}, 0),
    ],
)
def test_tainted(selector: dict[str, str], hot: int) -> None:
    store = a_node_with_four()
    add_taint(store, "rule", **selector)
    assert summary(count(store).stocks["h100"]) == (4, 4 - hot, {"hot": hot} if hot else {})


def test_a_dry_run_taint_changes_nothing() -> None:
    store = a_node_with_four()
    add_taint(store, "rule", effect="None")
    assert summary(count(store).stocks["h100"]) == (4, 4, {})


def test_a_node_that_is_not_ready() -> None:
    """What ours hold there stays counted as ours: it is neither free nor lost yet."""
    store = make_store()
    add_node(store, "a", ready=False)
    add_slice(store, "a", 4)
    add_claim(store, "x", "a", [0], pod="chat-1", **OURS)
    assert summary(count(store).stocks["h100"]) == (4, 1, {"node not ready": 3, "Shoal": 1})


def test_a_cordoned_node_takes_no_new_pods() -> None:
    store = make_store()
    add_node(store, "a", spec={"unschedulable": True})
    add_slice(store, "a", 2)
    assert summary(count(store).stocks["h100"]) == (2, 0, {"node closed to new pods": 2})


@pytest.mark.parametrize(
    ("toleration", "usable"),
    [
        ([], 0),
        ([{"key": "gpu", "operator": "Exists"}], 2),
        ([{"key": "gpu", "value": "yes"}], 2),
        ([{"key": "gpu", "value": "no"}], 0),
        ([{"operator": "Exists"}], 2),
        ([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}], 0),
    ],
)
def test_tolerations(toleration: list[dict[str, str]], usable: int) -> None:
    store = make_store()
    add_node(store, "a", spec={"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]})
    add_slice(store, "a", 2)
    stock = count(store, owned(nodes={"tolerations": toleration})).stocks["h100"]
    assert stock is not None
    assert stock.usable == usable


def test_membership_is_equality() -> None:
    store = a_node_with_four()
    add_node(store, "b", labels={"tier": "gold"})
    add_slice(store, "b", 2, product="NVIDIA H200")
    h200 = owned(name="h200", accelerator="NVIDIA-H200", created="11:00:00")
    gold = owned(name="gold", accelerator="NVIDIA-H200", created="12:00:00", nodes={"labels": {"tier": "lead"}})
    inventory = count(store, owned(), h200, gold)
    assert [summary(inventory.stocks[name]) for name in ("h100", "h200", "gold")] == [
        (4, 4, {}),
        (2, 2, {}),
        (0, 0, {}),
    ]
    assert inventory.problems == {}


def test_the_older_pool_owns_what_both_describe() -> None:
    store = a_node_with_four()
    inventory = count(store, owned(name="young", created="11:00:00"), owned(name="old", created="09:00:00"))
    assert summary(inventory.stocks["old"]) == (4, 4, {})
    assert summary(inventory.stocks["young"]) == (0, 0, {})
    assert "old" in inventory.problems["young"]


def test_only_the_newest_slices_of_a_driver_count() -> None:
    store = a_node_with_four()
    add_slice(store, "a", 2, generation=2)
    assert summary(count(store).stocks["h100"]) == (2, 2, {})


def test_what_was_not_listed_is_unknown() -> None:
    store = Store(lambda: 0.0)
    inventory = make_inventory(store, (owned(), owned(name="l40s", accelerator=L40S, **EXTENDED)), None, set())
    assert inventory.stocks == {"h100": None, "l40s": None}


def test_half_a_listing_is_unknown_too() -> None:
    store = a_node_with_four()
    store._tables[SLICE].synced = False
    assert count(store).stocks["h100"] is None


def with_extended(**more: Any) -> Store:
    store = make_store()
    add_node(store, "b", devices={"nvidia.com/gpu": "4"}, **{**PRODUCT, **more})
    return store


def stranger(name: str, gpus: int, node: str = "b", phase: str = "Running") -> Item[Any]:
    spec = {"nodeName": node, "containers": [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]}
    return make_item(POD, raw(name, "ml", spec=spec, status={"phase": phase}))


def test_extended_resources_are_counted_by_number() -> None:
    store = with_extended()
    add_pod(store, "chat-1", node="b", limits={"nvidia.com/gpu": "1"})
    pool = owned(name="l40s", accelerator=L40S, **EXTENDED)
    foreign = (stranger("train-0", 2), stranger("done-0", 1, phase="Succeeded"), stranger("elsewhere", 1, node="c"))
    inventory = count(store, pool, foreign=foreign)
    assert summary(inventory.stocks["l40s"]) == (4, 2, {"ml/train-*": 2, "Shoal": 1})
    assert summary(count(store, pool, foreign=None).stocks["l40s"]) is None


def test_a_pod_is_counted_once() -> None:
    """One of ours that the list of strangers holds as well."""
    store = with_extended()
    content = make_engine_pod("chat-1", node="b", limits={"nvidia.com/gpu": "1"})
    store.put(POD, make_item(POD, content))
    pool = owned(name="l40s", accelerator=L40S, **EXTENDED)
    inventory = count(store, pool, foreign=(make_item(POD, content),))
    assert summary(inventory.stocks["l40s"]) == (4, 4, {"Shoal": 1})


def test_a_node_of_another_product() -> None:
    store = with_extended(labels={"nvidia.com/gpu.product": "Tesla-T4"})
    pool = owned(name="l40s", accelerator=L40S, **EXTENDED)
    assert summary(count(store, pool).stocks["l40s"]) == (0, 0, {})


def test_fewer_gpus_than_are_held() -> None:
    """A GPU fell off the bus while pods hold them all."""
    store = with_extended()
    pool = owned(name="l40s", accelerator=L40S, **EXTENDED)
    assert summary(count(store, pool, foreign=(stranger("big", 6),)).stocks["l40s"]) == (4, 0, {"ml/big": 4})


@pytest.mark.parametrize(
    ("pod", "group"),
    [
        ("train-7f9c4d5b6-x2x9k", "train-*"),
        ("train-0", "train-*"),
        ("job-x7k2p", "job-*"),
        ("probe", "probe"),
        ("llm-small", "llm-small"),
    ],
)
def test_group_names(pod: str, group: str) -> None:
    assert group_name(pod) == group
