"""Start-up times that were seen: of the variants that count, where enough of them started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.domain.service import ServiceKey
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import POD, Pod
from shoal.reconciler.startups import Startups
from shoal.reconciler.store import Change
from shoal.render.names import LABEL_MODEL_SERVICE, LABEL_VARIANT

CHAT = ServiceKey("team", "chat")


def make_pod(variant: str, *, ready: float | None) -> Item[Pod]:
    body = Pod(
        node="n",
        address=None,
        phase="Running",
        ready_since=ready,
        started_at=1000.0,
        containers=(),
        claims=(),
        devices={},
        waits_for="",
    )
    labels = {LABEL_MODEL_SERVICE: CHAT.name, LABEL_VARIANT: variant}
    return Item("u", CHAT.namespace, "pod", 1, 1, 0.0, None, None, labels, {}, body)


def note(startups: Startups, variant: str, *seconds: float) -> None:
    for value in seconds:
        old, new = make_pod(variant, ready=None), make_pod(variant, ready=1000.0 + value)
        startups.note(Change(POD, old, new))


def test_nothing_seen_is_none() -> None:
    assert Startups().p90(CHAT) is None


@pytest.mark.parametrize(
    ("variants", "seconds"),
    [((), 90.0), (("small",), 30.0), (("large",), 90.0), (("small", "large"), 90.0), (("unknown",), 90.0)],
)
def test_start_ups_of_the_variants_that_are_kept_count(variants: tuple[str, ...], seconds: float) -> None:
    startups = Startups()
    note(startups, "small", 28, 29, 30)
    note(startups, "large", 80, 85, 90)
    assert startups.p90(CHAT, variants) == seconds


def test_few_start_ups_of_a_variant_say_less_than_all() -> None:
    startups = Startups()
    note(startups, "small", 28, 29)
    note(startups, "large", 80, 85, 90)
    assert startups.p90(CHAT, ("small",)) == 90


def test_only_first_starts_count() -> None:
    startups = Startups()
    ready = make_pod("small", ready=1030.0)
    startups.note(Change(POD, ready, replace(ready, version=2)))
    assert startups.p90(CHAT) is None
