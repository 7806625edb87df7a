"""The only change to a variant after it was made: how many replicas it has, and which go first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from shoal.render.names import ANNOTATION_DELETION_COST

_MOST_EXPENDABLE: Final = -1_000_000


def make_scale(*, namespace: str, name: str, uid: str, replicas: int) -> dict[str, Any]:
    """What manager `shoal-scale` applies, with force, to the variant with this UID.

    The UID makes the API server refuse to touch a Deployment that was made again meanwhile (422), or to make one (409).
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": name, "uid": uid},
        "spec": {"replicas": replicas},
    }


def make_deletion_costs(doomed: Iterable[str], present: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """JSON merge patches, by pod name, that make a ReplicaSet give up the `doomed` pods first, in this order.

    `present`: annotations of every pod of the variant. Pods that are not doomed lose a cost from an earlier scale-in;
    pods that need no change have no patch.
    """
    wanted = {pod: str(_MOST_EXPENDABLE + rank) for rank, pod in enumerate(doomed)}
    return {
        pod: {"metadata": {"annotations": {ANNOTATION_DELETION_COST: wanted.get(pod)}}}
        for pod, annotations in present.items()
        if annotations.get(ANNOTATION_DELETION_COST) != wanted.get(pod)
    }
