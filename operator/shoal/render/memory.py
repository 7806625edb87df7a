"""How the engines of a replica share the memory of their GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from shoal.api import defaults
from shoal.api.fields import parse_quantity
from shoal.api.gpu_pool import PoolMemory
from shoal.domain.configuration import Configuration
from shoal.domain.profile import ModelFacts
from shoal.render.errors import RenderError

MIB: Final = 2**20
ENGINE_OVERHEAD_BYTES: Final = 1536 * MIB
"""CUDA context, captured graphs and activations of one engine, beside weights and KV cache."""

_MOST_PERCENT: Final = 97  # the driver and the engine's own CUDA context are there before it looks
_STEP: Final = 256 * MIB  # so that a slightly better estimate of the weights is no other variant


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """Memory arguments of one engine.

    `utilization_percent` of a GPU's memory must be free when the engine starts, and it fills them unless
    `kv_cache_bytes` is given.
    """

    utilization_percent: int
    kv_cache_bytes: int | None = None


def compute_memory_share(memory: PoolMemory, configuration: Configuration, facts: ModelFacts | None) -> MemoryShare:
    """Divide what the pool does not keep in reserve.

    An engine alone on its GPUs measures what it can use. Engines that share a GPU must be told: each would count the
    others' memory as free or as its own. They get both arguments, as vLLM compares `--gpu-memory-utilization` with the
    free memory at the start even when `--kv-cache-memory-bytes` is given.
    """
    total = float(parse_quantity(memory.per_gpu))
    usable = total - float(parse_quantity(memory.reserve or defaults.MEMORY_RESERVE))
    engines = configuration.engines_per_gpu
    percent = math.floor(min(100 * usable / total, _MOST_PERCENT) / engines)
    if percent < 1:
        raise RenderError(f"of {memory.per_gpu} of a GPU, less what the pool reserves, {engines} engines get nothing")
    if engines == 1:
        return MemoryShare(percent)
    if facts is None:
        raise RenderError(f"{engines} engines cannot share a GPU before the size of the model is known")
    left = usable / engines - round_weights(facts) - ENGINE_OVERHEAD_BYTES
    kv_cache = math.floor(left / _STEP) * _STEP
    if kv_cache < _STEP:
        raise RenderError(
            f"{engines} engines of {facts.weights_bytes / 2**30:.1f} GiB of weights do not fit into "
            f"{usable / 2**30:.1f} GiB of a GPU: fewer engines per GPU are needed"
        )
    return MemoryShare(percent, kv_cache)


def round_weights(facts: ModelFacts) -> int:
    """Bytes of weights, rounded up in steps."""
    return math.ceil(facts.weights_bytes / _STEP) * _STEP
