"""Real runs that the fit has not seen: fitted on some, predicted for others, with the planner's own functions.

`real_runs.json` holds the published results of "Mind the Memory Gap" (arXiv:2503.08311): vLLM on one H100 with 64 GB,
each run 2,000 requests at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.capacity.errors import Errors, Pair
from shoal.domain.profile import LengthMix, StepModel
from shoal.planner.latency import EngineModel, mean_context, modelled_curve
from shoal.sim.mem_gap import BLOCK_SIZE, CHUNK_FIXED, CHUNK_VARIABLE, MODELS, Run, fit_steps, read_runs

RUNS = Path(__file__).with_name("real_runs.json")
GAMMA, EXPONENTIAL = 2.37, 3.0  # p95 over mean, for runs whose lengths vary and are not told


@dataclass(frozen=True, slots=True)
class Split:
    """A hold-out: which runs are fitted, and which are predicted."""

    name: str
    fitted: Callable[[Run], bool]
    predicted: Callable[[Run], bool]
    spread: float | None = None  # p95 over mean of variable lengths: then throughput at the batch that ran


def _is_fixed(run: Run) -> bool:
    return run.fixed_lengths and run.engines == 1


def _is_short(run: Run) -> bool:
    return _is_fixed(run) and run.output_tokens < 325


def _is_small(run: Run) -> bool:
    return _is_fixed(run) and run.max_num_seqs <= 64


def _varies(run: Run) -> bool:
    return not run.fixed_lengths and run.engines == 1


SPLITS = (
    Split(
        "short answers -> long ones (x1.5 to 4), steady",
        _is_short,
        lambda r: _is_fixed(r) and not _is_short(r) and r.is_steady,
    ),
    Split(
        "long answers -> short ones, steady",
        lambda r: _is_fixed(r) and not _is_short(r),
        lambda r: _is_short(r) and r.is_steady,
    ),
    Split(
        "batches to 64 -> larger ones (to 512), steady",
        _is_small,
        lambda r: _is_fixed(r) and not _is_small(r) and r.is_steady,
    ),
    Split(
        "steady runs -> runs out of KV cache",
        lambda r: _is_fixed(r) and r.is_steady,
        lambda r: _is_fixed(r) and not r.is_steady,
    ),
    Split("fixed lengths -> variable ones, by their means", _is_fixed, _varies, 1.0),
    Split("fixed lengths -> variable ones, length-biased, p95 2.4 means", _is_fixed, _varies, GAMMA),
    Split("fixed lengths -> variable ones, length-biased, p95 3 means", _is_fixed, _varies, EXPONENTIAL),
)


def predict_rate(run: Run, steps: StepModel, kv_tokens: float) -> float:
    """Requests per second when overloaded, by the planner's model."""
    lengths = _lengths(run, 1.0)
    chunk = CHUNK_FIXED if run.fixed_lengths else CHUNK_VARIABLE
    curve = modelled_curve(EngineModel(steps, run.max_num_seqs, chunk, kv_tokens), lengths, 95)
    return curve.saturation if curve else 0.0


def predict_at_batch(run: Run, steps: StepModel, spread: float) -> float:
    """Requests per second with as many sequences as ran on average: a burst of unequal requests runs out slowly."""
    context = mean_context(_lengths(run, spread))
    gap = steps.alpha_ms + (steps.beta_ms_per_token * run.per_token + steps.gamma_ms_per_kv_token * context) * run.batch
    return run.batch * 1000 / gap / run.output_tokens


def _lengths(run: Run, spread: float) -> LengthMix:
    return LengthMix(run.input_tokens, run.output_tokens, spread * run.input_tokens, spread * run.output_tokens)


def hold_out() -> Iterator[Errors]:
    """Relative errors of throughput, for every split and model."""
    runs = read_runs(RUNS)
    for split in SPLITS:
        for model in MODELS:
            own = [run for run in runs if run.model == model]
            pairs = _predict(split, own)
            if pairs:
                yield Errors(split.name, model, tuple(pairs))


def _predict(split: Split, own: Sequence[Run]) -> list[Pair]:
    steps = fit_steps(run for run in own if split.fitted(run)).steps
    largest = max(run.kv_blocks or 0 for run in own) * BLOCK_SIZE
    return [
        Pair(
            f"{run.max_num_seqs} sequences, {run.input_tokens:.0f}+{run.output_tokens:.0f} tokens",
            predict_rate(run, steps, float((run.kv_blocks or 0) * BLOCK_SIZE) or largest)
            if split.spread is None
            else predict_at_batch(run, steps, split.spread),
            run.batch * 1000 / run.gap_ms / run.output_tokens if split.spread else run.request_rate,
        )
        for run in own
        if split.predicted(run)
    ]
