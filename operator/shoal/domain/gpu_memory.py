"""How much of a GPU's memory engines may take: what the planner counts with, and rendered arguments hold them to."""

from __future__ import annotations

from typing import Final

MOST_PERCENT: Final = 90  # vLLM's default; the driver and what vLLM does not count need the rest
MOST_PERCENT_UNIFIED: Final = 80  # the host's programs live in the same memory
ENGINE_OVERHEAD_BYTES: Final = 1_500_000_000
"""CUDA context, captured graphs, activations of one engine at chunks of 2,048 tokens, beside weights and KV cache."""
