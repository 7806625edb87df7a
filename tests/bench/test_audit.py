"""Counting writes in an API server's audit log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench.audit import count_kinds, read_writes
from bench.fleet import count_by_minute

OPERATOR = "system:serviceaccount:shoal-system:shoal"
BEGAN = 1_790_000_000.0


def event(at: float, *, user: str = OPERATOR, subresource: str | None = "status", verb: str = "patch") -> str:
    target: dict[str, Any] = {"resource": "modelservices", "namespace": "a", "name": "chat"}
    if subresource:
        target["subresource"] = subresource
    time = datetime.fromtimestamp(BEGAN + at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return json.dumps(
        {
            "verb": verb,
            "user": {"username": user},
            "objectRef": target,
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": time,
        }
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    lines = [event(-1), event(0), event(1, user="admin"), event(61), event(62, subresource=None), event(500)]
    path.write_text("\n".join(lines) + '\n{"verb": "half a li')
    return path


def test_only_the_users_writes_in_the_interval_count(log: Path) -> None:
    writes = read_writes(log, user=OPERATOR, since=BEGAN, until=BEGAN + 300)
    assert count_kinds(writes) == {"patch modelservices/status": 2, "patch modelservices": 1}
    assert {(write.namespace, write.name, write.code) for write in writes} == {("a", "chat", 200)}


def test_status_writes_by_minute(log: Path) -> None:
    writes = read_writes(log, user=OPERATOR, since=BEGAN, until=BEGAN + 300)
    assert count_by_minute(writes, BEGAN, 3) == [1, 1, 0]
