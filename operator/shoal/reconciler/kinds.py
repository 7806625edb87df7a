"""Every kind that is watched: what is kept of each, and nothing more. 200 services fit into a few megabytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

from shoal.api.base import GROUP, VERSION
from shoal.reconciler.items import Kind, Raw, parse_time
from shoal.render.names import (
    COMPONENT_ENGINE,
    COMPONENT_GPU_AGENT,
    COMPONENT_PROFILER,
    COMPONENT_ROUTER,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    MANAGER,
)

DeviceId = tuple[str, str, str]  # driver, pool, device: how the API names a GPU


@dataclass(frozen=True, slots=True)
class Custom:
    """A custom resource of ours, as it was sent, without managed fields."""

    raw: Raw


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod (native sidecars included). `message`: why it ended or does not start."""

    name: str
    ready: bool
    restarts: int
    ready_since: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod. `ready_since` is when it became Ready; `waits_for`: why it has no node."""

    node: str | None
    address: str | None
    phase: str
    ready_since: float | None
    started_at: float | None
    containers: tuple[Container, ...]
    claims: tuple[str, ...]  # names of its ResourceClaims
    devices: Mapping[str, int]  # extended resource -> count
    waits_for: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended and holds nothing any more."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A Deployment. `replicas` is what is asked for, `existing` the pods there are."""

    replicas: int
    existing: int
    ready: int


@dataclass(frozen=True, slots=True)
class Job:
    """A Job. `ended`: `Complete` or `Failed` once no pod of it will run again, with the reason in `message`."""

    ended: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A ResourceClaim: the devices it was given, the pods it is reserved for."""

    devices: tuple[DeviceId, ...]
    pods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a ResourceSlice with its string attributes, names without their domain."""

    name: str
    attributes: Mapping[str, str]
    taints: tuple[str, ...]  # effects


@dataclass(frozen=True, slots=True)
class Slice:
    """A ResourceSlice. A driver's pool counts only its slices of the newest generation."""

    driver: str
    pool: str
    pool_generation: int
    node: str | None
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A node. `taints` are (key, value, effect)."""

    ready: bool
    unschedulable: bool
    devices: Mapping[str, int]  # extended resource -> allocatable count
    taints: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class TaintRule:
    """A DeviceTaintRule. None in the selector: any."""

    driver: str | None
    pool: str | None
    device: str | None
    effect: str


def trim_custom(raw: Raw) -> Custom:
    """Keep all but what only the API server needs."""
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    return Custom({**raw, "metadata": metadata})


def trim_pod(raw: Raw) -> Pod:
    """Keep where it is, what it holds and which of its containers are ready."""
    spec, status = raw["spec"], raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    ready = conditions.get("Ready") or {}
    scheduled = conditions.get("PodScheduled") or {}
    claims = status.get("resourceClaimStatuses") or ()
    return Pod(
        node=spec.get("nodeName"),
        address=status.get("podIP"),
        phase=intern(status.get("phase") or "Pending"),
        ready_since=_transition(ready) if ready.get("status") == "True" else None,
        started_at=parse_time(status["startTime"]) if status.get("startTime") else None,
        containers=tuple(_trim_containers(spec, status)),
        claims=tuple(claim["resourceClaimName"] for claim in claims if claim.get("resourceClaimName")),
        devices=_count_devices(spec),
        waits_for=(scheduled.get("message") or "") if scheduled.get("status") == "False" else "",
    )


def trim_deployment(raw: Raw) -> Deployment:
    """Keep the counts."""
    status = raw.get("status") or {}
    return Deployment(
        replicas=raw["spec"].get("replicas", 1),
        existing=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0),
    )


def trim_job(raw: Raw) -> Job:
    """Keep whether it has ended, and why."""
    conditions = (raw.get("status") or {}).get("conditions") or ()
    ended: Raw = next((c for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), {})
    return Job(ended.get("type"), ended.get("message") or ended.get("reason") or "")


def trim_claim(raw: Raw) -> Claim:
    """Keep the allocation's devices, without those given for administration (they are used by others as well)."""
    status = raw.get("status") or {}
    results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or ()
    return Claim(
        devices=tuple((r["driver"], r["pool"], r["device"]) for r in results if not r.get("adminAccess")),
        pods=tuple(user["name"] for user in status.get("reservedFor") or () if user.get("resource") == "pods"),
    )


def trim_slice(raw: Raw) -> Slice:
    """Keep the devices and their attributes that are texts."""
    spec = raw["spec"]
    return Slice(
        driver=intern(spec["driver"]),
        pool=spec["pool"]["name"],
        pool_generation=spec["pool"].get("generation", 0),
        node=spec.get("nodeName"),
        devices=tuple(_trim_device(device) for device in spec.get("devices") or ()),
    )


