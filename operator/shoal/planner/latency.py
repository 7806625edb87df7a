"""Latency of one engine from its step times: continuous batching as a queue whose speed depends on its length.

Formulas: docs/decisions/0010. N running sequences of mean context ctx need a step of `T(N)`; while N sequences of m
output tokens run, `N/m` of them end in each step, and as many prompts begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shoal.domain.profile import LengthMix, StepModel
from shoal.planner.curves import KNEE, Curve, Line, make_line

GRAPH_TOKENS: Final = 512  # the largest captured graph: a mixed step above it has the larger floor
SERVER_MS: Final = 15.0  # HTTP, tokens and scheduling of a first token: 22-29 ms were measured where 5-12 were modelled
LEAST_PREFILL_BUDGET: Final = 64  # prompt tokens a step still admits when decoding fills the chunk
MOST_RUNNING: Final = 4096
_UTILISATIONS: Final = np.array([0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, KNEE])
LEAST_STEP_MS: Final = 0.05  # no engine is faster, whatever a fit says
SHORT_ANSWERS: Final = 0.3  # fitted to the simulated engine: p95 of ITL then within 20 % (one standard deviation)
MEAN: Final = 0  # in place of a percentile: means, which live latencies are compared with
_NODES: Final = 48  # batch sizes at which the step time is computed; between them it is interpolated

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EngineModel:
    """One engine: its step times at full clock, its limits, and what is left of the clock (1.0: all)."""

    steps: StepModel
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_tokens: float
    clock_ratio: float = 1.0
    api_servers: int = 1


@lru_cache(maxsize=8192)
def modelled_curve(engine: EngineModel, lengths: LengthMix, percentile: int) -> Curve | None:
    """The engine's curve; None when its KV cache cannot hold one mean request. Percentile MEAN gives means.

    ITL comes from the batch limit alone, so that less KV cache never looks faster; its shortage appears as waiting.

    Saturation is the least of the batch limit's, `B/(m*E[T])`, the KV cache's and the API servers', `servers*Phi/m`.
    The cache holds `B_eff = C_kv/ctx` sequences, so `mu_kv = C_kv/(T*E[o*(i + o/2)])` (as m*ctx = E[o*(i + o/2)]).
    Worked: C_kv 20,000 tokens, 512 + 128 tokens with ctx 592: B_eff 33; at T = 25 ms 33/(128*0.025) = 10.3 req/s.
    Range: bench/capacity; real runs that preempt came out 6 to 8 % lower, up to 10 %.
    """
    kv_running = engine.kv_cache_tokens / mean_context(lengths)
    running = int(min(engine.max_num_seqs, kv_running, MOST_RUNNING))
    if running < 1:
        return None
    share = percentile / 100
    batch = _batch(engine, lengths)
    full = batch if engine.clock_ratio >= 1 else _batch(replace(engine, clock_ratio=1.0), lengths)
    batch_rate = float(batch.rates[running - 1])
    api_rate = _api_tokens(engine) / max(lengths.output_mean, 1.0)
    saturation = min(batch_rate, api_rate)
    limit = "KV" if kv_running < engine.max_num_seqs else "batch"
    if api_rate <= batch_rate * (1 + 1e-9):
        limit = "API server"
    grid = _UTILISATIONS * min(float(full.rates[-1]), api_rate)
    itl_rates = _up_to(grid, KNEE * min(float(batch.rates[-1]), api_rate))
    ttft_rates = _up_to(grid, KNEE * saturation)
    if percentile == MEAN:
        itl = _line(itl_rates, _itl_mean(lengths, batch, itl_rates))
        ttft = _line(ttft_rates, _ttft_mean(engine, lengths, batch, ttft_rates, running=running))
        return Curve(ttft, itl, saturation, KNEE * saturation, limit)
    itl = _line(itl_rates, _itl_quantile(engine, lengths, batch, itl_rates, share)[0])
    ttft = _line(ttft_rates, _ttft_quantile(engine, lengths, batch, ttft_rates, share, running=running))
    return Curve(ttft, itl, saturation, KNEE * saturation, limit)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Mean step times (ms) and throughput (requests per second) with 1, 2, ... running sequences."""

    steps: Floats
    rates: Floats


