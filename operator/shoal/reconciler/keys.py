"""What work is queued under, and which keys a change in the store concerns."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.domain.service import ServiceKey
from shoal.reconciler.kinds import MODEL_SERVICE, POD, PROFILE_RUN, Custom, Pod
from shoal.reconciler.store import Change
from shoal.render.names import (
    COMPONENT_ENGINE,
    COMPONENT_GPU_AGENT,
    COMPONENT_ROUTER,
    LABEL_COMPONENT,
    LABEL_MODEL_SERVICE,
    LABEL_PROFILE_RUN,
)


@dataclass(frozen=True, slots=True)
class RouterKey:
    """The router of a namespace."""

    namespace: str


@dataclass(frozen=True, slots=True)
class PoolKey:
    """The status of a GPUPool."""

    name: str


@dataclass(frozen=True, slots=True)
class RunKey:
    """A ProfileRun."""

    namespace: str
    name: str


Key = ServiceKey | RouterKey | PoolKey | RunKey


def service_of(change: Change) -> ServiceKey | None:
    """The ModelService that a change is about: itself, or the one whose label the object bears."""
    item = change.item
    if change.kind is MODEL_SERVICE:
        return ServiceKey(item.namespace or "", item.name)
    name = item.labels.get(LABEL_MODEL_SERVICE)
    return ServiceKey(item.namespace or "", name) if name and item.namespace else None


def run_of(change: Change) -> RunKey | None:
    """The ProfileRun that a change is about: itself, or the one whose label the object bears."""
    item = change.item
    if change.kind is PROFILE_RUN:
        return RunKey(item.namespace or "", item.name)
    name = item.labels.get(LABEL_PROFILE_RUN)
    return RunKey(item.namespace or "", name) if name and item.namespace else None


def is_wish_changed(change: Change) -> bool:
    """Whether a custom resource asks for something else now: anything but its status."""
    old, new = change.old, change.new
    if old is None or new is None:
        return True
    return (old.generation, old.deleted_at, old.annotations, old.labels) != (
        new.generation,
        new.deleted_at,
        new.annotations,
        new.labels,
    )


def is_replica_changed(change: Change) -> bool:
    """Whether a pod or Deployment changed in a way that counts for a plan or a route."""
    return change.old is None or change.new is None or _essence(change, old=True) != _essence(change, old=False)


def is_status_plan_changed(change: Change) -> bool:
    """Whether what routes are made of changed in a ModelService's status."""
    old: Custom | None = change.old.body if change.old else None
    new: Custom | None = change.new.body if change.new else None
    return _routing_part(old) != _routing_part(new)


def component_of(change: Change) -> str | None:
    """`engine`, `router`, `gpu-agent` for pods; None for everything else."""
    component = change.item.labels.get(LABEL_COMPONENT) if change.kind is POD else None
    return component if component in (COMPONENT_ENGINE, COMPONENT_ROUTER, COMPONENT_GPU_AGENT) else None


def is_of_kind(change: Change, *kinds: object) -> bool:
    """Whether the change is about one of these kinds."""
    return any(change.kind is kind for kind in kinds)


def _essence(change: Change, *, old: bool) -> object:
    item = change.old if old else change.new
    assert item is not None
    if isinstance(item.body, Pod):
        pod = item.body
        ready = tuple((container.name, container.ready) for container in pod.containers)
        return item.deleted_at is not None, pod.node, pod.address, pod.phase, ready, pod.claims, pod.waits_for
    return item.deleted_at is not None, item.body


def _routing_part(body: Custom | None) -> object:
    status = (body.raw.get("status") or {}) if body else {}
    return (status.get("plan") or {}).get("variants"), status.get("gpus")