def trim_node(raw: Raw) -> Node:
    """Keep readiness, taints and extended resources."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    conditions = status.get("conditions") or ()
    return Node(
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        unschedulable=bool(spec.get("unschedulable")),
        devices=_extended(status.get("allocatable") or {}),
        taints=tuple((t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints") or ()),
    )


def trim_taint_rule(raw: Raw) -> TaintRule:
    """Keep whom it taints and how."""
    selector = raw["spec"].get("deviceSelector") or {}
    return TaintRule(
        driver=selector.get("driver"),
        pool=selector.get("pool"),
        device=selector.get("device"),
        effect=raw["spec"]["taint"]["effect"],
    )


def _trim_containers(spec: Raw, status: Raw) -> Iterator[Container]:
    sidecars = {c["name"] for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    statuses = [s for s in status.get("initContainerStatuses") or () if s["name"] in sidecars]
    for found in (*statuses, *(status.get("containerStatuses") or ())):
        state = found.get("state") or {}
        ended = state.get("terminated") or (found.get("lastState") or {}).get("terminated") or {}
        waiting = state.get("waiting") or {}
        running = state.get("running") or {}
        message = ended.get("message") or ended.get("reason") or waiting.get("message") or waiting.get("reason") or ""
        yield Container(
            name=intern(found["name"]),
            ready=bool(found.get("ready")),
            restarts=found.get("restartCount", 0),
            ready_since=parse_time(running["startedAt"]) if running.get("startedAt") else None,
            message=message[:300] if not found.get("ready") else "",
        )


def _trim_device(raw: Raw) -> Device:
    attributes = {}
    for name, value in (raw.get("attributes") or {}).items():
        if isinstance(text := value.get("string"), str):
            attributes[intern(name.rsplit("/", 1)[-1])] = text
    return Device(
        name=raw["name"],
        attributes=attributes,
        taints=tuple(taint["effect"] for taint in raw.get("taints") or ()),
    )


def _extended(quantities: Mapping[str, Any]) -> Mapping[str, int]:
    """The extended resources among quantities: names with a domain that is not Kubernetes' own."""
    return {
        intern(name): int(count)
        for name, count in quantities.items()
        if "/" in name and not name.startswith("kubernetes.io/") and str(count).isdigit() and int(count)
    }


def _count_devices(spec: Raw) -> Mapping[str, int]:
    """Extended resources a pod takes: the sum of its containers and native sidecars (a lower bound of none is fine)."""
    counts: dict[str, int] = {}
    initial = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in (*(spec.get("containers") or ()), *initial):
        for name, count in _extended((container.get("resources") or {}).get("limits") or {}).items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _transition(condition: Raw) -> float | None:
    text = condition.get("lastTransitionTime")
    return parse_time(text) if text else None


def _ours(name: str, plural: str, *, namespaced: bool) -> Kind[Custom]:
    return Kind(name, GROUP, (VERSION,), plural, namespaced, trim_custom)


def trim_nothing(raw: Raw) -> None:
    """Keep nothing: names and labels are enough."""


_DRA = "resource.k8s.io"
_COMPONENTS = ",".join((COMPONENT_ENGINE, COMPONENT_GPU_AGENT, COMPONENT_PROFILER, COMPONENT_ROUTER))

MODEL_SERVICE = _ours("ModelService", "modelservices", namespaced=True)
GPU_POOL = _ours("GPUPool", "gpupools", namespaced=False)
ENGINE_CLASS = _ours("EngineClass", "engineclasses", namespaced=False)
MODEL_PROFILE = _ours("ModelProfile", "modelprofiles", namespaced=True)
PROFILE_RUN = _ours("ProfileRun", "profileruns", namespaced=True)
POD = Kind("Pod", "", ("v1",), "pods", True, trim_pod, selector=f"{LABEL_COMPONENT} in ({_COMPONENTS})")
NODE = Kind("Node", "", ("v1",), "nodes", False, trim_node)
NAMESPACE = Kind("Namespace", "", ("v1",), "namespaces", False, trim_nothing)
DEPLOYMENT = Kind(
    "Deployment", "apps", ("v1",), "deployments", True, trim_deployment, selector=f"{LABEL_MANAGED_BY}={MANAGER}"
)
JOB = Kind("Job", "batch", ("v1",), "jobs", True, trim_job, selector=f"{LABEL_MANAGED_BY}={MANAGER}")
CLAIM = Kind("ResourceClaim", _DRA, ("v1",), "resourceclaims", True, trim_claim, optional=True)
SLICE = Kind("ResourceSlice", _DRA, ("v1",), "resourceslices", False, trim_slice, optional=True)
TAINT_RULE = Kind("DeviceTaintRule", _DRA, ("v1", "v1beta2"), "devicetaintrules", False, trim_taint_rule, optional=True)

CUSTOM: tuple[Kind[Custom], ...] = (MODEL_SERVICE, GPU_POOL, ENGINE_CLASS, MODEL_PROFILE, PROFILE_RUN)
WATCHED: tuple[Kind[Any], ...] = (*CUSTOM, POD, NODE, NAMESPACE, DEPLOYMENT, JOB, CLAIM, SLICE, TAINT_RULE)