def _batch(engine: EngineModel, lengths: LengthMix) -> _Batch:
    """Step times and throughput for 1..most running sequences.

    `N/m` sequences end in each step and as many prompts begin; a prompt longer than the chunk comes in pieces, so that
    pieces arrive as Poisson. Where the chunk cannot admit prompts that fast, fewer sequences run than could: throughput
    is what the chunk lets in, and more sequences do not add to it.
    """
    most = int(min(engine.max_num_seqs, MOST_RUNNING))
    nodes = np.unique(np.round(np.geomspace(1, most, _NODES))).astype(np.float64)
    outputs = max(lengths.output_mean, 1.0)
    budget = np.maximum(engine.max_num_batched_tokens - nodes, LEAST_PREFILL_BUDGET)
    pieces = _pieces(lengths, budget)
    admitted = np.minimum(1.0, budget * outputs / (nodes * lengths.input_mean))
    counts, chances = _poisson(nodes / outputs * admitted * pieces)
    prompts = counts * (lengths.input_mean / pieces)[:, None]
    times = (chances * _step(engine, mean_context(lengths), nodes[:, None], prompts)).sum(axis=1)
    times = np.maximum(times, nodes * 1000 / _api_tokens(engine))
    times = np.maximum(np.maximum.accumulate(times), LEAST_STEP_MS)
    rates = np.maximum.accumulate(nodes * admitted / (outputs * times) * 1000)
    running = np.arange(1, most + 1)
    return _Batch(np.interp(running, nodes, times), np.interp(running, nodes, rates))


def _pieces(lengths: LengthMix, budget: Floats) -> Floats:
    """Steps that a prompt is spread over, on average.

    Equal prompts of i tokens need `ceil(i/b)` steps of b prompt tokens; exponential lengths `1/(1 - exp(-b/i))`, the
    mean of `ceil(x/b)`. Lengths whose standard deviation is at least half their mean count as exponential, narrower
    ones in between. Worked: 2048 tokens, b = 2000: equal ones 2 steps, exponential ones 1/(1 - exp(-0.977)) = 1.604.
    """
    equal = np.maximum(1.0, np.ceil(lengths.input_mean / budget))
    varied = min(1.0, 2 * _spread(lengths.input_mean, lengths.input_p95))
    return np.asarray(equal + varied * (1 / -np.expm1(-budget / lengths.input_mean) - equal), dtype=np.float64)


def _spread(mean: float, p95: float) -> float:
    """Standard deviation over mean of a length, from its 95th percentile: an exponential has it at three times."""
    return max(0.0, (p95 / max(mean, 1.0) - 1) / 2)


def _up_to(grid: Floats, highest: float) -> Floats:
    """Rates of the grid below the highest one, and that: with less clock or memory the same rates are looked at."""
    return np.append(grid[grid < highest * (1 - 1e-9)], highest)


def mean_context(lengths: LengthMix) -> float:
    """Tokens in the KV cache of a running sequence, long answers counted as often as they are seen.

    `(E[i*o] + E[o^2]/2) / E[o]` with independent lengths. Worked: 512 + 128 tokens, p95 of the answers 256, so a
    spread of 0.5: 512 + 128 * 1.25 / 2 = 592. Source: real runs of variable lengths (bench/capacity): by mean context
    their throughput is predicted 20 to 40 % too high, by this 4 to 16 % with a p95 of three times the mean. Range: the
    correlation of prompts and answers is left out.
    """
    outputs = max(lengths.output_mean, 1.0)
    spread = _spread(outputs, lengths.output_p95)
    return max(1.0, lengths.input_mean + outputs * (1 + spread * spread) / 2)


def _api_tokens(engine: EngineModel) -> float:
    tokens = engine.steps.api_tokens_per_second
    return tokens * engine.api_servers if tokens else math.inf


def _step(engine: EngineModel, context: float, running: Floats, prompt_tokens: Floats) -> Floats:
    """Time of one step that computes these prompt tokens beside N running sequences, in ms."""
    steps = engine.steps
    beta = steps.beta_ms_per_token / engine.clock_ratio
    decode = steps.alpha_ms + (beta + steps.gamma_ms_per_kv_token * context) * running
    large = max(steps.floor_small_ms, steps.floor_large_ms)
    floor = np.where(prompt_tokens <= 0, 0.0, np.where(prompt_tokens <= GRAPH_TOKENS, steps.floor_small_ms, large))
    return np.asarray(np.maximum(decode + beta * prompt_tokens, floor), dtype=np.float64)


def _prefill(engine: EngineModel, context: float, running: Floats, prompt_tokens: Floats) -> Floats:
    """Time until these prompt tokens are computed beside N running sequences: as many steps as the chunk needs."""
    budget = np.maximum(engine.max_num_batched_tokens - running, LEAST_PREFILL_BUDGET)
    count = np.maximum(1, np.ceil(prompt_tokens / budget))
    return count * _step(engine, context, running, prompt_tokens / count)


