"""ClusterIPs that work: a TCP listener on every Service address, forwarding to ready pods."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from e2e.devcluster.client import Object

log = logging.getLogger("services")

Backend = tuple[str, int]
_CHUNK = 1 << 16
_CONNECT_SECONDS = 3.0


class ServiceProxy:
    """Listens for the Services it is told of and finds their pods in `pods` (UID -> object) at every connection."""

    def __init__(self, pods: Mapping[str, Object], fixed: Mapping[str, Backend]) -> None:
        self._pods = pods
        self._fixed = fixed  # ClusterIP -> the one backend of a Service without selector
        self._listeners: dict[str, list[asyncio.Server]] = {}
        self._turn = itertools.count()

    async def update(self, service: Object) -> None:
        """Listen as the Service says now."""
        await self.remove(service)
        spec = service["spec"]
        address = spec.get("clusterIP")
        if address in (None, "", "None") or spec.get("type") == "ExternalName":
            return
        listeners = self._listeners.setdefault(service["metadata"]["uid"], [])
        for port in spec.get("ports") or []:
            if port.get("protocol", "TCP") == "TCP":
                accept = self._make_accept(service, port)
                try:
                    listeners.append(await asyncio.start_server(accept, address, port["port"]))
                except OSError as error:
                    log.warning("service %s: %s", service["metadata"]["name"], error)

    async def remove(self, service: Object) -> None:
        """Stop listening; open connections go on."""
        for listener in self._listeners.pop(service["metadata"]["uid"], []):
            listener.close()

    def _make_accept(
        self, service: Object, port: Object
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            backend = self._choose(service, port)
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                if backend is not None:
                    await _forward(reader, writer, backend)
            writer.close()

        return accept

    def _choose(self, service: Object, port: Object) -> Backend | None:
        fixed = self._fixed.get(service["spec"]["clusterIP"])
        if fixed is not None:
            return fixed
        backends = find_backends(service, port, self._pods)
        return backends[next(self._turn) % len(backends)] if backends else None


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


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, backend: Backend) -> None:
    there, back = await asyncio.wait_for(asyncio.open_connection(*backend), _CONNECT_SECONDS)
    try:
        await asyncio.gather(_pump(reader, back), _pump(there, writer))
    finally:
        back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
