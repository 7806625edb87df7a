"""The simulated engines: Dynamo's mocker with its own timing, or with step times out of AIConfigurator's database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.headtohead.traffic import Lengths

BLOCK_TOKENS = 64  # the mocker's default for vLLM
AIC_BACKEND, AIC_VERSION = "vllm", "0.24.0"
# Grids on which AIConfigurator is asked; the mocker interpolates between them.
PREFILL_TOKENS = (1, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
CONTEXTS = (32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
KV_POINTS = 60


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine of the simulator. `model` None: the mocker's own polynomial step times.

    The limits are the mocker's defaults (256 sequences, 8192 tokens in a step, blocks of 64).
    """

    name: str
    kv_blocks: int
    lengths: Lengths
    model: str | None = None
    system: str = "h100_sxm"
    tensor_parallel: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit into its KV cache."""
        return self.kv_blocks * BLOCK_TOKENS

    def arguments(self, cache: Path, *, startup_seconds: float) -> str:
        """Engine arguments of the mocker, as JSON."""
        values: dict[str, Any] = {
            "block_size": BLOCK_TOKENS,
            "num_gpu_blocks": self.kv_blocks,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "startup_time": startup_seconds,
        }
        if self.model is not None:
            values["planner_profile_data"] = str(self.timings(cache))
        return json.dumps(values)

    def timings(self, cache: Path) -> Path:
        """The file of step times, made at the first use."""
        path = cache / f"timings-{self.name}.npz"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            _write_timings(self, path)
        return path


def aic_session(engine: Engine) -> Any:
    """AIConfigurator's step times of this engine, through the class that Dynamo's planner uses."""
    from dynamo._internal.aic import create_session  # noqa: PLC0415 - only in the environment of the peers

    if engine.model is None:
        raise ValueError(f"{engine.name} has no model that AIConfigurator knows")
    return create_session(AIC_BACKEND, engine.system, engine.model, engine.tensor_parallel, backend_version=AIC_VERSION)


def _write_timings(engine: Engine, path: Path) -> None:
    """Tables in the mocker's own format: prefill by tokens; decoding by tokens in the KV cache and mean context."""
    session = aic_session(engine)
    kv = np.unique(np.round(np.concatenate([[0], np.geomspace(64, 1.2 * engine.kv_tokens, KV_POINTS)])))
    itl = np.array(
        [[_decode_ms(session, tokens / context, context, engine.max_num_seqs) for context in CONTEXTS] for tokens in kv]
    )
    np.savez(
        path,
        prefill_isl=np.array(PREFILL_TOKENS, dtype=np.float64),
        prefill_ttft_ms=np.array([session.predict_prefill(1, tokens, 0) for tokens in PREFILL_TOKENS]),
        decode_active_kv_tokens=kv,
        decode_context_length=np.array(CONTEXTS, dtype=np.float64),
        decode_itl=itl,
    )


def _decode_ms(session: Any, sequences: float, context: int, most: int) -> float:
    """Step time with a number of sequences between two whole ones."""
    sequences = min(max(sequences, 1.0), 2.0 * most)
    low = int(sequences)
    below, above = (float(session.predict_decode(n, context, 2)) for n in (low, low + 1))
    return below + (above - below) * (sequences - low)
