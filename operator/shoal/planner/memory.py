"""Hard bounds: what fits into a GPU, whatever its speed."""

from __future__ import annotations

from typing import Final

from shoal.domain.gpu_memory import ENGINE_OVERHEAD_BYTES, MOST_PERCENT, MOST_PERCENT_UNIFIED
from shoal.domain.pool import Pool
from shoal.domain.profile import ModelFacts

GIB: Final = 2**30


def usable_bytes(pool: Pool) -> float:
    """Bytes of one GPU that engines may use."""
    most = MOST_PERCENT_UNIFIED if pool.unified_memory else MOST_PERCENT
    return max(0.0, min(most / 100 * pool.memory_bytes, pool.memory_bytes - pool.reserve_bytes))


def kv_tokens(pool: Pool, facts: ModelFacts, *, tensor_parallel: int, engines_per_gpu: int) -> float:
    """Tokens the KV cache of one engine can hold; negative when not even the weights fit."""
    if facts.kv_bytes_per_token <= 0:
        return float("inf")
    per_gpu = usable_bytes(pool) / engines_per_gpu - facts.weights_bytes / tensor_parallel - ENGINE_OVERHEAD_BYTES
    return per_gpu * tensor_parallel / facts.kv_bytes_per_token


def missing_bytes(
    pool: Pool, facts: ModelFacts, max_context_tokens: int, *, tensor_parallel: int, engines_per_gpu: int
) -> float:
    """Bytes that one GPU lacks for the weights and one request of the longest context; at most 0 when it fits."""
    needed = (
        facts.weights_bytes / tensor_parallel
        + ENGINE_OVERHEAD_BYTES
        + max_context_tokens * facts.kv_bytes_per_token / tensor_parallel
    ) * engines_per_gpu
    return needed - usable_bytes(pool)
