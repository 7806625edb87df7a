"""Step times without a measurement: a roofline on the GPU's datasheet. Always labelled Estimated."""

from __future__ import annotations

from typing import Final

from shoal.domain.pool import Datasheet
from shoal.domain.profile import LengthMix, ModelFacts, ProfileRow, StepModel

LAUNCH_MS: Final = 3.0  # step of a tiny model on a fast GPU: launches, scheduling, sampling
LINK_MS: Final = 2.0  # all-reduces of a step when an engine spans GPUs
API_TOKENS_PER_SECOND: Final = 15_000.0  # what one API-server process streamed on the slower of two hosts measured
DEFAULT_MAX_NUM_SEQS: Final = 256
DEFAULT_MAX_NUM_BATCHED_TOKENS: Final = 2048


def estimate_steps(facts: ModelFacts, datasheet: Datasheet, tensor_parallel: int) -> StepModel:
    """Every step reads all weights once (alpha); each token computes them once (beta) and reads its keys (gamma)."""
    bandwidth = datasheet.memory_bandwidth * tensor_parallel / 1000  # bytes per millisecond
    flops = datasheet.flops_16bit * tensor_parallel / 1000
    return StepModel(
        alpha_ms=LAUNCH_MS + (LINK_MS if tensor_parallel > 1 else 0.0) + facts.weights_bytes / bandwidth,
        beta_ms_per_token=2 * facts.parameters / flops,
        gamma_ms_per_kv_token=facts.kv_bytes_per_token / bandwidth,
        api_tokens_per_second=API_TOKENS_PER_SECOND,
    )


def estimate_row(
    facts: ModelFacts,
    datasheet: Datasheet,
    lengths: LengthMix,
    *,
    tensor_parallel: int,
    engines_per_gpu: int,
    kv_cache_tokens: float,
) -> ProfileRow:
    """A row with estimated step times alone.

    Engines that share a GPU are estimated at an equal share of one engine's speed: sharing gains nothing until
    measured.
    """
    steps = estimate_steps(facts, datasheet, tensor_parallel)
    share = engines_per_gpu
    return ProfileRow(
        tensor_parallel=tensor_parallel,
        engines_per_gpu=engines_per_gpu,
        max_num_seqs=DEFAULT_MAX_NUM_SEQS,
        max_num_batched_tokens=DEFAULT_MAX_NUM_BATCHED_TOKENS,
        kv_cache_tokens=kv_cache_tokens,
        lengths=lengths,
        steps=StepModel(
            alpha_ms=steps.alpha_ms * share,
            beta_ms_per_token=steps.beta_ms_per_token * share,
            gamma_ms_per_kv_token=steps.gamma_ms_per_kv_token * share,
            api_tokens_per_second=API_TOKENS_PER_SECOND,
        ),
    )
