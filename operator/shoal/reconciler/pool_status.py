"""The status of a GPUPool: where its GPUs are, who holds them, and what is wrong with the pool. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shoal.api.base import API_VERSION
from shoal.api.gpu_pool import GPUPool
from shoal.domain.pool import Stock
from shoal.reconciler.inventory import CLOSED, HOT, NOT_READY, SHOAL, Inventory
from shoal.render.times import format_time

_MOST_HOLDERS: Final = 16


def make_pool_status(
    resource: GPUPool, inventory: Inventory, previous: Mapping[str, Any] | None, now: float
) -> dict[str, Any]:
    """The whole object to apply; `previous` is the status that stands there."""
    metadata = resource.metadata
    stock = inventory.stocks.get(metadata.name)
    problem = inventory.problems.get(metadata.name)
    condition = _make_ready(stock, problem)
    status: dict[str, Any] = {
        "observedGeneration": metadata.generation,
        "conditions": [_with_time(condition, metadata.generation or 0, previous, now)],
    }
    if stock is not None:
        status["stock"] = _make_stock(stock)
        status["holders"] = [{"name": h.name, "gpus": h.gpus} for h in stock.holders[:_MOST_HOLDERS]]
    return {
        "apiVersion": API_VERSION,
        "kind": "GPUPool",
        "metadata": {"name": metadata.name, "uid": metadata.uid},
        "status": status,
    }


def _make_ready(stock: Stock | None, problem: str | None) -> dict[str, Any]:
    if problem is not None:
        return {"type": "Ready", "status": "False", "reason": "Overlap", "message": problem}
    if stock is None:
        message = "the GPUs could not be listed: see the operator's log and permissions"
        return {"type": "Ready", "status": "Unknown", "reason": "InventoryUnreadable", "message": message}
    if not stock.existing:
        message = "no GPU matches: compare spec.accelerator and spec.nodes.labels with `shoal pools discover`"
        return {"type": "Ready", "status": "False", "reason": "NoGPUs", "message": message}
    message = f"{stock.existing} GPUs exist, {stock.usable} may be used"
    return {"type": "Ready", "status": "True", "reason": "Counted", "message": message}


def _make_stock(stock: Stock) -> dict[str, int]:
    by_holder = {holder.name: holder.gpus for holder in stock.holders}
    shoal, hot = by_holder.pop(SHOAL, 0), by_holder.pop(HOT, 0)
    unready = by_holder.pop(NOT_READY, 0) + by_holder.pop(CLOSED, 0)
    return {
        "existing": stock.existing,
        "free": max(0, stock.usable - shoal),
        "shoal": shoal,
        "others": sum(by_holder.values()),
        "hot": hot,
        "unready": unready,
    }


def _with_time(
    condition: dict[str, Any], generation: int, previous: Mapping[str, Any] | None, now: float
) -> dict[str, Any]:
    """The transition time moves only when the status does."""
    before = next((c for c in (previous or {}).get("conditions") or () if c["type"] == condition["type"]), None)
    same = before is not None and before["status"] == condition["status"]
    since = before["lastTransitionTime"] if before and same else format_time(now)
    return {**condition, "observedGeneration": generation, "lastTransitionTime": since}
