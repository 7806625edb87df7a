"""Serves what a decision was taken from, to people who may have a token for it.

The snapshot of a group names services of several namespaces, their rates and their GPUs. So it is given only to the
bearer of a token of a ServiceAccount in the operator's namespace, made for this purpose (its audience) and no other:
whoever may make one administers Shoal already. The token opens nothing else, and ends by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from aiohttp import web

from shoal.domain.plan import PlanSet
from shoal.domain.service import ServiceKey
from shoal.domain.snapshot import Snapshot
from shoal.planner.replay import Record, encode_record
from shoal.reconciler.cluster import Cluster
from shoal.reconciler.errors import ClusterError
from shoal.render.names import SNAPSHOT_AUDIENCE, SNAPSHOT_TOKEN_HEADER

_LONGEST_TOKEN: Final = 16 << 10


class SnapshotPage:
    """`GET /snapshot?namespace=N&name=M`: the last decision about a service's group. `answer_about`: see PlanLoop."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        *,
        answer_about: Callable[[ServiceKey], tuple[Snapshot, PlanSet] | None],
        is_leader: Callable[[], bool],
    ) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._answer_about, self._is_leader = answer_about, is_leader
        self._encoding = asyncio.Lock()  # one at a time: a large one takes a second of CPU

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        try:
            allowed = await self._is_allowed(request.headers.get(SNAPSHOT_TOKEN_HEADER, ""))
        except ClusterError as error:
            return _say(503, f"the token could not be reviewed: {error}")
        if not allowed:
            return _say(401, f"a token for the audience {SNAPSHOT_AUDIENCE} is needed: use `shoal explain --dump`")
        if not self._is_leader():
            return _say(503, "this replica does not lead and decides nothing: ask the holder of the Lease")
        key = ServiceKey(request.query.get("namespace", ""), request.query.get("name", ""))
        found = self._answer_about(key)
        if found is None:
            return _say(404, f"nothing was decided about ModelService {key}: its conditions say why")
        async with self._encoding:
            text = await asyncio.to_thread(_encode, *found)
        return web.Response(text=text, content_type="application/json")

    async def _is_allowed(self, token: str) -> bool:
        if not token or len(token) > _LONGEST_TOKEN:
            return False
        user = await self._cluster.review_token(token, SNAPSHOT_AUDIENCE)
        return user is not None and user.startswith(f"system:serviceaccount:{self._namespace}:")


def _encode(snapshot: Snapshot, answer: PlanSet) -> str:
    return json.dumps(encode_record(Record(version("shoal"), snapshot, answer)), allow_nan=False)


def _say(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")
