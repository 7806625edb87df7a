"""`status.effective`: the wish as Shoal read it, every default filled in."""

from __future__ import annotations

from typing import Any, Final

from shoal.api import defaults
from shoal.api.model_service import ModelService
from shoal.domain.service import Service
from shoal.render.recipe import is_routed_by_envoy, revision, served_name, source_kind

_MOST_POOLS: Final = 16  # the schema's bound


def make_effective(resource: ModelService, service: Service) -> dict[str, Any]:
    """Everything that `spec` may leave out, as it counts now."""
    lengths = service.workload.lengths
    result: dict[str, Any] = {
        "servedName": served_name(resource),
        "revision": revision(resource),
        "maxContextTokens": service.max_context_tokens,
        "source": source_kind(resource),
        "engineClass": (resource.spec.engine and resource.spec.engine.class_) or defaults.ENGINE_CLASS,
        "pools": sorted(service.pools)[:_MOST_POOLS],
        "percentile": service.objective.percentile,
        "workload": {
            "requestsPerSecond": service.workload.rate,
            "inputTokensMean": lengths.input_mean,
            "inputTokensP95": lengths.input_p95,
            "outputTokensMean": lengths.output_mean,
            "outputTokensP95": lengths.output_p95,
        },
        "minReplicas": service.limits.min_replicas,
        "tensor": sorted(service.parallelism.tensor),
        "enginesPerGPU": sorted(service.parallelism.engines_per_gpu),
        "profileRequire": str(service.required_profile),
        "priority": service.priority,
        "routing": "Envoy" if is_routed_by_envoy(resource) else "Service",
        "mode": str(service.mode),
    }
    if service.standby is not None:
        result["standbyStepFactor"] = service.standby.step_factor
        result["standbyMaxMissPercent"] = round(100 * service.standby.max_miss, 6)
    if service.limits.max_gpus is not None:
        result["maxGPUs"] = service.limits.max_gpus
    if service.facts is not None and (parameters := format_parameters(service.facts.parameters)):
        result["parameters"] = parameters
    return result


def format_parameters(count: float) -> str | None:
    """`7.62B`, `125M`; None for a number that no model has."""
    if not 1e4 <= count < 1e13:
        return None
    billions = count >= 1e9
    number = f"{count / (1e9 if billions else 1e6):.2f}".rstrip("0").rstrip(".")
    return number + ("B" if billions else "M")
