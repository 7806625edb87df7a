"""What makes plans dirty: every write of the operator's own that did would be planned again at once."""

from __future__ import annotations

from typing import Any

import pytest
from objects import raw

from shoal.reconciler.dirt import Dirt
from shoal.reconciler.items import make_item
from shoal.reconciler.kinds import MODEL_PROFILE
from shoal.reconciler.store import Change, Store
from shoal.reconciler.workqueue import WorkQueue

OURS = {
    "labels": {"app.kubernetes.io/managed-by": "shoal"},
    "ownerReferences": [{"uid": "uid-team-chat", "controller": True, "kind": "ModelService", "name": "chat"}],
}


class Marks:
    """Stands where the plan loop listens, and counts."""

    def __init__(self) -> None:
        self.all = 0

    def mark_all(self) -> None:
        self.all += 1


def profile(generation: int, **metadata: Any) -> Any:
    content = raw("p", metadata={"generation": generation, **metadata}, spec={"rows": generation})
    return make_item(MODEL_PROFILE, content)


@pytest.mark.parametrize(("metadata", "planned"), [({}, 1), (OURS, 0)], ids=["a person's", "what a service learned"])
def test_a_profile_is_planned_with_at_once_unless_it_is_what_was_learned(metadata: Any, planned: int) -> None:
    marks = Marks()
    dirt = Dirt(Store(lambda: 0.0), marks, WorkQueue(), lambda: True)  # type: ignore[arg-type]
    dirt.note(Change(MODEL_PROFILE, profile(1, **metadata), profile(2, **metadata)))
    assert marks.all == planned
