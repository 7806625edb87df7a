"""Events of pods, as a kubelet posts them: one object per reason and message, counted."""

from __future__ import annotations

import asyncio
import logging
import uuid

import aiohttp

from e2e.devcluster.agent.status import now
from e2e.devcluster.client import ApiClient, ApiError, Object

log = logging.getLogger("events")


class EventRecorder:
    """Posts Events in the background; one that cannot be posted is logged and forgotten."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._queue: asyncio.Queue[tuple[Object, str, str, str, str]] = asyncio.Queue()
        self._posted: dict[tuple[str, str, str], tuple[str, int]] = {}  # (uid, reason, message) -> (name, count)

    def record(self, pod: Object, node: str, kind: str, reason: str, message: str) -> None:
        """Queue an Event about a pod; `kind` is Normal or Warning."""
        self._queue.put_nowait((pod, node, kind, reason, message))

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self._posted = {key: value for key, value in self._posted.items() if key[0] != uid}

    async def run(self) -> None:
        """Post what is queued, for ever."""
        while True:
            pod, node, kind, reason, message = await self._queue.get()
            try:
                await self._post(pod, node, kind, reason, message[:1000])
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                log.info("event %s of %s not posted: %s", reason, pod["metadata"]["name"], error)

    async def _post(self, pod: Object, node: str, kind: str, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        key = (metadata["uid"], reason, message)
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        if key in self._posted:
            name, count = self._posted[key]
            self._posted[key] = (name, count + 1)
            await self._client.patch(f"{path}/{name}", {"count": count + 1, "lastTimestamp": now()})
            return
        name = f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}"
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "reason": reason,
            "message": message,
            "type": kind,
            "source": {"component": "kubelet", "host": node},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        await self._client.create(path, event)
        self._posted[key] = (name, 1)
