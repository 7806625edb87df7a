"""The engines of a pod as containers."""

from __future__ import annotations

from typing import Any, Final

from shoal.api import defaults
from shoal.render.arguments import make_arguments
from shoal.render.drain import make_pre_stop
from shoal.render.names import GPU_CLAIM, engine_name, engine_port
from shoal.render.probes import make_probes
from shoal.render.recipe import Recipe
from shoal.render.storage import make_mounts, make_storage_environment

_NO_REPORTS: Final = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
_TOKEN_KEY: Final = "token"


def make_container(recipe: Recipe, index: int) -> dict[str, Any]:
    """Engine `index` of a pod. All but the last are native sidecars: started in order, one after the other."""
    spec, port = recipe.engine.spec, engine_port(index)
    is_last = index == recipe.configuration.engines_per_replica - 1
    return {
        "name": engine_name(index),
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy or "IfNotPresent",
        **({"command": list(spec.command)} if spec.command else {}),
        "args": make_arguments(recipe, index),
        "env": make_environment(recipe),
        "ports": [{"name": engine_name(index), "containerPort": port, "protocol": "TCP"}],
        "resources": make_resources(recipe),
        **make_probes(port, spec.startup_seconds or defaults.STARTUP_SECONDS),
        "lifecycle": {"preStop": make_pre_stop(port, spec.drain_seconds or defaults.DRAIN_SECONDS)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": make_mounts(recipe.service),
        **({} if is_last else {"restartPolicy": "Always"}),
    }


def make_environment(recipe: Recipe) -> list[dict[str, Any]]:
    """Variables of an engine. The class may replace ours, except those it cannot set (`MANAGED_VARIABLES`)."""
    given = {variable.name: variable.value for variable in recipe.engine.spec.env or ()}
    plain = {**make_storage_environment(recipe.service), **_NO_REPORTS, **given}
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
        *_token(recipe),
        *({"name": name, "value": value} for name, value in plain.items()),
    ]


def make_resources(recipe: Recipe) -> dict[str, Any]:
    """CPU, memory, and the GPUs: the pod's claim, or the extended resource (which containers cannot share)."""
    given = recipe.engine.spec.resources
    cpu = (given and given.cpu) or defaults.ENGINE_CPU
    memory = (given and given.memory) or defaults.ENGINE_MEMORY
    requests, limits = {"cpu": cpu, "memory": memory}, {"memory": memory}
    extended = recipe.pool.spec.claim.extended_resource
    if extended is None:
        return {"requests": requests, "limits": limits, "claims": [{"name": GPU_CLAIM}]}
    gpus = {extended: str(recipe.configuration.gpus_per_replica)}
    return {"requests": {**requests, **gpus}, "limits": {**limits, **gpus}}


def _token(recipe: Recipe) -> list[dict[str, Any]]:
    source = recipe.service.spec.model.source
    secret = source.hugging_face.token_secret_name if source and source.hugging_face else None
    if secret is None:
        return []
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": _TOKEN_KEY}}}]
