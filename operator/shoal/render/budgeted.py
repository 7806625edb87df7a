"""At most 8 KB of status: what matters least goes first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from shoal.render.words import clip

BUDGET_BYTES: Final = 8 * 1024

Status = dict[str, Any]


def size_of(status: Status) -> int:
    """Bytes of the status as JSON, as etcd stores it."""
    return len(json.dumps(status, separators=(",", ":"), ensure_ascii=False).encode())


def fit_to_budget(status: Status) -> Status:
    """The status, shortened step by step until it fits. Conditions and their reasons always stay."""
    for shorten in _steps():
        if size_of(status) <= BUDGET_BYTES:
            break
        status = shorten(status)
    return status


def _steps() -> Iterator[Callable[[Status], Status]]:
    """What is missed least comes first. Without `memory.target` or the plan's variants nothing unsafe happens."""
    yield _keep("rejected", 4)
    yield _keep("gpus", 16)
    yield _keep("frontier", 4)
    yield _keep("history", 5)
    yield _clip_messages(400)
    yield _keep("gpus", 4)
    yield _keep("rejected", 0)
    yield _drop("learning")
    yield _keep("frontier", 0)
    yield _keep("history", 2)
    yield _clip_messages(160)
    yield _keep("gpus", 0)
    yield _keep("history", 0)
    yield _drop("effective")
    yield _clip_messages(60)
    yield _keep_inside("memory", "target", None)
    yield _keep_inside("plan", "variants", 8)
    yield _drop("memory")
    yield _keep_inside("plan", "variants", 0)


def _keep(field: str, most: int) -> Callable[[Status], Status]:
    return lambda status: {**status, field: status[field][:most]} if field in status else status


def _drop(field: str) -> Callable[[Status], Status]:
    return lambda status: {key: value for key, value in status.items() if key != field}


def _keep_inside(part: str, field: str, most: int | None) -> Callable[[Status], Status]:
    """Shorten a list inside a part; None removes it, as half a target would read as a wish to shrink."""

    def shorten(status: Status) -> Status:
        inside = status.get(part)
        if not inside or field not in inside:
            return status
        rest = {key: value for key, value in inside.items() if key != field}
        return {**status, part: rest if most is None else {**rest, field: inside[field][:most]}}

    return shorten


def _clip_messages(size: int) -> Callable[[Status], Status]:
    """Shorten every sentence: of conditions, of the plan, of history and GPUs."""

    def shorten(status: Status) -> Status:
        result = dict(status)
        for field, text in (("conditions", "message"), ("history", "why"), ("gpus", "reason"), ("rejected", "reason")):
            if field in result:
                result[field] = [_clip_field(item, text, size) for item in result[field]]
        if "plan" in result:
            result["plan"] = _clip_field(result["plan"], "reason", size)
        return result

    return shorten


def _clip_field(item: Status, field: str, size: int) -> Status:
    return {**item, field: clip(item[field], size)} if field in item else item
