"""Profiles from the published runs of "Mind the Memory Gap" (arXiv:2503.08311): vLLM on one H100 with 64 GB.

Each run: 2,000 requests sent to a server at once, so that `max_num_seqs` of them run all the time. What can be had from
that: the throughput when overloaded, the mean gap between tokens at that batch, the size of the KV cache. What cannot:
latency at a rate, so profiles made here have no points.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shoal.api.model_profile import Provenance
from shoal.domain.profile import LengthMix, ModelFacts, Profile, ProfileRow, Source, StepModel
from shoal.planner.catalog import model_facts
from shoal.sim.profile_files import render_profile

PAPER = "https://arxiv.org/abs/2503.08311"
MODELS = {
    "opt-1.3b": "facebook/opt-1.3b",
    "opt-2.7b": "facebook/opt-2.7b",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-13b": "meta-llama/Llama-2-13b-hf",
}
ACCELERATOR = "NVIDIA-H100-64GB"
ENGINE_VERSION = "0.5.2.dev1210+g6f078ea3c"  # as a published server log of these runs says
CLOCK_MHZ = 1980.0
LOWEST_CLOCK_MHZ = 1900.0  # a few runs were made at 1605 MHz: another clock is another profile
BLOCK_SIZE = 16
CHUNK_FIXED = 512  # default of that version with chunked prefill, which the runs of fixed lengths had on
CHUNK_VARIABLE = 2048  # max_model_len of the runs without it
MOST_ALIKE = 1e6  # condition number beyond which two terms count as one
GPU_BYTES = 0.9 * 63.43 * 2**30  # what the server logs say: 0.9 of 63.43 GiB


@dataclass(frozen=True, slots=True)
class Run:
    """One published run. Rates per second of all its engines together, latencies in milliseconds."""

    model: str
    fixed_lengths: bool
    engines: int
    max_num_seqs: int
    request_rate: float
    token_rate: float
    gap_ms: float
    input_tokens: float
    output_tokens: float
    kv_blocks: int | None
    preemptions: float
    kv_usage: float

    @property
    def batch(self) -> float:
        """Mean sequences decoding in one engine, by Little's law."""
        return self.token_rate / self.engines * self.gap_ms / 1000

    @property
    def per_token(self) -> float:
        """Tokens computed in a step for each decoding sequence: its own, and its share of the prompts."""
        return 1 + self.input_tokens / self.output_tokens

    @property
    def context(self) -> float:
        """Mean tokens in the KV cache of a running sequence."""
        return self.input_tokens + self.output_tokens / 2

    @property
    def is_steady(self) -> bool:
        """Whether the batch stayed at its limit: nothing was preempted for want of KV cache."""
        return self.preemptions == 0 and self.kv_usage < 0.98


@dataclass(frozen=True, slots=True)
class Fit:
    """Step times and how well they hold: standard errors of the three terms, relative errors of the runs."""

    steps: StepModel
    errors: tuple[float, float, float]
    runs: int
    rms: float
    worst: float


def read_runs(path: Path) -> tuple[Run, ...]:
    """The runs that can be used. Raises ValueError when the file is something else."""
    items = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(items, list) or not all(isinstance(item, dict) and "dir" in item for item in items):
        raise ValueError(f"{path}: expected a list of runs, each with a `dir`")
    return tuple(run for item in items if (run := _read_run(item)) is not None)


def _read_run(item: dict[str, Any]) -> Run | None:
    parts = item["dir"].split("/")
    model, numbers = parts[-2], [int(number) for number in parts[-1].split("_") if number]
    shared = parts[:2] == ["replication", "gpu_metrics"]
    if model not in MODELS or (parts[0] not in ("advisor", "background") and not shared):
        return None
    engines = numbers[1] if shared else 1
    if (shared and engines == 1) or item.get("clk", CLOCK_MHZ) < LOWEST_CLOCK_MHZ:
        return None  # one engine under a profiler is a worse copy of a run without
    return Run(
        model=model,
        fixed_lengths=parts[0] == "advisor",
        engines=engines,
        max_num_seqs=numbers[0],
        request_rate=item["req_s"],
        token_rate=item["out_tok_s"],
        gap_ms=item["itl"],
        input_tokens=item["in"],
        output_tokens=item["out"],
        kv_blocks=item.get("blocks"),
        preemptions=item["pre"],
        kv_usage=item["kvmax"],
    )