def _itl_quantile(
    engine: EngineModel, lengths: LengthMix, batch: _Batch, rates: Floats, share: float
) -> tuple[Floats, Floats]:
    """ITL at `share` of requests for each rate, and the running sequences it comes from.

    A request's mean gap is the mean of its m steps: decoding beside `N_p` sequences, and what prompts add to a mean
    step, raised by `z/sqrt(N)` for the prompts that happened to come (their number over m steps is Poisson of N; short
    answers, which see fewer steps, count by SHORT_ANSWERS). Never more than steps whose chunk is always full.
    """
    n_p = _running_quantile(rates, batch.rates, share)
    context = mean_context(lengths)
    mean = batch.steps[n_p.astype(int) - 1]
    decode = _step(engine, context, n_p, np.zeros_like(n_p))
    luck = 1 + max(0.0, NormalDist().inv_cdf(share)) / np.sqrt(SHORT_ANSWERS * n_p)
    full = _step(engine, context, n_p, np.maximum(engine.max_num_batched_tokens - n_p, LEAST_PREFILL_BUDGET))
    itl = np.minimum(decode + np.maximum(mean - decode, 0.0) * luck, np.maximum(full, mean))
    return np.maximum(itl, n_p * 1000 / _api_tokens(engine)), n_p


@dataclass(frozen=True, slots=True)
class _Wait:
    """One part of a TTFT at each rate, in ms: its mean, and its value at the percentile."""

    mean: Floats
    at: Floats


def _ttft_quantile(
    engine: EngineModel, lengths: LengthMix, batch: _Batch, rates: Floats, share: float, *, running: int
) -> Floats:
    """TTFT at `share` of requests: `sum(mean) + sqrt(sum(deviation^2))` of its waits, taken as independent.

    Worked: means of 10 and 31 ms, values at 95 % of 20 and 144 ms: 41 + sqrt(10^2 + 113^2) = 154 ms. Source: checked
    against the simulated engine (bench/capacity: 225 points, prompts of 128 to 3000 tokens, chunks of 512 to 8192): p95
    to 0.85 of saturation -4 to 0 % on average, 7 to 14 % rms. Range: to 0.85 of saturation; at 0.92 prompts longer than
    the chunk come out up to 70 % too high, as waits then outlast any run.
    """
    n_p = _running_quantile(rates, batch.rates, share)
    waits = _waits(engine, lengths, batch, rates, share, running=running)
    ttft = np.maximum(_add_up(waits), n_p * 1000 / _api_tokens(engine))
    return np.asarray(SERVER_MS + ttft, dtype=np.float64)


def _add_up(waits: Sequence[_Wait]) -> Floats:
    """A percentile of a sum of independent waits; deviations below the mean (at low percentiles) count as such."""
    squares = sum((wait.at - wait.mean) * np.abs(wait.at - wait.mean) for wait in waits)
    mean = sum(wait.mean for wait in waits)
    return np.asarray(mean + np.sign(squares) * np.sqrt(np.abs(squares)), dtype=np.float64)


def _ttft_mean(engine: EngineModel, lengths: LengthMix, batch: _Batch, rates: Floats, *, running: int) -> Floats:
    """Mean TTFT at each rate: the server, and the means of all waits."""
    waits = _waits(engine, lengths, batch, rates, 0.5, running=running)
    return np.asarray(SERVER_MS + sum(wait.mean for wait in waits), dtype=np.float64)


def _waits(
    engine: EngineModel, lengths: LengthMix, batch: _Batch, rates: Floats, share: float, *, running: int
) -> tuple[_Wait, ...]:
    """For a place in the batch, for the step under way, for the prompts before, and the prompt's own steps."""
    context, outputs = mean_context(lengths), max(lengths.output_mean, 1.0)
    n = np.maximum(_mean_running(rates, batch.rates), 1.0)
    n_p = _running_quantile(rates, batch.rates, share)
    budget = np.maximum(engine.max_num_batched_tokens - n, LEAST_PREFILL_BUDGET)
    step = batch.steps[np.round(n).astype(int) - 1]
    prompts = np.minimum(_poisson_quantile(n_p / outputs, share) * lengths.input_mean, budget)
    _, queue, ratio = _state_chances(rates, batch.rates[:running])
    own = _tail_length(lengths.input_mean, lengths.input_p95, share)
    return (
        _Wait(queue / (1 - ratio) * 1000 / rates, _wait_quantile(rates, batch.rates[:running], share)),
        _Wait(step / 2, np.maximum(step, _step(engine, context, n_p, prompts))),
        _prompts_before(engine, lengths, n, rates, np.minimum(1.0, rates / batch.rates[running - 1]), share),
        _Wait(*(_prefill(engine, context, n, np.full_like(n, tokens)) for tokens in (lengths.input_mean, own))),
    )


