"""The global LIST that closes every gap of the watches, and finds what is not watched: others' pods that hold GPUs."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from shoal.reconciler.clock import steady
from shoal.reconciler.cluster import Cluster, Object, Place
from shoal.reconciler.errors import ClusterError
from shoal.reconciler.items import Item, Kind, make_item
from shoal.reconciler.kinds import GPU_POOL, POD, WATCHED, Pod
from shoal.reconciler.store import Store
from shoal.render.names import LABEL_MANAGED_BY, MANAGER

logger = logging.getLogger(__name__)

_PODS = Place("", "v1", "pods", "Pod")
_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"
_LONGEST_PAUSE_SECONDS = 15.0
_NEWEST = 2**63


class Resync:
    """Lists everything again and again.

    `places` says which kinds are served and where. `foreign` are pods of others that take an extended resource of a
    pool; None: they could not be listed, which is not none.
    """

    def __init__(self, cluster: Cluster, store: Store, *, interval: float) -> None:
        self._cluster = cluster
        self._store = store
        self._interval = interval
        self._asked = asyncio.Event()
        self.places: dict[Kind[Any], Place] = {}
        self.foreign: tuple[Item[Pod], ...] | None = None
        self.listed_at: float | None = None  # steady clock, when the last complete LIST ended
        self.listed = asyncio.Event()
        self.discovered = asyncio.Event()
        self.failures = 0
        self.on_places: Callable[[], None] = lambda: None

    def ask(self) -> None:
        """List again soon: something was seen that cannot be."""
        self._asked.set()

    async def run(self) -> None:
        """List at start, every interval, and when asked. Never raises."""
        pause = 0.5
        while True:
            try:
                await self.list_once()
            except ClusterError as error:
                logger.warning("listing failed, again in %.1f s: %s", pause, error)
            except Exception:
                logger.exception("listing failed, again in %.1f s", pause)
            else:
                pause = 0.5
                await self._wait(self._interval * random.uniform(0.9, 1.1))
                continue
            self.failures += 1
            await self._wait(pause)
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)

    async def list_once(self) -> None:
        """List every kind once. Raises ClusterError when one could not be listed; the others are up to date then."""
        places = await self._discover()
        if places != self.places:
            self.places = places
            self.on_places()
        self.discovered.set()
        errors = []
        for kind in WATCHED:
            try:
                await self._list_kind(kind)
            except ClusterError as error:
                errors.append(error)
                logger.warning("cannot list %s: %s", kind.plural, error)
        await self._list_foreign()
        missing = [kind.name for kind in WATCHED if kind not in places and not kind.optional]
        if missing:
            raise ClusterError(404, "NotServed", f"the cluster serves no {', '.join(missing)}: install Shoal's CRDs")
        if errors:
            raise errors[0]
        self.listed_at = steady()
        self.listed.set()

    async def _discover(self) -> dict[Kind[Any], Place]:
        groups = {(kind.group, version) for kind in WATCHED for version in kind.versions}
        served = {pair: await self._cluster.discover(*pair) for pair in sorted(groups)}
        places = {}
        for kind in WATCHED:
            version = next((v for v in kind.versions if kind.plural in served[kind.group, v]), None)
            if version:
                places[kind] = Place(kind.group, version, kind.plural, kind.name, kind.namespaced)
        return places

    async def _list_kind(self, kind: Kind[Any]) -> None:
        place = self.places.get(kind)
        if place is None:
            if kind.optional:
                self._store.replace(kind, (), _NEWEST)
            return  # our own kinds are missing while their CRDs are replaced: what was known stays
        items: list[Item[Any]] = []
        listed_at = 0
        async for raws, version in self._cluster.list_chunks(place, selector=kind.selector):
            listed_at = version
            items.extend(self._make_items(kind, raws))
        self._store.replace(kind, items, listed_at)

    async def _list_foreign(self) -> None:
        wanted = {name for name in map(_extended_resource, self._store.all(GPU_POOL)) if name}
        if not wanted:
            self.foreign = ()
            return
        found: list[Item[Pod]] = []
        try:
            async for raws, _ in self._cluster.list_chunks(_PODS, fields=_RUNNING):
                found.extend(
                    item
                    for item in self._make_items(POD, raws)
                    if wanted & item.body.devices.keys() and item.labels.get(LABEL_MANAGED_BY) != MANAGER
                )
        except ClusterError as error:
            self.foreign = None
            logger.warning("cannot list the pods that hold GPUs: %s", error)
            return
        self.foreign = tuple(found)

    def _make_items(self, kind: Kind[Any], raws: list[Object]) -> list[Item[Any]]:
        """Trim a chunk at once, so that never more than one chunk is held in full. What is known already is kept."""
        items = []
        for raw in raws:
            try:
                known = self._store.by_uid(kind, raw["metadata"]["uid"])
                same = known is not None and known.version == int(raw["metadata"]["resourceVersion"])
                items.append(known if known is not None and same else make_item(kind, raw))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                logger.warning("a %s that cannot be understood was left out: %r", kind, error)
        return items

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._asked.wait(), seconds)
        except TimeoutError:
            return
        self._asked.clear()
        await asyncio.sleep(1.0)  # a burst of askers is one LIST


def _extended_resource(pool: Item[Any]) -> str | None:
    claim = (pool.body.raw.get("spec") or {}).get("claim") or {}
    name: str | None = claim.get("extendedResource")
    return name
