"""The life of one pod: set up, init containers and sidecars in order, main containers, and its end."""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import suppress
from typing import Any

import aiohttp

from e2e.devcluster.agent.context import PodContext
from e2e.devcluster.agent.devices import (
    ClaimPendingError,
    DevicesExhaustedError,
    NodeDevices,
    check_claim,
    claim_names,
)
from e2e.devcluster.agent.environment import ContainerConfigError
from e2e.devcluster.agent.keeper import Keeper
from e2e.devcluster.agent.status import Kind, PodFacts, make_records, make_status, now
from e2e.devcluster.agent.tokens import keep_tokens
from e2e.devcluster.agent.volumes import make_volumes, remove_short_names
from e2e.devcluster.client import STRATEGIC_PATCH, ApiError, Object

log = logging.getLogger("pod")

_SETUP_RETRY_SECONDS = 0.5
_REPORT_RETRY_SECONDS = 0.5
# Changes within this time are told to the API together.
_REPORT_DELAY = 0.02


class PodRunner:
    """Runs one pod (one UID) from binding to deletion."""

    def __init__(self, context: PodContext, devices: NodeDevices) -> None:
        self.context = context
        self.records = make_records(context.pod)
        self.keepers = [Keeper(context, record) for record in self.records]
        self.finished = False  # no container will run again
        self._devices = devices
        self._initialised = False
        self._failure: tuple[str, str] | None = None
        self._start_time = (context.pod.get("status") or {}).get("startTime") or now()
        self._reported: Object = {}
        self._conditions: list[Object] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._reporting: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None

    # -- what the agent asks -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the pod's life."""
        self._life = asyncio.ensure_future(self._live())
        self._reporting = asyncio.ensure_future(self._keep_reporting())
        self.context.changed.set()

    def update(self, pod: Object) -> None:
        """Take a newer object: labels, annotations, readiness gates; a deletionTimestamp begins the end."""
        self.context.pod = pod
        if _readiness(pod.get("status") or {}) != _readiness(self._reported):
            # The node controller says not ready of every pod on a node that it lost for a moment.
            self._reported = {}
        self.context.changed.set()
        if "deletionTimestamp" in pod["metadata"]:
            self._terminate(float(pod["metadata"].get("deletionGracePeriodSeconds") or 0))

    async def discard(self) -> None:
        """End everything at once and tell nobody: the object is gone, or its node is."""
        self.context.terminating.set()
        for task in (self._reporting, self._end):
            if task is not None:
                task.cancel()
        for keeper in self.keepers:
            keeper.kill()
        # Awaited before life is cancelled: a run that has ended also ends what it left behind.
        for error in await asyncio.gather(*self._keeping, return_exceptions=True):
            if isinstance(error, Exception):
                log.error("%s/%s", self.context.namespace, self.context.name, exc_info=error)
        if self._life is not None:
            self._life.cancel()
        self._release()

    def keeper(self, container: str | None) -> Keeper:
        """Return the keeper of a container (the first main one unless named). Raises LookupError."""
        for keeper in self.keepers:
            if container in (None, keeper.record.name) and (container or keeper.record.kind is Kind.MAIN):
                return keeper
        raise LookupError(f"pod {self.context.name} has no container {container!r}")

    # -- life --------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            await self._run_containers()
        except DevicesExhaustedError as error:
            self._failure = ("UnexpectedAdmissionError", str(error))
        except Exception:
            log.exception("%s/%s", self.context.namespace, self.context.name)
            self._failure = ("AgentError", "the node agent failed; see its log")
            # A controller replaces a failed pod at once; without a pause that would be hundreds in a minute.
            await self._pause(self.context.settings.config.crash_back_off_seconds)
        if not self.context.terminating.is_set():
            await self._stop_containers(self.context.grace)
            self._finish()

    async def _run_containers(self) -> None:
        await self._set_up()
        self._renewing = asyncio.ensure_future(keep_tokens(self.context))
        if not await self._initialise():
            return
        self._initialised = True
        await asyncio.gather(*(self._keep(k) for k in self.keepers if k.record.kind is Kind.MAIN))

    async def _set_up(self) -> None:
        """Wait for claims, take devices, make volumes; what is missing is tried again."""
        said = ""
        while not self.context.terminating.is_set():
            try:
                self.context.devices = self._devices.assign(self.context.pod, await self._read_claims())
                await make_volumes(self.context)
                return
            except (ClaimPendingError, ContainerConfigError, ApiError, aiohttp.ClientError, TimeoutError) as error:
                if str(error) != said:
                    said = str(error)
                    self.context.record_event("Warning", "FailedMount", said)
            await self._pause(_SETUP_RETRY_SECONDS)

    async def _read_claims(self) -> dict[str, Object]:
        claims = {}
        for name, claim in claim_names(self.context.pod).items():
            path = f"/apis/resource.k8s.io/v1/namespaces/{self.context.namespace}/resourceclaims/{claim}"
            claims[name] = await self.context.settings.client.get(path)
            check_claim(claims[name], self.context.pod)
        return claims

    async def _initialise(self) -> bool:
        """Run init containers one after the other; False when the pod must not go on."""
        for keeper in self.keepers:
            if self.context.terminating.is_set():
                return False
            if keeper.record.kind is Kind.SIDECAR:
                self._keep(keeper)
                await _first(keeper.started.wait(), self.context.terminating.wait())
            elif keeper.record.kind is Kind.INIT:
                await self._keep(keeper)
                if keeper.record.exit_code != 0:
                    return False
                keeper.record.ready = True
        return not self.context.terminating.is_set()

    def _keep(self, keeper: Keeper) -> asyncio.Task[None]:
        task = asyncio.ensure_future(keeper.keep())
        self._keeping.append(task)
        return task

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.context.terminating.wait(), seconds)

    # -- end -----------------------------------------------------------------------------------------------------------

    def _terminate(self, grace: float) -> None:
        """Begin the end, or shorten its grace when a second deletion says so."""
        deadline = asyncio.get_running_loop().time() + grace
        if self._end is not None and deadline >= self.context.deadline - 0.5:
            return
        if self._end is not None:
            self._end.cancel()
        self._end = asyncio.ensure_future(self._end_pod(grace))

    async def _end_pod(self, grace: float) -> None:
        if self._life is not None and not self.finished:
            await self._stop_containers(grace)
            await asyncio.gather(self._life, return_exceptions=True)
            self._finish()
        await self._delete()

    async def _stop_containers(self, grace: float) -> None:
        """All preStop hooks at once; SIGTERM to main containers, then to sidecars, the last started first."""
        self.context.deadline = asyncio.get_running_loop().time() + grace
        self.context.terminating.set()
        running = [keeper for keeper in self.keepers if keeper.pid is not None]
        mains = [keeper for keeper in running if keeper.record.kind is not Kind.SIDECAR]
        sidecars = [keeper for keeper in running if keeper.record.kind is Kind.SIDECAR]
        stops = [keeper.stop(()) for keeper in mains]
        stops += [sidecar.stop([*mains, *sidecars[i + 1 :]]) for i, sidecar in enumerate(sidecars)]
        await asyncio.gather(*stops)
        await asyncio.gather(*self._keeping)

    def _finish(self) -> None:
        self.finished = True
        for keeper in self.keepers:
            if "waiting" in keeper.record.state:
                _show_never_ran(keeper)
        self._release()
        self.context.changed.set()

    def _release(self) -> None:
        self._devices.release(self.context.uid)
        if self._renewing is not None:
            self._renewing.cancel()
        remove_short_names(self.context)
        shutil.rmtree(self.context.directory, ignore_errors=True)

    async def _delete(self) -> None:
        """Tell the API how the containers ended, then let the object go."""
        while True:
            try:
                if self._life is not None:  # else it ended before this agent began, and has been reported
                    await self._report()
                preconditions = {"uid": self.context.uid}
                await self.context.settings.client.delete(
                    self.context.path, {"gracePeriodSeconds": 0, "preconditions": preconditions}
                )
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(_REPORT_RETRY_SECONDS)

    # -- status --------------------------------------------------------------------------------------------------------

    async def _keep_reporting(self) -> None:
        while True:
            await self.context.changed.wait()
            await asyncio.sleep(_REPORT_DELAY)
            self.context.changed.clear()
            try:
                await self._report()
            except ApiError as error:
                if error.status in (404, 409):
                    return
                log.warning("%s/%s: %s", self.context.namespace, self.context.name, error)
                await asyncio.sleep(_REPORT_RETRY_SECONDS)
                self.context.changed.set()
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(_REPORT_RETRY_SECONDS)
                self.context.changed.set()

    async def _report(self) -> None:
        facts = PodFacts(
            address=self.context.address,
            node_address=self.context.node_address,
            start_time=self._start_time,
            initialised=self._initialised,
            finished=self.finished,
            failure=self._failure,
        )
        others = (self.context.pod.get("status") or {}).get("conditions") or []
        status = make_status(self.context.pod, self.records, facts, [*self._conditions, *others])
        self._conditions = status["conditions"]
        if status != self._reported:
            # The API merges podIPs by address, which would keep the one from before a reboot.
            addresses = [{"$patch": "replace"}, *status["podIPs"]]
            body = {"metadata": {"uid": self.context.uid}, "status": {**status, "podIPs": addresses}}
            path = f"{self.context.path}/status"
            await self.context.settings.client.patch(path, body, content_type=STRATEGIC_PATCH)
            self._reported = status


def _show_never_ran(keeper: Keeper) -> None:
    """A container that was waiting when its pod ended shows how its last run ended, if there was one."""
    record = keeper.record
    if record.last_state:
        record.state, record.last_state = record.last_state, {}
    record.ready = record.started = False


def _readiness(status: Object) -> str | None:
    """Return the status of a pod's Ready condition, if it has one."""
    return next((c["status"] for c in status.get("conditions") or [] if c["type"] == "Ready"), None)


async def _first(*waits: Any) -> None:
    """Return when the first of several awaitables has finished; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
