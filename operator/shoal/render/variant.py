"""A variant: the Deployment of one placement, and the claim template of its pods. Written once, then only scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from shoal.api import defaults
from shoal.api.base import API_VERSION
from shoal.api.model_service import ModelService
from shoal.render.claims import make_claim_spec
from shoal.render.errors import RenderError
from shoal.render.names import (
    ANNOTATION_CONFIGURATION,
    ANNOTATION_IDENTITY,
    ANNOTATION_RENDER_REVISION,
    RENDER_REVISION,
    common_labels,
    variant_hash,
    variant_name,
    variant_selector,
)
from shoal.render.pod import make_pod_spec
from shoal.render.recipe import Recipe, compute_identity, dump_placement

Object = dict[str, Any]

_ARRIVAL_SECONDS: Final = 600  # to find a node and pull the image, before the engines start


@dataclass(frozen=True, slots=True)
class VariantObjects:
    """What a variant is made of.

    Both are applied by manager `shoal`, the claim template first, only while no Deployment of this name exists, and
    never with force: the Deployment asks for 0 replicas, and the number it shall have comes from manager `shoal-scale`
    alone (docs/decisions/0040).
    """

    name: str
    hash: str
    identity: str
    deployment: Object
    claim_template: Object | None


def make_variant(recipe: Recipe) -> VariantObjects:
    """Render one placement. Raises RenderError when it cannot be made into pods."""
    configuration, claim = recipe.configuration, recipe.pool.spec.claim
    if claim.dra is None and configuration.engines_per_replica > 1:
        raise RenderError(
            f"pool {recipe.placement.pool} is claimed by extended resource: engines cannot share its GPUs"
        )
    identity = compute_identity(recipe)
    digest = variant_hash(identity)
    metadata = _metadata(recipe, identity, digest)
    template = None
    if claim.dra is not None:
        spec = {
            "metadata": {"labels": metadata["labels"]},
            "spec": make_claim_spec(recipe.pool, claim.dra, configuration),
        }
        template = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": metadata,
            "spec": spec,
        }
    return VariantObjects(
        name=metadata["name"],
        hash=digest,
        identity=identity,
        deployment=_deployment(recipe, metadata, metadata["name"] if template else None),
        claim_template=template,
    )


def make_owner_reference(service: ModelService) -> Object:
    """Makes the ModelService the controller of an object: it goes with its owner.

    Without `blockOwnerDeletion`, which needs a permission on the owner's finalizers where that admission plug-in is on.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelService",
        "name": service.metadata.name,
        "uid": service.metadata.uid,
        "controller": True,
    }


def make_metadata(service: ModelService, name: str, labels: dict[str, str], annotations: dict[str, str]) -> Object:
    """Metadata of a namespaced object that belongs to a ModelService."""
    return {
        "name": name,
        "namespace": service.metadata.namespace,
        "labels": {**common_labels(), **labels},
        **({"annotations": annotations} if annotations else {}),
        "ownerReferences": [make_owner_reference(service)],
    }


def _metadata(recipe: Recipe, identity: str, digest: str) -> Object:
    service = recipe.service.metadata.name
    annotations = {
        ANNOTATION_CONFIGURATION: dump_placement(recipe.placement),
        ANNOTATION_IDENTITY: identity,
        ANNOTATION_RENDER_REVISION: str(RENDER_REVISION),
    }
    return make_metadata(recipe.service, variant_name(service, digest), variant_selector(service, digest), annotations)


def _deployment(recipe: Recipe, metadata: Object, claim_template: str | None) -> Object:
    selector = variant_selector(
        recipe.service.metadata.name, variant_hash(metadata["annotations"][ANNOTATION_IDENTITY])
    )
    engines = recipe.configuration.engines_per_replica
    startup = recipe.engine.spec.startup_seconds or defaults.STARTUP_SECONDS
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": selector},
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": engines * startup + _ARRIVAL_SECONDS,
            # Never a pod more than asked for: it would claim a GPU that the plan has given to somebody else.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {
                    "labels": {**common_labels(), **selector},
                    "annotations": {"prometheus.io/scrape": "true", "prometheus.io/path": "/metrics"},
                },
                "spec": make_pod_spec(recipe, claim_template),
            },
        },
    }
