"""What one variant is made from, and its identity: equal content, equal pods."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from shoal.api import defaults
from shoal.api.engine_class import EngineClass
from shoal.api.gpu_pool import GPUPool
from shoal.api.model_service import ModelService
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.profile import ModelFacts
from shoal.render.memory import MemoryShare, compute_memory_share
from shoal.render.names import ANNOTATION_CONFIGURATION, short_hash

SourceKind = Literal["HuggingFace", "PersistentVolumeClaim", "OCIImage"]

_CLASS_FIELDS_BESIDE_THE_POD: Final = {"version", "engine", "allowed_args", "allowed_sources", "max_api_server_count"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A placement of one ModelService with all that reaches its pods.

    `max_context_tokens` is the effective one; `facts` are needed when engines share a GPU.
    """

    service: ModelService
    pool: GPUPool
    engine: EngineClass
    placement: Placement
    max_context_tokens: int
    facts: ModelFacts | None = None

    @property
    def configuration(self) -> Configuration:
        """The placement's configuration."""
        return self.placement.configuration

    @property
    def memory(self) -> MemoryShare:
        """What each engine may use of its GPUs. Raises RenderError when nothing is left for a KV cache."""
        return compute_memory_share(self.pool.spec.memory, self.configuration, self.facts)


def served_name(service: ModelService) -> str:
    """Name that clients send in the field `model`."""
    return service.spec.model.served_name or service.metadata.name


def revision(service: ModelService) -> str:
    """Revision of the model that is loaded."""
    return service.spec.model.revision or defaults.REVISION


def source_kind(service: ModelService) -> SourceKind:
    """Where the model is loaded from."""
    source = service.spec.model.source
    if source is not None and source.persistent_volume_claim is not None:
        return "PersistentVolumeClaim"
    if source is not None and source.oci_image is not None:
        return "OCIImage"
    return "HuggingFace"


def is_routed_by_envoy(service: ModelService) -> bool:
    """Whether requests come through the router of the namespace."""
    return service.spec.routing != "Service"


def compute_identity(recipe: Recipe) -> str:
    """Hash of everything a pod of this recipe depends on, except how this operator renders it.

    Only what was declared enters, never a default: a later operator with other defaults recognises running variants.
    """
    service, pool = recipe.service.spec, recipe.pool.spec
    choice = service.engine.to_dict() if service.engine else {}
    is_shared = recipe.configuration.engines_per_gpu > 1
    return short_hash(
        {
            "model": _without(service.model.to_dict(), "parameters"),
            "servedName": served_name(recipe.service),
            "maxContextTokens": recipe.max_context_tokens,
            "parsers": _without(choice, "class"),
            "placement": dump_placement(recipe.placement),
            "claim": pool.claim.to_dict(),
            "island": pool.island_size if recipe.configuration.tensor_parallel > 1 else None,
            "sharing": pool.sharing if is_shared else None,
            "nodes": pool.nodes.to_dict() if pool.nodes else {},
            "memory": pool.memory.to_dict(),
            "weights": _round(recipe.facts.weights_bytes) if is_shared and recipe.facts else None,
            "engine": recipe.engine.spec.model_dump(
                mode="json", exclude_none=True, exclude=_CLASS_FIELDS_BESIDE_THE_POD
            ),
        }
    )


def dump_placement(placement: Placement) -> str:
    """The value of annotation `shoal.dev/configuration`. One API server is not written: names must not change."""
    configuration = placement.configuration
    return json.dumps(
        {
            "pool": placement.pool,
            "accelerator": configuration.accelerator,
            "tensorParallel": configuration.tensor_parallel,
            "enginesPerGPU": configuration.engines_per_gpu,
            "maxNumSeqs": configuration.max_num_seqs,
            "maxNumBatchedTokens": configuration.max_num_batched_tokens,
            **({"apiServers": configuration.api_servers} if configuration.api_servers > 1 else {}),
        }
    )


def parse_placement(annotations: Mapping[str, str]) -> Placement | None:
    """What a Deployment with these annotations runs; None when it does not say so (then it is not a variant)."""
    try:
        found = json.loads(annotations[ANNOTATION_CONFIGURATION])
        numbers = {key: found[key] for key in _NUMBERS} | {"apiServers": found.get("apiServers", 1)}
        if not all(type(value) is int for value in numbers.values()):
            return None
        configuration = Configuration(
            accelerator=str(found["accelerator"]),
            api_servers=numbers.pop("apiServers"),
            **{_NUMBERS[key]: value for key, value in numbers.items()},
        )
        return Placement(pool=str(found["pool"]), configuration=configuration)
    except (KeyError, TypeError, ValueError):
        return None


_NUMBERS: Final = {
    "tensorParallel": "tensor_parallel",
    "enginesPerGPU": "engines_per_gpu",
    "maxNumSeqs": "max_num_seqs",
    "maxNumBatchedTokens": "max_num_batched_tokens",
}


def placement_of(deployment: Mapping[str, Any]) -> Placement | None:
    """`parse_placement` of a whole object."""
    return parse_placement(deployment.get("metadata", {}).get("annotations") or {})


def _round(weights_bytes: float) -> int:
    """Weights in units of 256 MiB: a slightly better estimate is no reason to roll pods."""
    return round(weights_bytes / 2**28)


def _without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}
