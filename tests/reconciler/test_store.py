"""The store under late, double, lost and swapped events."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from objects import make_engine_pod, make_store, raw

from shoal.reconciler.items import Item, make_item
from shoal.reconciler.kinds import NAMESPACE, POD
from shoal.reconciler.store import Change, Store


def item(name: str, version: int, uid: str = "") -> Item[Any]:
    return make_item(NAMESPACE, raw(name, None, uid=uid, version=version))


def watched() -> tuple[Store, list[Change]]:
    store, changes = make_store(), []
    store.listen(changes.append)
    return store, changes


def test_newest_version_wins() -> None:
    store, changes = watched()
    store.put(NAMESPACE, item("a", 5))
    store.put(NAMESPACE, item("a", 4))
    store.put(NAMESPACE, item("a", 5))
    store.put(NAMESPACE, item("a", 7))
    found = store.get(NAMESPACE, None, "a")
    assert found is not None
    assert found.version == 7
    assert [(c.old.version if c.old else None, c.new.version if c.new else None) for c in changes] == [
        (None, 5),
        (5, 7),
    ]


def test_what_is_deleted_stays_deleted() -> None:
    store, changes = watched()
    store.put(NAMESPACE, item("a", 5))
    store.remove(NAMESPACE, "uid-None-a")
    store.put(NAMESPACE, item("a", 9))
    assert store.get(NAMESPACE, None, "a") is None
    assert changes[-1].new is None


def test_created_again_under_the_same_name() -> None:
    """The old one's deletion comes late, or never."""
    store, changes = watched()
    store.put(NAMESPACE, item("a", 5, uid="first"))
    store.put(NAMESPACE, item("a", 8, uid="second"))
    assert [c.item.uid for c in changes] == ["first", "first", "second"]
    assert changes[1].new is None
    store.remove(NAMESPACE, "first")
    found = store.get(NAMESPACE, None, "a")
    assert found is not None
    assert found.uid == "second"
    store.put(NAMESPACE, item("a", 6, uid="first"))
    assert store.count(NAMESPACE) == 1


def test_resync_finds_the_vanished_and_keeps_the_newer() -> None:
    store, changes = watched()
    for name, version in (("vanished", 5), ("kept", 6), ("made-after-the-list", 20)):
        store.put(NAMESPACE, item(name, version))
    changes.clear()
    store.replace(NAMESPACE, [item("kept", 6), item("unseen", 9)], 10)
    assert {found.name for found in store.all(NAMESPACE)} == {"kept", "unseen", "made-after-the-list"}
    assert [(c.item.name, c.new is None) for c in changes] == [("unseen", False), ("vanished", True)]


def test_resync_does_not_bring_back_what_went_meanwhile() -> None:
    store, _ = watched()
    store.put(NAMESPACE, item("a", 5))
    store.remove(NAMESPACE, "uid-None-a")
    store.replace(NAMESPACE, [item("a", 5)], 6)
    assert store.count(NAMESPACE) == 0


def test_pods_of_a_service() -> None:
    store, _ = watched()
    for name in ("b", "a"):
        store.put(POD, make_item(POD, make_engine_pod(name)))
    assert [pod.name for pod in store.of_service(POD, "team", "chat")] == ["a", "b"]
    store.remove(POD, "uid-team-a")
    assert [pod.name for pod in store.of_service(POD, "team", "chat")] == ["b"]
    assert store.of_service(POD, "other", "chat") == []


Event = tuple[str, int]


@given(st.permutations([("put", 1), ("put", 2), ("put", 3), ("remove", 4), ("put", 2), ("remove", 4)]))
def test_any_order_of_events_ends_the_same(events: list[Event]) -> None:
    """Once the deletion was seen the object is gone, however late its other events come."""
    store, _ = watched()
    for kind, version in events:
        if kind == "put":
            store.put(NAMESPACE, item("a", version))
        else:
            store.remove(NAMESPACE, "uid-None-a")
    assert store.count(NAMESPACE) == 0
    assert store.get(NAMESPACE, None, "a") is None


@given(st.lists(st.integers(1, 9), min_size=1))
def test_any_order_of_versions_ends_with_the_newest(versions: list[int]) -> None:
    store, changes = watched()
    for version in versions:
        store.put(NAMESPACE, item("a", version))
    found = store.get(NAMESPACE, None, "a")
    assert found is not None
    assert found.version == max(versions)
    assert len(changes) <= len(versions)
