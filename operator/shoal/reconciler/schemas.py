"""Whether the served CRDs are as new as this operator: older ones would prune what it writes without a word."""

from __future__ import annotations

from typing import Final

from shoal.api.crds import DEFINITIONS, REVISION_ANNOTATION, SCHEMA_REVISION
from shoal.reconciler.cluster import Cluster, Place
from shoal.reconciler.errors import ClusterError

_DEFINITIONS: Final = Place(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)


async def find_old_schemas(cluster: Cluster) -> str | None:
    """What is wrong with the served CRDs, in words; None when they fit. Raises ClusterError when that is not known."""
    old = []
    for definition in DEFINITIONS:
        annotations = await cluster.get_annotations(_DEFINITIONS, definition.name)
        if annotations is None:
            raise ClusterError(404, "NotServed", f"CRD {definition.name} is missing")
        revision = annotations.get(REVISION_ANNOTATION, "0")
        if not revision.isdigit() or int(revision) < SCHEMA_REVISION:
            old.append(definition.name)
    if not old:
        return None
    return f"nothing is written: CRD {', '.join(old)} is older than this operator: apply its CRDs (helm upgrade)"
