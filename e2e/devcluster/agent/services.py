"""ClusterIPs that work: a TCP listener on every Service address, forwarding to ready pods."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import cast

from e2e.devcluster.client import Object

log = logging.getLogger("services")

Backend = tuple[str, int]
_CONNECT_SECONDS = 3.0


class ServiceProxy:
    """Listens for the Services it is told of and finds their pods in `pods` (UID -> object) at every connection."""

    def __init__(self, pods: Mapping[str, Object], fixed: Mapping[str, Backend]) -> None:
        self._pods = pods
        self._fixed = fixed  # ClusterIP -> the one backend of a Service without selector
        self._services: dict[str, Object] = {}
        self._listeners: dict[Backend, asyncio.Server] = {}
        self._turn = itertools.count()

    async def update(self, service: Object) -> None:
        """Listen as the Service says now."""
        self._services[service["metadata"]["uid"]] = service
        await self._listen()

    async def remove(self, service: Object) -> None:
        """Stop listening; open connections go on."""
        self._services.pop(service["metadata"]["uid"], None)
        await self._listen()

    async def _listen(self) -> None:
        """Open and close listeners until they are those that the Services ask for."""
        wanted = {place: uid for uid, service in self._services.items() for place in listening_places(service)}
        for place in self._listeners.keys() - wanted.keys():
            self._listeners.pop(place).close()
        for place in wanted.keys() - self._listeners.keys():
            make = functools.partial(_Client, functools.partial(self._choose, wanted[place], place))
            try:
                self._listeners[place] = await asyncio.get_running_loop().create_server(make, *place)
            except OSError as error:
                log.warning("%s: %s", place, error)

    def _choose(self, uid: str, place: Backend) -> Backend | None:
        address, number = place
        if address in self._fixed:
            return self._fixed[address]
        service = self._services.get(uid)
        ports = (service or {"spec": {}})["spec"].get("ports") or []
        port = next((port for port in ports if port["port"] == number), None)
        backends = find_backends(service, port, self._pods) if service and port else []
        return backends[next(self._turn) % len(backends)] if backends else None


def listening_places(service: Object) -> list[Backend]:
    """Return the addresses and TCP ports of a Service; headless and external ones have none."""
    spec = service["spec"]
    address = spec.get("clusterIP")
    if address in (None, "", "None") or spec.get("type") == "ExternalName":
        return []
    return [(address, int(port["port"])) for port in spec.get("ports") or [] if port.get("protocol", "TCP") == "TCP"]


def find_backends(service: Object, port: Object, pods: Mapping[str, Object]) -> list[Backend]:
    """Return address and port of every pod that serves a Service's port: selected, ready, not being deleted."""
    selector = service["spec"].get("selector")
    if not selector:
        return []
    namespace = service["metadata"]["namespace"]
    found = []
    for pod in pods.values():
        labels = pod["metadata"].get("labels") or {}
        selected = pod["metadata"]["namespace"] == namespace and selector.items() <= labels.items()
        if selected and "deletionTimestamp" not in pod["metadata"] and is_ready(pod):
            number = _target_port(pod, port)
            if number is not None:
                found.append((pod["status"]["podIP"], number))
    return sorted(found)


def is_ready(pod: Object) -> bool:
    """True when the pod's Ready condition is."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _target_port(pod: Object, port: Object) -> int | None:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    spec = pod["spec"]
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        for declared in container.get("ports") or []:
            if declared.get("name") == target:
                return int(declared["containerPort"])
    return None


class _Side(asyncio.Protocol):
    """One of the two connections of a forwarded one: what arrives here leaves there, no faster than it can."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.ended = False  # nothing more will arrive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Hand a half-close on; when both sides have said all they had to say, the connection is over."""
        self.ended = True
        if self.other is None or self.other.transport is None or self.other.ended:
            return False
        self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        other, self.other, self.transport = self.other, None, None
        if other is not None and other.transport is not None:
            other.transport.close()


class _Client(_Side):
    """The client's side: what it says before the backend has answered is kept for it."""

    def __init__(self, choose: Callable[[], Backend | None]) -> None:
        super().__init__()
        self._choose = choose
        self._early: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.ensure_future(self._connect())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super().data_received(data)

    def eof_received(self) -> bool:
        """Before there is a backend a half-close is remembered only."""
        if self.other is not None:
            return super().eof_received()
        self.ended = True
        return True

    async def _connect(self) -> None:
        backend = self._choose()
        try:
            if backend is None:
                raise ConnectionRefusedError
            connecting = asyncio.get_running_loop().create_connection(_Side, *backend)
            there, side = await asyncio.wait_for(connecting, _CONNECT_SECONDS)
        except (OSError, TimeoutError):
            if self.transport is not None:
                self.transport.abort()
            return
        if self.transport is None:  # the client left meanwhile
            there.close()
            return
        self.other, side.other = side, self
        there.write(b"".join(self._early))
        self._early.clear()
        if self.ended:
            there.write_eof()
