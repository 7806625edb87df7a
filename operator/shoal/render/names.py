"""Every name, label, annotation and field manager that Shoal writes: the contract of docs/architecture.md, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

RENDER_REVISION: Final = 1
"""Counts changes of what the same wish is rendered to. Raise it with every change that reaches a pod template.

It enters the names of new variants only, so an upgraded operator never rolls running pods.
"""

MANAGER: Final = "shoal"
SCALE_MANAGER: Final = "shoal-scale"  # owns spec.replicas of variants, nothing else

OPERATOR: Final = "shoal-operator"  # ServiceAccount and Lease, in the operator's namespace
SNAPSHOT_AUDIENCE: Final = "shoal.dev/snapshot"
SNAPSHOT_TOKEN_HEADER: Final = "Shoal-Token"  # the API server's proxy passes it on; it takes Authorization for itself
SNAPSHOT_PATH: Final = "snapshot"
METRICS_PORT: Final = 9090
ROUTER: Final = "shoal-router"
GPU_CLAIM: Final = "gpus"  # name of the claim inside a pod
ENGINE_PORT: Final = 8000  # of engine 0; engine i listens on 8000 + i
SERVICE_PORT: Final = 80
ROUTER_PORT: Final = 8080

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MODEL_SERVICE: Final = "shoal.dev/model-service"
LABEL_VARIANT: Final = "shoal.dev/variant"
LABEL_PROFILE_RUN: Final = "shoal.dev/profile-run"

COMPONENT_ENGINE: Final = "engine"
COMPONENT_ROUTER: Final = "router"
COMPONENT_GPU_AGENT: Final = "gpu-agent"
COMPONENT_PROFILER: Final = "profiler"

ANNOTATION_CONFIGURATION: Final = "shoal.dev/configuration"
ANNOTATION_IDENTITY: Final = "shoal.dev/identity"
ANNOTATION_RENDER_REVISION: Final = "shoal.dev/render-revision"
ANNOTATION_RUN: Final = "shoal.dev/run"  # UID and generation of the ProfileRun whose results a ModelProfile holds
ANNOTATION_PAUSED: Final = "shoal.dev/paused"
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"

_HASH_DIGITS: Final = 8


def short_hash(content: Any) -> str:
    """8 hex digits of the SHA-256 of `content` as canonical JSON: equal content, equal hash, whatever the key order."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_DIGITS]


def variant_hash(identity: str) -> str:
    """What tells variants of one service apart: what they are, and how this operator renders it."""
    return short_hash({"identity": identity, "renderRevision": RENDER_REVISION})


def variant_name(service: str, variant: str) -> str:
    """Name of a variant's Deployment and ResourceClaimTemplate."""
    return f"{service}-{variant}"


def budget_name(service: str) -> str:
    """Name of the PodDisruptionBudget of a ModelService."""
    return f"{service}-shoal"


def learned_name(service: str, accelerator: str) -> str:
    """Name of the ModelProfile that keeps what a ModelService learned on one GPU type."""
    return f"{service}-learned-{short_hash(accelerator)}"


def engines_service_name(service: str) -> str:
    """Name of the Service of a ModelService with `routing: Service`."""
    return f"{service}-engines"


def measurement_name(run: str, digest: str) -> str:
    """Name of the Job and ResourceClaimTemplate of one configuration of a ProfileRun."""
    return f"{run}-{digest}"


def engine_name(index: int) -> str:
    """Name of the container of engine `index`."""
    return f"engine-{index}"


def engine_port(index: int) -> int:
    """Port of engine `index` of a pod."""
    return ENGINE_PORT + index


def common_labels() -> dict[str, str]:
    """On all that Shoal makes."""
    return {LABEL_MANAGED_BY: MANAGER}


def service_selector(service: str) -> dict[str, str]:
    """Selects the engine pods of all variants of a ModelService."""
    return {LABEL_COMPONENT: COMPONENT_ENGINE, LABEL_MODEL_SERVICE: service}


def variant_selector(service: str, variant: str) -> dict[str, str]:
    """Selects the pods of one variant."""
    return {**service_selector(service), LABEL_VARIANT: variant}


def selector_text(labels: Mapping[str, str]) -> str:
    """A label selector as `kubectl get -l` and the scale subresource take it."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def is_paused(annotations: Mapping[str, str]) -> bool:
    """Whether the owner of a ModelService has put the brake on."""
    return annotations.get(ANNOTATION_PAUSED) == "true"


def is_controlled_by(metadata: Mapping[str, Any], uid: str) -> bool:
    """Whether the object with this metadata is controlled by the owner with `uid`; anything else is not ours."""
    return any(owner.get("controller") and owner.get("uid") == uid for owner in metadata.get("ownerReferences") or ())


def service_url(namespace: str, service: str, *, envoy: bool) -> str:
    """Where clients send requests."""
    if envoy:
        return f"http://{ROUTER}.{namespace}.svc:{ROUTER_PORT}/{service}/v1"
    return f"http://{engines_service_name(service)}.{namespace}.svc/v1"
