"""What a simulated engine obeys: a row of a profile, for the model and hardware it was told."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from shoal.domain.pool import ClaimKind, Pool
from shoal.domain.profile import LengthMix, ModelFacts, Profile, ProfileRow, Source, StepModel
from shoal.planner.catalog import model_facts
from shoal.planner.datasheets import find_datasheet
from shoal.planner.estimate import estimate_row
from shoal.planner.memory import kv_tokens
from shoal.sim.arguments import ServerArguments
from shoal.sim.engine import EngineLimits
from shoal.sim.settings import SimSettings

DEFAULT_CONTEXT_TOKENS = 8192
ASSUMED_VERSION = "0.26.0"
ASSUMED_LENGTHS = LengthMix(input_mean=512, output_mean=128, input_p95=1024, output_p95=256)
_MEMORY_BYTES = {"L40": 48e9, "A40": 48e9, "A6000": 48e9, "H200": 141e9, "H100": 80e9, "H20": 96e9, "T4": 16e9}


class NoTruthError(Exception):
    """Nothing says how fast this engine shall be."""


@dataclass(frozen=True, slots=True)
class Truth:
    """How fast an engine is and what it holds.

    `label` says where that comes from. `clock_mhz` is the clock it holds at (None: the GPU's highest).
    """

    steps: StepModel
    limits: EngineLimits
    max_model_len: int
    lengths: LengthMix
    clock_mhz: float | None
    engine_version: str
    label: str


def find_truth(profiles: Sequence[Profile], arguments: ServerArguments, settings: SimSettings) -> Truth:
    """The truth for one engine.

    Raises NoTruthError, and ValueError where vLLM would refuse to start.
    """
    candidates = list(_matching(profiles, arguments, settings)) or list(
        _matching(_roofline(arguments, settings), arguments, settings)
    )
    if not candidates:
        raise NoTruthError(_advice(arguments, settings))
    profile, row = min(candidates, key=lambda pair: _distance(pair[0], pair[1], arguments, settings))
    assert row.steps is not None
    max_model_len = min(arguments.max_model_len or DEFAULT_CONTEXT_TOKENS, profile.facts.max_context_tokens)
    return Truth(
        steps=_with_api_servers(row.steps, arguments.api_servers),
        limits=make_limits(row, profile.facts, arguments, settings, max_model_len),
        max_model_len=max_model_len,
        lengths=row.lengths,
        clock_mhz=profile.clock_mhz,
        engine_version=profile.engine_version,
        label=(
            f"profile {profile.namespace}/{profile.name} ({profile.source}): {profile.accelerator} "
            f"TP{row.tensor_parallel}, {row.engines_per_gpu} engines per GPU"
        ),
    )


def _roofline(arguments: ServerArguments, settings: SimSettings) -> Iterator[Profile]:
    """What the datasheet promises of the model and GPU, where no profile speaks of them."""
    facts = model_facts(arguments.model)
    if facts is None or settings.accelerator is None:
        return
    pool = Pool(
        name="simulated",
        accelerator=settings.accelerator,
        memory_bytes=gpu_memory_bytes(settings.accelerator),
        reserve_bytes=0.0,
        claim=ClaimKind.DRA,
        price_per_gpu_hour=0.0,
        stock=None,
    )
    shape = {"tensor_parallel": arguments.tensor_parallel, "engines_per_gpu": settings.engines_per_gpu or 1}
    row = estimate_row(
        facts, find_datasheet(pool)[0], ASSUMED_LENGTHS, kv_cache_tokens=kv_tokens(pool, facts, **shape), **shape
    )
    yield Profile(
        name="roofline",
        namespace="",
        model=arguments.model,
        accelerator=settings.accelerator,
        engine="vllm",
        engine_version=ASSUMED_VERSION,
        source=Source.ESTIMATED,
        facts=facts,
        rows=(row,),
    )


def gpu_memory_bytes(accelerator: str) -> float:
    """From the product's name where it tells (`...-80GB-...`), else from its type; 24 GB if nothing is known."""
    told = re.search(r"(\d+)GB", accelerator)
    if told:
        return int(told.group(1)) * 1e9
    return next((size for name, size in _MEMORY_BYTES.items() if name in accelerator), 24e9)


def make_limits(
    row: ProfileRow, facts: ModelFacts, arguments: ServerArguments, settings: SimSettings, max_model_len: int
) -> EngineLimits:
    """The engine's limits.

    Raises ValueError when one context does not fit into the KV cache, as vLLM does.
    """
    tokens = row.kv_cache_tokens
    if arguments.kv_cache_memory_bytes is not None:
        tokens = arguments.kv_cache_memory_bytes * arguments.tensor_parallel / facts.kv_bytes_per_token
    blocks = math.floor(tokens / arguments.block_size)
    if blocks * arguments.block_size < max_model_len:
        raise ValueError(
            f"To serve at least one request with the model's max seq len ({max_model_len}), more KV cache memory is "
            f"needed than the available {blocks * arguments.block_size} tokens. Try increasing "
            "gpu_memory_utilization or decreasing max_model_len when initializing the engine."
        )
    seqs = arguments.max_num_seqs or row.max_num_seqs
    waiting = seqs if settings.max_waiting is None else settings.max_waiting
    return EngineLimits(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(arguments.max_num_batched_tokens or row.max_num_batched_tokens, seqs),
        kv_blocks=blocks,
        block_size=arguments.block_size,
        max_waiting=waiting or None,
    )


def _matching(
    profiles: Iterable[Profile], arguments: ServerArguments, settings: SimSettings
) -> Iterator[tuple[Profile, ProfileRow]]:
    for profile in profiles:
        if profile.model != arguments.model or settings.accelerator not in (None, profile.accelerator):
            continue
        for row in profile.rows:
            if row.steps is None or row.tensor_parallel != arguments.tensor_parallel:
                continue
            if settings.engines_per_gpu in (None, row.engines_per_gpu):
                yield profile, row


def _distance(
    profile: Profile, row: ProfileRow, arguments: ServerArguments, settings: SimSettings
) -> tuple[float, int, float, float]:
    """How far a row is from what was asked.

    First the number of engines on the GPU: where nobody said it, explicit KV bytes tell (they are given when engines
    share a GPU), and without them the engine is alone.
    """
    if settings.engines_per_gpu is not None or arguments.kv_cache_memory_bytes is None:
        sharing = abs(row.engines_per_gpu - (settings.engines_per_gpu or 1)) * 1.0
    else:
        row_bytes = row.kv_cache_tokens * profile.facts.kv_bytes_per_token / row.tensor_parallel
        sharing = abs(math.log(arguments.kv_cache_memory_bytes / row_bytes))
    seqs = arguments.max_num_seqs or row.max_num_seqs
    chunk = arguments.max_num_batched_tokens or row.max_num_batched_tokens
    return (
        sharing,
        row.engines_per_gpu,
        abs(math.log(seqs / row.max_num_seqs)),
        abs(math.log(chunk / row.max_num_batched_tokens)),
    )


def _with_api_servers(steps: StepModel, servers: int) -> StepModel:
    if steps.api_tokens_per_second is None or servers == 1:
        return steps
    return StepModel(
        steps.alpha_ms,
        steps.beta_ms_per_token,
        steps.gamma_ms_per_kv_token,
        steps.floor_small_ms,
        steps.floor_large_ms,
        steps.api_tokens_per_second * servers,
    )


def _advice(arguments: ServerArguments, settings: SimSettings) -> str:
    return (
        f"no profile in {settings.profile_dir or 'SHOAL_SIM_PROFILE_DIR (unset)'} has step times of {arguments.model} "
        f"on {settings.accelerator or 'any GPU'} with tensor parallelism {arguments.tensor_parallel} and "
        f"{settings.engines_per_gpu or 'any number of'} engines per GPU"
    )
