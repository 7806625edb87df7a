"""Requests that arrive as clients send them: a rate that changes with time, bursts, and lengths that vary."""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from shoal.sim.rates import Schedule, follow, rate_at, seconds_of, wander

LENGTH_SCV = 0.5  # variance over squared mean: coefficient of variation 0.71, as chat logs have it; p95 is 2.37 means
P95_OVER_MEAN = 2.37


class Shape(enum.StrEnum):
    """Distribution of lengths."""

    GAMMA = "gamma"
    LOGNORMAL = "lognormal"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when (seconds since the traffic began) and how long, in tokens."""

    at: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Open-loop traffic. The same seed gives the same requests, whatever becomes of them.

    Means in tokens. `scv`: squared coefficient of variation of lengths; `gap_scv`: of the gaps between arrivals (1:
    Poisson, above: bursts). `wander`: share by which the rate drifts about the schedule, drawn anew every
    `wander_seconds`.
    """

    schedule: Schedule
    input_mean: float
    output_mean: float
    seed: int | str = 0
    longest: int = 1_000_000  # prompt and answer together
    shape: Shape = Shape.GAMMA
    scv: float = LENGTH_SCV
    gap_scv: float = 1.0
    wander: float = 0.0
    wander_seconds: float = 60.0

    @property
    def seconds(self) -> float:
        """How long requests arrive."""
        return seconds_of(self.schedule)

    def rate_at(self, at: float) -> float:
        """Requests per second expected at an instant."""
        return rate_at(self.schedule, at)

    def arrivals(self) -> Iterator[Arrival]:
        """Every request, in order."""
        instants, lengths = random.Random(f"arrivals {self.seed}"), random.Random(f"lengths {self.seed}")
        schedule = self.schedule
        if self.wander:
            schedule = wander(schedule, self.wander, self.wander_seconds, random.Random(f"wander {self.seed}"))
        for at in follow(schedule, _gaps(instants, self.gap_scv)):
            prompt = min(self._length(lengths, self.input_mean), self.longest - 1)
            output = min(self._length(lengths, self.output_mean), self.longest - prompt)
            yield Arrival(at, prompt, output)

    def _length(self, rng: random.Random, mean: float) -> int:
        if self.shape is Shape.FIXED or self.scv == 0:
            return max(1, round(mean))
        if self.shape is Shape.LOGNORMAL:
            variance = math.log1p(self.scv)
            return max(1, round(rng.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))))
        return max(1, round(rng.gammavariate(1 / self.scv, mean * self.scv)))


def _gaps(rng: random.Random, scv: float) -> Iterator[float]:
    """Gaps of mean 1."""
    while True:
        if scv == 1:
            yield rng.expovariate(1.0)
        elif scv == 0:
            yield 1.0
        else:
            yield rng.gammavariate(1 / scv, scv)
