"""All that was watched, by UID, with the views that are asked for. Only the event loop's thread touches it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from shoal.reconciler.clock import Now
from shoal.reconciler.items import B, Item, Kind
from shoal.render.names import LABEL_MODEL_SERVICE

# Longer than any event can be late: a watch is reopened after 70 s of silence, a resync closes the rest.
_TOMBSTONE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Change:
    """An object came (`old` is None), changed, or went (`new` is None)."""

    kind: Kind[Any]
    old: Item[Any] | None
    new: Item[Any] | None

    @property
    def item(self) -> Item[Any]:
        """The object after the change, or the last of it."""
        return cast(Item[Any], self.new or self.old)


class _Table:
    """The objects of one kind."""

    def __init__(self) -> None:
        self.by_uid: dict[str, Item[Any]] = {}
        self.by_name: dict[tuple[str | None, str], str] = {}
        self.by_service: dict[tuple[str | None, str], set[str]] = defaultdict(set)
        self.synced = False

    def insert(self, item: Item[Any]) -> None:
        self.by_uid[item.uid] = item
        self.by_name[item.namespace, item.name] = item.uid
        if service := item.labels.get(LABEL_MODEL_SERVICE):
            self.by_service[item.namespace, service].add(item.uid)

    def discard(self, item: Item[Any]) -> None:
        del self.by_uid[item.uid]
        if self.by_name.get((item.namespace, item.name)) == item.uid:
            del self.by_name[item.namespace, item.name]
        if service := item.labels.get(LABEL_MODEL_SERVICE):
            uids = self.by_service[item.namespace, service]
            uids.discard(item.uid)
            if not uids:
                del self.by_service[item.namespace, service]


class Store:
    """Trimmed objects of every watched kind.

    Events may come late, twice, out of order, or not at all: the newest version of an object wins, what was deleted
    never comes back (UIDs are not reused), and `replace` closes every gap. Listeners are told of real changes only.
    Objects that are not `is_wanted` are as if they were not there.
    """

    def __init__(self, now: Now, is_wanted: Callable[[Kind[Any], Item[Any]], bool] = lambda kind, item: True) -> None:
        self._now, self._is_wanted = now, is_wanted
        self._tables: dict[Kind[Any], _Table] = defaultdict(_Table)
        self._tombstones: dict[str, float] = {}
        self._listeners: list[Callable[[Change], None]] = []

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` on every change from now on, in order."""
        self._listeners.append(listener)

    def put(self, kind: Kind[B], item: Item[B]) -> None:
        """Take in an object as it was seen."""
        if not self._is_wanted(kind, item):
            return
        table = self._tables[kind]
        known = table.by_uid.get(item.uid)
        if item.uid in self._tombstones or (known is not None and known.version >= item.version):
            return
        if known is None:
            self._bury_predecessor(kind, table, item)
        else:
            table.discard(known)
        table.insert(item)
        self._tell(Change(kind, known, item))

    def remove(self, kind: Kind[Any], uid: str) -> None:
        """Take note that an object is gone for good."""
        self._bury(uid)
        table = self._tables[kind]
        if known := table.by_uid.get(uid):
            table.discard(known)
            self._tell(Change(kind, known, None))

    def replace(self, kind: Kind[B], items: Iterable[Item[B]], listed_at: int) -> None:
        """Take in a complete LIST made at resourceVersion `listed_at`: what is not in it and not newer has vanished."""
        listed = set()
        for item in items:
            listed.add(item.uid)
            self.put(kind, item)
        table = self._tables[kind]
        for known in list(table.by_uid.values()):
            if known.uid not in listed and known.version <= listed_at:
                self.remove(kind, known.uid)
        table.synced = True
        self._prune_tombstones()

    def is_synced(self, kind: Kind[Any]) -> bool:
        """Whether the kind was listed completely at least once."""
        return self._tables[kind].synced

    def get(self, kind: Kind[B], namespace: str | None, name: str) -> Item[B] | None:
        """The object of that name, the newest if one was replaced by another."""
        table = self._tables[kind]
        uid = table.by_name.get((namespace, name))
        return table.by_uid.get(uid) if uid else None

    def by_uid(self, kind: Kind[B], uid: str) -> Item[B] | None:
        """The object with that UID."""
        return self._tables[kind].by_uid.get(uid)

    def all(self, kind: Kind[B]) -> Iterator[Item[B]]:
        """Every object of a kind; do not change the store meanwhile."""
        return iter(self._tables[kind].by_uid.values())

    def of_service(self, kind: Kind[B], namespace: str, service: str) -> list[Item[B]]:
        """The objects labelled as belonging to a ModelService, in order of name."""
        table = self._tables[kind]
        uids = table.by_service.get((namespace, service), ())
        return sorted((table.by_uid[uid] for uid in uids), key=lambda item: item.name)

    def count(self, kind: Kind[Any]) -> int:
        """How many objects of a kind are known."""
        return len(self._tables[kind].by_uid)

    def _bury_predecessor(self, kind: Kind[Any], table: _Table, item: Item[Any]) -> None:
        """A name holds one object at a time: an older one of this name is gone, even if nobody told us."""
        uid = table.by_name.get((item.namespace, item.name))
        if uid is not None and table.by_uid[uid].version < item.version:
            self.remove(kind, uid)

    def _bury(self, uid: str) -> None:
        self._tombstones[uid] = self._now()

    def _prune_tombstones(self) -> None:
        limit = self._now() - _TOMBSTONE_SECONDS
        for uid in [uid for uid, buried in self._tombstones.items() if buried < limit]:
            del self._tombstones[uid]

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)
