"""What the store keeps: an object's identity and the few facts of it that anybody asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

Raw = Mapping[str, Any]
B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Item(Generic[B_co]):
    """One object of the cluster, trimmed. `version` is its resourceVersion; instants are seconds since the epoch."""

    uid: str
    namespace: str | None
    name: str
    version: int
    generation: int
    created_at: float
    deleted_at: float | None  # when deletion was asked for; the object still exists
    owner: str | None  # UID of the controlling owner
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    body: B_co


@dataclass(frozen=True)
class Kind(Generic[B]):
    """A kind of object that is watched: where it lives in the API, and what is kept of it.

    `versions` are tried in order, the first one that is served is used. `selector` is a label selector for LIST and
    WATCH. `optional`: a cluster without it is fine.
    """

    name: str
    group: str
    versions: tuple[str, ...]
    plural: str
    namespaced: bool
    trim: Callable[[Raw], B]
    selector: str = ""
    optional: bool = False

    def __hash__(self) -> int:
        return hash((self.group, self.plural))

    def __str__(self) -> str:
        return self.name


def make_item(kind: Kind[B], raw: Raw) -> Item[B]:
    """Trim an object as the API server sent it. Raises KeyError, TypeError, ValueError when it is no such object."""
    metadata = raw["metadata"]
    deleted = metadata.get("deletionTimestamp")
    return Item(
        uid=metadata["uid"],
        namespace=metadata.get("namespace"),
        name=metadata["name"],
        version=int(metadata["resourceVersion"]),
        generation=metadata.get("generation", 0),
        created_at=parse_time(metadata["creationTimestamp"]),
        deleted_at=parse_time(deleted) if deleted else None,
        owner=_controller(metadata),
        labels=metadata.get("labels") or {},
        annotations=_trim_annotations(metadata.get("annotations") or {}),
        body=kind.trim(raw),
    )


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _controller(metadata: Raw) -> str | None:
    owners = metadata.get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _trim_annotations(annotations: Mapping[str, str]) -> Mapping[str, str]:
    """Leave out what only kubectl reads: it repeats the whole object."""
    return {key: value for key, value in annotations.items() if not key.startswith("kubectl.kubernetes.io/")}
