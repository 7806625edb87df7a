"""Writes that reached the API server, counted from its audit log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Write:
    """One write that was answered. `at`: seconds since the epoch when the request came in."""

    at: float
    user: str
    verb: str
    resource: str  # plural, with the subresource: `modelservices/status`
    namespace: str
    name: str
    code: int

    @property
    def kind(self) -> str:
        """What was done to what: `patch modelservices/status`."""
        return f"{self.verb} {self.resource}"


def read_writes(log: Path, *, user: str, since: float, until: float) -> list[Write]:
    """The user's writes in an interval, in the log's order; a line that is still being written is left out."""
    return [write for write in _parse(log) if write.user == user and since <= write.at < until]


def count_kinds(writes: Iterable[Write]) -> Counter[str]:
    """How often each kind of write was made."""
    return Counter(write.kind for write in writes)


def _parse(log: Path) -> Iterator[Write]:
    with log.open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            event = json.loads(line)
            yield _make_write(event)


def _make_write(event: dict[str, object]) -> Write:
    found = event.get("objectRef")
    target: dict[str, str] = found if isinstance(found, dict) else {}
    user, answer = event.get("user"), event.get("responseStatus")
    resource = "/".join(part for part in (target.get("resource"), target.get("subresource")) if part)
    return Write(
        at=datetime.fromisoformat(str(event["requestReceivedTimestamp"])).timestamp(),
        user=str(user.get("username")) if isinstance(user, dict) else "",
        verb=str(event["verb"]),
        resource=resource,
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=int(answer.get("code", 0)) if isinstance(answer, dict) else 0,
    )
