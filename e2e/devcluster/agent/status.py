"""A pod's status as a kubelet would write it: pure, from what is known of its containers."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from e2e.devcluster.client import Object


class Kind(enum.Enum):
    """What a container is to its pod."""

    INIT = "init"  # runs to its end before the next
    SIDECAR = "sidecar"  # an init container with restartPolicy Always: runs beside the main ones
    MAIN = "main"


@dataclass
class Record:
    """What the API is told of one container; changed by the one who keeps it."""

    spec: Object
    kind: Kind
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "PodInitializing"}})
    last_state: Object = field(default_factory=dict)
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.spec["name"])

    @property
    def exit_code(self) -> int | None:
        """Exit code of a container that has ended, else None."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])


def now() -> str:
    """Return the present as the API writes it (seconds, UTC)."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_records(pod: Object) -> list[Record]:
    """Return a record per container, init containers first; what an earlier run of the agent reported lives on."""
    spec, status = pod["spec"], pod.get("status") or {}
    records = []
    for container in spec.get("initContainers") or []:
        kind = Kind.SIDECAR if container.get("restartPolicy") == "Always" else Kind.INIT
        records.append(_continue(Record(container, kind), status.get("initContainerStatuses")))
    for container in spec["containers"]:
        records.append(_continue(Record(container, Kind.MAIN), status.get("containerStatuses")))
    return records


def _continue(record: Record, statuses: Sequence[Object] | None) -> Record:
    """Count a run that was lost with the node as a restart."""
    for status in statuses or ():
        state = status.get("state") or {}
        if status["name"] != record.name or not ("running" in state or "terminated" in state):
            continue
        record.restarts = status.get("restartCount", 0) + 1
        lost = {"exitCode": 255, "reason": "Unknown", "finishedAt": now(), "message": "the node was lost"}
        record.last_state = {"terminated": state.get("terminated") or lost}
    return record


def compute_phase(records: Iterable[Record], *, initialised: bool, finished: bool) -> str:
    """Return the pod's phase; `finished` says that no container will run again."""
    records = list(records)
    mains = [record for record in records if record.kind is Kind.MAIN]
    failed_init = any(r.exit_code not in (None, 0) for r in records if r.kind is Kind.INIT)
    if finished:
        good = initialised and not failed_init and all(record.exit_code == 0 for record in mains)
        return "Succeeded" if good else "Failed"
    begun = any("waiting" not in r.state or r.last_state for r in mains)
    return "Running" if initialised and begun else "Pending"


@dataclass(frozen=True)
class PodFacts:
    """What is true of the pod beside its containers."""

    address: str
    node_address: str
    start_time: str
    initialised: bool
    finished: bool
    failure: tuple[str, str] | None = None  # (reason, message): the pod was refused


def make_status(pod: Object, records: Sequence[Record], facts: PodFacts, previous: Sequence[Object]) -> Object:
    """Return the pod's status; `previous` are the conditions now in the API, whose times are kept where they hold."""
    phase = compute_phase(records, initialised=facts.initialised, finished=facts.finished)
    inits = [make_container_status(r) for r in records if r.kind is not Kind.MAIN]
    status: Object = {
        "phase": phase,
        "observedGeneration": pod["metadata"].get("generation", 1),
        "hostIP": facts.node_address,
        "hostIPs": [{"ip": facts.node_address}],
        "podIP": facts.address,
        "podIPs": [{"ip": facts.address}],
        "startTime": facts.start_time,
        "conditions": _make_conditions(pod, records, facts, previous),
        "containerStatuses": [make_container_status(r) for r in records if r.kind is Kind.MAIN],
    }
    if inits:
        status["initContainerStatuses"] = inits
    if facts.failure:
        status["phase"] = "Failed"
        status["reason"], status["message"] = facts.failure
    return status


def make_container_status(record: Record) -> Object:
    """Return one entry of `containerStatuses`."""
    return {
        "name": record.name,
        "image": record.spec["image"],
        "imageID": record.spec["image"],
        "containerID": record.container_id,
        "state": record.state,
        "lastState": record.last_state,
        "ready": record.ready,
        "started": record.started,
        "restartCount": record.restarts,
    }


def _make_conditions(
    pod: Object, records: Sequence[Record], facts: PodFacts, previous: Sequence[Object]
) -> list[Object]:
    unready = [r.name for r in records if r.kind is not Kind.INIT and not r.ready]
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    open_gates = {c["type"] for c in previous if c["status"] == "True"}
    closed = [gate for gate in gates if gate not in open_gates]
    wanted = [
        _condition("Initialized", facts.initialised, "ContainersNotInitialized", "containers are still initialising"),
        _condition("ContainersReady", not unready, "ContainersNotReady", f"containers with unready status: {unready}"),
        _condition("Ready", not unready, "ContainersNotReady", f"containers with unready status: {unready}"),
    ]
    if closed and not unready:
        wanted[2] = _condition("Ready", False, "ReadinessGatesNotReady", f"readiness gates not true: {closed}")
    if facts.finished and not facts.failure:
        wanted[1:] = [_condition(kind, False, "PodCompleted", "") for kind in ("ContainersReady", "Ready")]
    return [_keep_time(condition, previous) for condition in wanted]


def _condition(kind: str, holds: bool, reason: str, message: str) -> Object:
    if holds:
        return {"type": kind, "status": "True", "reason": None, "message": None}
    return {"type": kind, "status": "False", "reason": reason, "message": message}


def _keep_time(condition: Object, previous: Sequence[Object]) -> Object:
    """Give a condition the time of its last change of status."""
    for old in previous:
        if old["type"] == condition["type"] and old["status"] == condition["status"]:
            return {**condition, "lastTransitionTime": old.get("lastTransitionTime") or now()}
    return {**condition, "lastTransitionTime": now()}