def _prompts_before(  # noqa: PLR0917
    engine: EngineModel, lengths: LengthMix, running: Floats, rates: Floats, most: Floats, share: float
) -> _Wait:
    """Wait for the prompts that came before.

    The chunk serves b prompt tokens per full step, and prompts queue for it as in M/G/1: with rho = rate * s, s the
    full steps of a mean prompt, the wait is 0 with 1 - rho, else about exponential of mean `s*(1 + cv^2)/2/(1 - rho)`
    (Pollaczek-Khinchine). Worked: s = 50 ms, cv 0.5, 10 prompts a second: rho 0.5, mean 62.5 ms if any, so 31 ms, and
    62.5*ln(0.5/0.05) = 144 ms at 95 %. `most`: the share of saturation, which rho does not exceed.
    """
    budget = np.maximum(engine.max_num_batched_tokens - running, LEAST_PREFILL_BUDGET)
    work = lengths.input_mean / budget * _step(engine, mean_context(lengths), running, budget)
    rho = np.minimum(rates * work / 1000, most)
    mean = work * (1 + _spread(lengths.input_mean, lengths.input_p95) ** 2) / 2 / np.maximum(1 - rho, 1e-3)
    return _Wait(rho * mean, np.maximum(0.0, mean * np.log(np.maximum(rho / (1 - share), 1e-9))))


def _itl_mean(lengths: LengthMix, batch: _Batch, rates: Floats) -> Floats:
    """Mean ITL at each rate: by Little's law a request is in service for E[N]/rate, which its m tokens share."""
    return np.asarray(_mean_running(rates, batch.rates) * 1000 / (rates * max(lengths.output_mean, 1.0)))


def _mean_running(rates: Floats, served: Floats) -> Floats:
    """Mean number of requests in service."""
    chances, queue, _ = _state_chances(rates, served)
    return np.asarray(chances @ np.arange(chances.shape[1]) + queue * len(served), dtype=np.float64)


def _line(rates: Floats, values: Floats) -> Line:
    return make_line(list(zip(rates.tolist(), values.tolist(), strict=True)))


def _state_chances(rates: Floats, served: Floats) -> tuple[Floats, Floats, Floats]:
    """Chance of each number of requests in service, of the full batch with a queue, and the queue's ratio."""
    logs = np.log(rates)[:, None] * np.arange(0, len(served) + 1) - np.concatenate(([0.0], np.cumsum(np.log(served))))
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    ratio = np.minimum(rates / served[-1], 0.999)
    queue = weights[:, -1] * ratio / (1 - ratio)
    total = weights.sum(axis=1) + queue
    return weights / total[:, None], queue / total, ratio


def _running_quantile(rates: Floats, served: Floats, share: float) -> Floats:
    chances, _, _ = _state_chances(rates, served)
    reached = np.cumsum(chances, axis=1) >= share
    found = np.where(reached.any(axis=1), reached.argmax(axis=1), len(served))
    return np.asarray(np.clip(found, 1, len(served)), dtype=np.float64)


def _wait_quantile(rates: Floats, served: Floats, share: float) -> Floats:
    """Wait in ms before a place in the batch is free, not exceeded by `share` of the requests."""
    chances, queue, ratio = _state_chances(rates, served)
    full = chances[:, -1] + queue
    ahead = np.where(full > 1 - share, np.log(np.maximum(1 - share, 1e-9) / np.maximum(full, 1e-12)) / np.log(ratio), 0)
    return np.asarray(np.maximum(ahead, 0) * 1000 / served[-1], dtype=np.float64)


def _poisson(means: Floats) -> tuple[Floats, Floats]:
    """Counts 0..top, and the chance of each (columns) for every mean (rows)."""
    top = int(means.max() + 6 * math.sqrt(means.max()) + 6)
    counts = np.arange(0, top + 1, dtype=np.float64)
    log_factorials = np.concatenate(([0.0], np.cumsum(np.log(counts[1:]))))
    chances = np.exp(counts * np.log(means)[:, None] - means[:, None] - log_factorials)
    return counts, chances / chances.sum(axis=1, keepdims=True)


def _poisson_quantile(means: Floats, share: float) -> Floats:
    counts, chances = _poisson(means)
    reached = np.cumsum(chances, axis=1) >= share
    return np.asarray(np.where(reached.any(axis=1), reached.argmax(axis=1), counts[-1]), dtype=np.float64)


def _tail_length(mean: float, p95: float, share: float) -> float:
    """Length that `share` of the requests stay within: the mean at 0.5, p95 at 0.95, straight between and beyond."""
    return max(mean, mean + (p95 - mean) * (share - 0.5) / 0.45)
