"""The engine against queueing theory where that is exact: what is left is the noise of the draw, told as intervals."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.sim_validation.spread import batch_means
from shoal.domain.profile import StepModel
from shoal.sim.batch import Sequence as EngineSequence
from shoal.sim.engine import Engine, EngineLimits

Floats = NDArray[np.float64]
WARM_UP = 0.1
STEPS = StepModel(alpha_ms=10.0, beta_ms_per_token=0.2, gamma_ms_per_kv_token=0.0)
SEATS, MEAN_TOKENS = 32, 50
RHOS = (0.3, 0.5, 0.7, 0.85, 0.95)


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: theory, simulated with half of its 95 % interval, in the same unit."""

    case: str
    load: float
    theory: float
    simulated: float
    half_interval: float

    def to_dict(self) -> dict[str, Any]:
        """What stands in the result file."""
        return {
            "case": self.case,
            "load": self.load,
            "theory": float(f"{self.theory:.6g}"),
            "simulated": float(f"{self.simulated:.6g}"),
            "halfInterval": float(f"{self.half_interval:.3g}"),
            "error": round(self.simulated / self.theory - 1, 4),
            "withinInterval": abs(self.simulated - self.theory) <= self.half_interval,
        }


def play(rate: float, lengths: Iterator[int], seats: int, requests: int, seed: int) -> list[EngineSequence]:
    """Poisson arrivals of prompts of one token."""
    rng = random.Random(f"queueing {seed}")
    engine, now, sequences = Engine(STEPS, EngineLimits(seats, 1_000_000, 10**9)), 0.0, []
    for _ in range(requests):
        now += rng.expovariate(rate)
        engine.advance(now)
        sequences.append(engine.submit(1, next(lengths), now))
    while engine.wake_at is not None:
        engine.advance(engine.wake_at)
    return sequences[int(WARM_UP * requests) :]


def geometric(mean: float, seed: int) -> Iterator[int]:
    """Memoryless lengths of at least one."""
    rng, log = random.Random(f"lengths {seed}"), math.log(1 - 1 / mean)
    return (1 + int(math.log(1 - rng.random()) / log) for _ in itertools.count())


def pollaczek_khinchine(rate: float, mean: float, second_moment: float) -> float:
    """Mean wait of M/G/1: lambda*E[S^2] / (2*(1 - rho))."""
    return rate * second_moment / (2 * (1 - rate * mean))


def check_single_seat(requests: int) -> list[Check]:
    """One seat: M/D/1 with equal lengths, M/G/1 with geometric ones. Mean wait in milliseconds."""
    step = (STEPS.alpha_ms + STEPS.beta_ms_per_token) / 1000
    tokens, checks = 20, []
    variance = tokens * (tokens - 1)  # of a geometric distribution on 1, 2, ...
    kinds: tuple[tuple[str, int, Callable[[int], Iterator[int]]], ...] = (
        ("M/D/1", tokens**2, lambda _: itertools.repeat(tokens)),
        ("M/G/1, geometric", tokens**2 + variance, lambda seed: geometric(tokens, seed)),
    )
    for case, second, make in kinds:
        for number, rho in enumerate(RHOS):
            rate = rho / (tokens * step)
            played = play(rate, make(number), 1, requests, number)
            mean, half = batch_means([(s.scheduled_at or 0.0) - s.arrived_at for s in played])
            theory = pollaczek_khinchine(rate, tokens * step, second * step**2)
            checks.append(Check(f"{case}, mean wait, ms", rho, 1000 * theory, 1000 * mean, 1000 * half))
    return checks


def check_batch(requests: int) -> list[Check]:
    """A batch of 32 with geometric lengths: mean time in the engine, ms, against the chain and against M/M/1."""
    top = SEATS / (MEAN_TOKENS * step_seconds(SEATS))
    checks = []
    for number, rho in enumerate(RHOS):
        rate = rho * top
        played = play(rate, geometric(MEAN_TOKENS, 100 + number), SEATS, requests, 100 + number)
        mean, half = batch_means([(s.finished_at or 0.0) - s.arrived_at for s in played])
        for case, theory in (
            ("batch of 32, exact chain of steps, time in engine, ms", chain_sojourn(rate)),
            ("batch of 32, state-dependent M/M/1 (an approximation), ms", birth_death_sojourn(rate)),
        ):
            checks.append(Check(case, rho, 1000 * theory, 1000 * mean, 1000 * half))
    return checks


def step_seconds(running: int) -> float:
    """One step of so many sequences."""
    return (STEPS.alpha_ms + STEPS.beta_ms_per_token * running) / 1000


def chain_sojourn(rate: float, states: int = 1500) -> float:
    """Mean time in the engine from the Markov chain embedded at the beginnings of steps.

    With n in the engine, k = min(n, seats) run for T(k) seconds; each of them ends with probability 1/m, and
    Poisson(rate*T) arrive and join the next step. An empty engine waits for the next arrival. L is the time average
    of n; W = L/rate.
    """
    arrivals = {k: _poisson(rate * step_seconds(k), states) for k in range(1, SEATS + 1)}
    ends = {k: _binomial(k, 1 / MEAN_TOKENS) for k in range(1, SEATS + 1)}
    matrix = np.zeros((states, states))  # row and column n - 1
    idle = np.zeros(states)
    for n in range(1, states + 1):
        k = min(n, SEATS)
        after = np.convolve(ends[k][::-1], arrivals[k])  # index i: n - k + i requests are left
        left = np.zeros(states + 1)
        reach = min(len(after), states + 1 - (n - k))
        left[n - k : n - k + reach] = after[:reach]
        left[states] += max(0.0, 1 - left.sum())
        idle[n - 1] = left[0]
        matrix[n - 1] = left[1:]
        matrix[n - 1, 0] += left[0]
    stationary = _stationary(matrix)
    seconds = np.array([step_seconds(min(n, SEATS)) for n in range(1, states + 1)])
    held = np.arange(1, states + 1) * seconds + rate * seconds**2 / 2
    return float(stationary @ held / (stationary @ (seconds + idle / rate)) / rate)


def birth_death_sojourn(rate: float, states: int = 20_000) -> float:
    """Mean time in a state-dependent M/M/1 with mu(n) = k/(m*T(k)), k = min(n, seats)."""
    weight, total, held = 1.0, 1.0, 0.0
    for n in range(1, states):
        k = min(n, SEATS)
        weight *= rate * MEAN_TOKENS * step_seconds(k) / k
        total, held = total + weight, held + n * weight
        if weight < 1e-15 * total:
            break
    return held / total / rate


def _stationary(matrix: Floats) -> Floats:
    size = len(matrix)
    system = np.vstack([(matrix.T - np.eye(size))[:-1], np.ones(size)])
    return np.asarray(np.linalg.solve(system, np.append(np.zeros(size - 1), 1.0)), dtype=np.float64)


def _poisson(mean: float, most: int) -> Floats:
    count = np.arange(min(most, int(mean + 12 * math.sqrt(mean) + 40)))
    return np.asarray(np.exp(count * math.log(mean) - mean - np.array([math.lgamma(c + 1) for c in count])))


def _binomial(size: int, share: float) -> Floats:
    return np.array([math.comb(size, k) * share**k * (1 - share) ** (size - k) for k in range(size + 1)])


def validate(requests: int = 200_000) -> list[dict[str, Any]]:
    """All checks."""
    return [check.to_dict() for check in (*check_single_seat(requests), *check_batch(requests))]
