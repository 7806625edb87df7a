"""Says of every pod bound to a hollow node that it runs, and makes its ports answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from bench.hollow.nodes import HollowNode, Object
from bench.hollow.pages import Requests
from bench.hollow.ports import (
    AGENT_PORT,
    ROUTER_STATS_PORT,
    Ports,
    make_agent_answer,
    make_engine_answer,
    make_router_answer,
)
from bench.hollow.routers import follow_configuration
from bench.hollow.traffic import Traffic
from e2e.devcluster import ApiClient, ApiError
from e2e.devcluster.agent.status import PodFacts, make_records, make_status
from e2e.devcluster.agent.status import now as utc_now
from shoal.render.names import (
    COMPONENT_ENGINE,
    COMPONENT_GPU_AGENT,
    COMPONENT_ROUTER,
    ENGINE_PORT,
    LABEL_COMPONENT,
    LABEL_MODEL_SERVICE,
)

log = logging.getLogger("hollow")


@dataclass(slots=True)
class _Pod:
    """A pod that runs here."""

    address: str
    ready: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Kubelet:
    """All hollow nodes' kubelets at once.

    `startup_seconds` pass until an engine is ready, `stop_seconds` until a deleted pod has ended. `xds` is where
    routers fetch their configuration; None: they have none.
    """

    def __init__(
        self,
        client: ApiClient,
        nodes: Mapping[str, HollowNode],
        addresses: Iterator[str],
        traffic: Traffic,
        *,
        requests: Requests,
        startup_seconds: float,
        stop_seconds: float,
        xds: str | None,
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._addresses = addresses
        self._traffic = traffic
        self._requests = requests
        self._startup_seconds = startup_seconds
        self._stop_seconds = stop_seconds
        self._xds = xds
        self._pods: dict[str, _Pod] = {}
        self._ending: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.ports = Ports()

    async def run(self) -> None:
        """Follow the pods for ever."""
        async for kind, pod in self._client.watch("/api/v1/pods"):
            self._take(kind, pod)

    def _take(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._forget(pod)
        elif pod["spec"].get("nodeName") not in self._nodes:
            return
        elif pod["metadata"].get("deletionTimestamp"):
            if uid not in self._ending:
                self._ending.add(uid)
                self._spawn(self._end(pod))
        elif uid not in self._pods:
            self._pods[uid] = _Pod(next(self._addresses))
            self._spawn(self._start(pod))
        elif self._pods[uid].ready and not is_ready(pod):
            # The node controller has taken our node for dead meanwhile: we are not.
            self._spawn(self._write_status(pod, self._pods[uid].address, ready=True))

    def _spawn(self, work: object) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task  # type: ignore[no-any-return]

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s", task.exception(), exc_info=task.exception())

    async def _start(self, pod: Object) -> None:
        """Write Running with an address, wait, open the ports, write Ready."""
        metadata = pod["metadata"]
        running = self._pods[metadata["uid"]]
        is_engine = metadata.get("labels", {}).get(LABEL_COMPONENT) == COMPONENT_ENGINE
        if is_engine and self._startup_seconds:
            await self._write_status(pod, running.address, ready=False)
            await asyncio.sleep(self._startup_seconds)
        if metadata["uid"] in self._pods and metadata["uid"] not in self._ending:
            await self._open(pod, running)
            await self._write_status(pod, running.address, ready=True)
            running.ready = True

    async def _open(self, pod: Object, running: _Pod) -> None:
        metadata, labels = pod["metadata"], pod["metadata"].get("labels", {})
        component, namespace = labels.get(LABEL_COMPONENT), metadata["namespace"]
        if component == COMPONENT_ENGINE:
            await self._open_engines(pod, running.address)
        elif component == COMPONENT_ROUTER:
            self._traffic.add_router(namespace, metadata["name"], time.monotonic())
            answer = make_router_answer(self._traffic, namespace, metadata["name"])
            await self.ports.open(running.address, ROUTER_STATS_PORT, answer)
            if self._xds is not None:
                running.tasks.append(self._spawn(follow_configuration(self._xds, namespace, metadata["name"])))
        elif component == COMPONENT_GPU_AGENT:
            node = self._nodes[pod["spec"]["nodeName"]]
            await self.ports.open(running.address, AGENT_PORT, make_agent_answer(node.name, node.gpus))

    async def _open_engines(self, pod: Object, address: str) -> None:
        metadata, spec = pod["metadata"], pod["spec"]
        service = (metadata["namespace"], metadata["labels"][LABEL_MODEL_SERVICE])
        for index in range(engines_of(spec)):
            engine = (metadata["uid"], index)
            self._traffic.add_engine(service, engine, time.monotonic())
            answer = make_engine_answer(self._traffic, service, engine, service[1], self._requests)
            await self.ports.open(address, ENGINE_PORT + index, answer)

    async def _write_status(self, pod: Object, address: str, *, ready: bool) -> None:
        records = make_records(pod)
        for record in records:
            record.state = {"running": {"startedAt": utc_now()}}
            record.ready = record.started = ready
        facts = PodFacts(
            address=address,
            node_address=self._nodes[pod["spec"]["nodeName"]].address,
            start_time=utc_now(),
            initialised=True,
            finished=False,
        )
        # The scheduler's condition stays: a strategic patch merges conditions by their type.
        status = make_status(pod, records, facts, ())
        with suppress(ApiError):  # the pod is gone already: the watch says so
            await self._client.patch(
                f"{_path(pod)}/status",
                {"status": status},
                content_type="application/strategic-merge-patch+json",
            )

    async def _end(self, pod: Object) -> None:
        await asyncio.sleep(self._stop_seconds)
        await self._client.delete(_path(pod), {"gracePeriodSeconds": 0})

    def _forget(self, pod: Object) -> None:
        metadata = pod["metadata"]
        self._ending.discard(metadata["uid"])
        gone = self._pods.pop(metadata["uid"], None)
        if gone is None:
            return
        self.ports.close(gone.address)
        for task in gone.tasks:
            task.cancel()
        self._stop_counting(metadata, engines_of(pod["spec"]))

    def _stop_counting(self, metadata: Object, engines: int) -> None:
        namespace, labels, now = metadata["namespace"], metadata.get("labels", {}), time.monotonic()
        if labels.get(LABEL_COMPONENT) == COMPONENT_ROUTER:
            self._traffic.remove_router(namespace, metadata["name"], now)
        elif (service := labels.get(LABEL_MODEL_SERVICE)) is not None:
            for index in range(engines):
                self._traffic.remove_engine((namespace, service), (metadata["uid"], index), now)


def is_ready(pod: Object) -> bool:
    """Whether the API server holds the pod for ready."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def engines_of(spec: Object) -> int:
    """Engines in a pod: its main container and its native sidecars."""
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    return len(sidecars) + 1


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
