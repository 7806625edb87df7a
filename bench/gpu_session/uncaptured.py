"""`python -m bench.gpu_session.uncaptured [JOURNALS]`: does each sequence make a step of over 512 tokens dearer?

vLLM has captured graphs for steps of up to 512 tokens. Beside the product's step times, whose mixed steps have floors,
stands a form whose larger mixed steps cost `fixed + each * N` more, N sequences decoding in them. Both are fitted to a
journal's points but one, and foretell its gap; points of other mixes from the journal of the profile's mix.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench.gpu_session.judge_blind import Run, base_of, read_runs, subject_of
from bench.gpu_session.reproduce import SESSION, fit
from bench.sim_validation.open_loop import nelder_mead
from shoal.domain.profile import StepModel
from shoal.profiler.fit import GRAPH_TOKENS, Observation, observe, predict
from shoal.profiler.points import Point

EVALUATIONS: Final = 700
STARTS_MS: Final = (2.0, 6.0)  # of `fixed`
WEIGHT: Final = 0.04  # of a guess beside a point, in logarithms: a point known to 2 %, a guess to a factor of 1.6
# Guesses of fixed, each, of small steps' fixed part, and of the server's time for a token, ms; the last two count less.
FIXED, EACH, SMALL, PER_TOKEN = 4.0, 0.03, 1.0, 1 / 30
PASSED_OVER: Final = ("idle", "full")  # without them no step time is known


@dataclass(frozen=True, slots=True)
class Terms:
    """Milliseconds. A step of A prompt tokens and N sequences: alpha + (beta + gamma*ctx)*N + beta*A + what A adds."""

    alpha: float
    beta: float
    gamma: float
    small: float
    fixed: float
    per_token: float
    each: float


def gap_of(terms: Terms, seen: Observation) -> float:
    """The mean gap that the terms give."""
    running, prompts = seen.decoding, seen.prompts
    large = terms.fixed + terms.each * running
    added = np.where(prompts <= 0, 0.0, np.where(prompts + running <= GRAPH_TOKENS, terms.small, large))
    step = terms.alpha + (terms.beta + terms.gamma * seen.context) * running + terms.beta * prompts + added
    step = np.maximum(step, running * terms.per_token)
    return float((step * running).sum() / running.sum())


def fit_terms(seen: Sequence[Observation], datasheet: StepModel, start: StepModel) -> Terms:
    """Least squares of the logarithms of gaps, near the datasheet and the guesses where the points do not tell."""
    guesses = (
        (datasheet.alpha_ms, WEIGHT),
        (datasheet.beta_ms_per_token, WEIGHT),
        (datasheet.gamma_ms_per_kv_token, WEIGHT),
        (SMALL, WEIGHT / 2),
        (FIXED, WEIGHT),
        (PER_TOKEN, WEIGHT / 4),
        (EACH, WEIGHT),
    )

    def distance(logs: Sequence[float]) -> float:
        terms = _terms(logs)
        misses = [math.log(gap_of(terms, one) / one.gap_ms) for one in seen]
        misses += [weight * (log - math.log(guess)) for log, (guess, weight) in zip(logs, guesses, strict=True)]
        return sum(miss * miss for miss in misses)

    found = []
    for fixed in STARTS_MS:
        beta, gamma = 1.3 * datasheet.beta_ms_per_token, max(start.gamma_ms_per_kv_token, 1e-6)
        values = (start.alpha_ms, beta, gamma, fixed / 2, fixed, PER_TOKEN, EACH)
        found.append(nelder_mead(distance, [math.log(value) for value in values], 0.5, EVALUATIONS))
    return _terms(min(found, key=distance))


def _terms(logs: Sequence[float]) -> Terms:
    return Terms(*(math.exp(min(max(log, -20.0), 12.0)) for log in logs))


@dataclass(frozen=True, slots=True)
class Held:
    """A gap that was not seen, in ms: measured, by the product's step times, and by the other form."""

    where: str
    measured: float
    floors: float
    added: float


def hold_out(run: Run, base: Run) -> Iterator[Held]:
    """Every point of a journal that both forms can foretell."""
    datasheet, start = subject_of(base).datasheet_steps(base.measured.shape), fit(base)
    if datasheet is None or start is None:
        return
    known = [(point, one) for point in base.measured.points if (one := _observed(base, point)) is not None]
    steady = [(point, one) for point, one in known if not point.engine.get("preemptions")]
    for point in run.measured.points:
        steps, one = fit(base, without=point), _observed(run, point)
        if point.spec.name in PASSED_OVER or steps is None or one is None:
            continue
        terms = fit_terms([other for taken, other in steady if taken is not point], datasheet, start)
        yield Held(f"{run.name}, {one.name}", one.gap_ms, predict(_values(steps), one), gap_of(terms, one))


def _observed(run: Run, point: Point) -> Observation | None:
    return None if point.invalid else observe(point, run.key.chunk, run.measured.settings.engines)


def _values(steps: StepModel) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    api = steps.api_tokens_per_second
    return np.array(
        [
            steps.alpha_ms,
            steps.beta_ms_per_token,
            steps.gamma_ms_per_kv_token,
            steps.floor_small_ms,
            steps.floor_large_ms,
            1000 / api if api else 0.0,
        ]
    )


def table(found: Sequence[Held]) -> Iterator[str]:
    """Every point, then root mean squares and medians."""
    yield "| point | gap, ms | floors | fixed + each sequence |"
    yield "|---|---:|---:|---:|"
    for one in found:
        errors = (one.floors / one.measured - 1, one.added / one.measured - 1)
        floors, added = f"{one.floors:.1f} ({errors[0]:+.0%})", f"{one.added:.1f} ({errors[1]:+.0%})"
        yield f"| {one.where} | {one.measured:.1f} | {floors} | {added} |"
    for name in ("floors", "added"):
        logs = [abs(math.log(getattr(one, name) / one.measured)) for one in found]
        rms = math.sqrt(statistics.fmean(log * log for log in logs))
        yield f"\n{name}: {len(logs)} points, {rms:.1%} rms, {statistics.median(logs):.1%} median"


def main() -> int:
    """Print the table; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journals", type=Path, nargs="?", default=SESSION, help="a session's directory")
    runs = [run for run in read_runs(parser.parse_args().journals) if run.mix is not None and run.key.engines == 1]
    pairs = [(run, run if run.mix == "chat" else base_of(run, runs)) for run in runs]
    found = [held for run, base in pairs if base is not None for held in hold_out(run, base)]
    print(*table(found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
