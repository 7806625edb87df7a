"""The pod of a replica: Pod Security `restricted`, without a ServiceAccount token, pinned to the pool's GPUs."""

from __future__ import annotations

from typing import Any, Final

from shoal.api import defaults
from shoal.render.containers import make_container
from shoal.render.drain import grace_seconds
from shoal.render.names import GPU_CLAIM, service_selector
from shoal.render.recipe import Recipe
from shoal.render.storage import make_volumes

_PRODUCT_LABEL: Final = "nvidia.com/gpu.product"  # of GPU feature discovery
_TOPOLOGY: Final = {"Node": "kubernetes.io/hostname", "Zone": "topology.kubernetes.io/zone"}


def make_pod_spec(recipe: Recipe, claim_template: str | None) -> dict[str, Any]:
    """Spec of one replica. `claim_template`: name of its ResourceClaimTemplate, None for an extended resource."""
    engines = [make_container(recipe, index) for index in range(recipe.configuration.engines_per_replica)]
    *sidecars, main = engines
    return {
        **({"initContainers": sidecars} if sidecars else {}),
        "containers": [main],
        "volumes": make_volumes(recipe.service, recipe.engine),
        "terminationGracePeriodSeconds": _grace(recipe),
        "securityContext": _security(recipe),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **_claims(claim_template),
        **_nodes(recipe),
        **_class_settings(recipe),
    }


def _grace(recipe: Recipe) -> int:
    spec = recipe.engine.spec
    return grace_seconds(
        drain_seconds=spec.drain_seconds or defaults.DRAIN_SECONDS,
        shutdown_seconds=spec.shutdown_seconds or defaults.SHUTDOWN_SECONDS,
        engines=recipe.configuration.engines_per_replica,
    )


def _security(recipe: Recipe) -> dict[str, Any]:
    user = recipe.engine.spec.run_as_user or defaults.RUN_AS_USER
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _claims(claim_template: str | None) -> dict[str, Any]:
    if claim_template is None:
        return {}
    return {"resourceClaims": [{"name": GPU_CLAIM, "resourceClaimTemplateName": claim_template}]}


def _nodes(recipe: Recipe) -> dict[str, Any]:
    """Where the pod may run. A DRA claim finds the GPU type itself; an extended resource needs the node's label."""
    nodes = recipe.pool.spec.nodes
    result: dict[str, Any] = {}
    if nodes and nodes.labels:
        result["nodeSelector"] = dict(nodes.labels)
    if nodes and nodes.tolerations:
        result["tolerations"] = [toleration.to_dict() for toleration in nodes.tolerations]
    if nodes and nodes.runtime_class_name:
        result["runtimeClassName"] = nodes.runtime_class_name
    if recipe.pool.spec.claim.extended_resource is not None:
        result["affinity"] = {"nodeAffinity": _needs_product(recipe.configuration.accelerator)}
    return result


def _needs_product(accelerator: str) -> dict[str, Any]:
    product = {"key": _PRODUCT_LABEL, "operator": "In", "values": [accelerator]}
    terms = [{"matchExpressions": [product]}]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _class_settings(recipe: Recipe) -> dict[str, Any]:
    spec = recipe.engine.spec
    result: dict[str, Any] = {}
    if spec.priority_class_name:
        result["priorityClassName"] = spec.priority_class_name
    if spec.image_pull_secrets:
        result["imagePullSecrets"] = [{"name": name} for name in spec.image_pull_secrets]
    if spec.spread != "None":
        result["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": _TOPOLOGY[spec.spread or "Node"],
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": service_selector(recipe.service.metadata.name)},
            }
        ]
    return result