def fit_steps(runs: Iterable[Run]) -> Fit:
    """Least squares of relative errors over the steady runs: `gap = alpha + (beta*per_token + gamma*context)*batch`."""
    steady = [run for run in runs if run.is_steady]
    if len(steady) < 4:
        raise ValueError(f"three terms need at least four steady runs with fixed lengths, not {len(steady)}")
    gaps = np.array([run.gap_ms for run in steady])
    terms = np.array([(1.0, run.batch * run.per_token, run.batch * run.context) for run in steady]) / gaps[:, None]
    if np.linalg.cond(terms / np.linalg.norm(terms, axis=0)) > MOST_ALIKE:
        raise ValueError("the runs have one mix of lengths: the time per token and per KV token cannot be told apart")
    solution = np.linalg.lstsq(terms, np.ones(len(steady)), rcond=None)[0]
    residuals = terms @ solution - 1.0
    variance = float(residuals @ residuals) / (len(steady) - 3)
    errors = np.sqrt(np.diag(variance * np.linalg.inv(terms.T @ terms)))
    alpha, beta, gamma = (float(value) for value in solution)
    return Fit(
        steps=StepModel(alpha, beta, gamma),
        errors=(float(errors[0]), float(errors[1]), float(errors[2])),
        runs=len(steady),
        rms=float(np.sqrt(np.mean(residuals**2))),
        worst=float(np.max(np.abs(residuals))),
    )


def scale_to_variable_lengths(steps: StepModel, runs: Sequence[Run]) -> StepModel:
    """The same model with beta and gamma stretched by one factor, to runs whose lengths vary.

    Their lengths have one mix only, so the two terms cannot be told apart; a batch of unequal contexts is slower than
    one of equal ones, by 20 to 50 % here.
    """
    pairs = [
        ((run.gap_ms - steps.alpha_ms) / run.gap_ms, (steps_gap(steps, run) - steps.alpha_ms) / run.gap_ms)
        for run in runs
        if run.is_steady
    ]
    weight = sum(model * model for _, model in pairs)
    factor = sum(seen * model for seen, model in pairs) / weight if weight else 1.0
    return replace(
        steps,
        beta_ms_per_token=steps.beta_ms_per_token * factor,
        gamma_ms_per_kv_token=steps.gamma_ms_per_kv_token * factor,
    )


def steps_gap(steps: StepModel, run: Run) -> float:
    """The gap between tokens that the model expects of a run."""
    per_sequence = steps.beta_ms_per_token * run.per_token + steps.gamma_ms_per_kv_token * run.context
    return steps.alpha_ms + per_sequence * run.batch


def make_profile(model: str, runs: Sequence[Run]) -> tuple[Profile, Provenance]:
    """The profile of one model. Raises ValueError when there are too few runs."""
    own = [run for run in runs if run.model == model]
    fit = fit_steps(run for run in own if run.fixed_lengths)
    variable = scale_to_variable_lengths(fit.steps, [r for r in own if not r.fixed_lengths and r.engines == 1])
    facts = model_facts(MODELS[model])
    assert facts is not None
    order = sorted(own, key=lambda r: (r.engines, r.input_tokens + r.output_tokens, r.max_num_seqs))
    profile = Profile(
        name=f"mem-gap-{model.replace('.', '-')}",
        namespace="shoal-system",
        model=MODELS[model],
        accelerator=ACCELERATOR,
        engine="vllm",
        engine_version=ENGINE_VERSION,
        source=Source.MEASURED,
        facts=facts,
        rows=tuple(_make_row(run, fit.steps if run.fixed_lengths else variable, facts, own) for run in order),
        clock_mhz=CLOCK_MHZ,
    )
    return profile, _make_provenance(fit, variable, own)


