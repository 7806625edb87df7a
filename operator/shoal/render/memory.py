"""How the engines of a replica share the memory of their GPUs, by the numbers of domain/gpu_memory.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shoal.api import defaults
from shoal.api.fields import parse_quantity
from shoal.api.gpu_pool import PoolMemory
from shoal.domain.configuration import Configuration
from shoal.domain.gpu_memory import ENGINE_OVERHEAD_BYTES, MOST_PERCENT, MOST_PERCENT_UNIFIED
from shoal.domain.profile import ModelFacts
from shoal.render.errors import RenderError

MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """Memory arguments of one engine.

    `utilization_percent` of a GPU's memory must be free when the engine starts, and it fills them unless
    `kv_cache_bytes` is given.
    """

    utilization_percent: int
    kv_cache_bytes: int | None = None


def compute_memory_share(memory: PoolMemory, configuration: Configuration, facts: ModelFacts | None) -> MemoryShare:
    """Divide what the pool does not keep in reserve. Raises RenderError when nothing is left for an engine.

    An engine alone on its GPUs measures what it can use. Engines that share a GPU must be told: each would count the
    others' memory as free or as its own. They get both arguments, as vLLM compares `--gpu-memory-utilization` with the
    free memory at the start even when `--kv-cache-memory-bytes` is given.
    """
    total = float(parse_quantity(memory.per_gpu))
    reserve = float(parse_quantity(memory.reserve or defaults.MEMORY_RESERVE))
    most = MOST_PERCENT_UNIFIED if memory.unified else MOST_PERCENT
    usable = min(total * most / 100, total - reserve)
    engines = configuration.engines_per_gpu
    percent = int(100 * usable / total / engines + 1e-9)
    if percent < 1:
        raise RenderError(f"of {memory.per_gpu} of a GPU, less what the pool reserves, {engines} engines get nothing")
    if engines == 1:
        return MemoryShare(percent)
    if facts is None:
        raise RenderError(f"{engines} engines cannot share a GPU before the size of the model is known")
    kv_cache = int((usable / engines - facts.weights_bytes - ENGINE_OVERHEAD_BYTES) // MIB) * MIB
    if kv_cache < MIB:
        raise RenderError(
            f"{engines} engines with {facts.weights_bytes / 2**30:.1f} GiB of weights each do not fit into "
            f"{usable / 2**30:.1f} GiB of a GPU: fewer engines per GPU are needed"
        )
    return MemoryShare(percent, kv_cache)