def _make_row(run: Run, steps: StepModel, facts: ModelFacts, own: Sequence[Run]) -> ProfileRow:
    if run.engines > 1:
        slower = run.gap_ms / steps_gap(steps, run)
        steps = StepModel(
            steps.alpha_ms * slower, steps.beta_ms_per_token * slower, steps.gamma_ms_per_kv_token * slower
        )
    tail = 1.0 if run.fixed_lengths else 2.0
    lengths = LengthMix(run.input_tokens, run.output_tokens, tail * run.input_tokens, tail * run.output_tokens)
    return ProfileRow(
        tensor_parallel=1,
        engines_per_gpu=run.engines,
        max_num_seqs=run.max_num_seqs,
        max_num_batched_tokens=CHUNK_FIXED if run.fixed_lengths else CHUNK_VARIABLE,
        kv_cache_tokens=_kv_tokens(run, facts, own),
        lengths=lengths,
        overload_rate=run.request_rate / run.engines,
        steps=steps,
        mps=run.engines > 1,
    )


def _kv_tokens(run: Run, facts: ModelFacts, own: Sequence[Run]) -> float:
    """As the engine reported; for engines that share the GPU, what an equal share of its memory leaves."""
    if run.kv_blocks is not None:
        return float(run.kv_blocks * BLOCK_SIZE)
    alone = max(other.kv_blocks for other in own if other.kv_blocks) * BLOCK_SIZE * facts.kv_bytes_per_token
    overhead = GPU_BYTES - facts.weights_bytes - alone
    return float((GPU_BYTES / run.engines - facts.weights_bytes - overhead) // facts.kv_bytes_per_token)


def _make_provenance(fit: Fit, variable: StepModel, own: Sequence[Run]) -> Provenance:
    alpha, beta, gamma = fit.errors
    notes = (
        f"{len(own)} runs of 2,000 requests sent at once over HTTP, so closed loop at the batch limit. Measured: "
        "overloadRate, and kvCacheTokens for one engine per GPU. Not measured: latency at a rate (no points), mixed "
        "steps (no floors), the API server's limit, tensor parallelism. Fitted from mean gaps of "
        f"{fit.runs} runs with fixed lengths and no preemption: alpha +-{alpha:.3f} ms, beta +-{beta:.5f}, "
        f"gamma +-{gamma:.6f} (standard errors); relative error {fit.rms:.1%} rms, {fit.worst:.1%} at worst. Rows of "
        "variable lengths (ShareGPT) share alpha and have beta and gamma times "
        f"{variable.beta_ms_per_token / fit.steps.beta_ms_per_token:.2f}: one mix cannot tell them apart; their p95 "
        "lengths are not known (twice the mean is written). Runs at 1605 MHz were left out. Rows with several engines "
        "per GPU ran with MPS under a profiler; their KV cache is computed. maxNumBatchedTokens is that version's "
        "default: 512 with chunked prefill (fixed lengths), 2048 without; engine version from one published log. Old "
        "engine: newer ones are faster."
    )
    return Provenance(
        tool="shoal import mem-gap",
        gpu_name="NVIDIA H100 64GB",
        notes=notes,
        source_url=PAPER,
    )


def import_runs(path: Path, directory: Path) -> tuple[Path, ...]:
    """Write one profile per model that the file has; answers what was written. Raises ValueError and OSError."""
    runs = read_runs(path)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for model in MODELS:
        if any(run.model == model for run in runs):
            profile, provenance = make_profile(model, runs)
            target = directory / f"{profile.name}.yaml"
            target.write_text(render_profile(profile, provenance, f"Made by `shoal import mem-gap` from {PAPER}"))
            written.append(target)
    if not written:
        raise ValueError(f"{path}: no run of {', '.join(MODELS)}")
    return tuple(written)
