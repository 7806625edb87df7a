"""Requests that arrive as clients send them: Poisson at a rate that changes in steps, with lengths that vary."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LENGTH_SHAPE = 2.0  # of a gamma distribution: coefficient of variation 0.71, as chat logs have it; p95 is 2.37 means
P95_OVER_MEAN = 2.37


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when (seconds since the traffic began) and how long, in tokens."""

    at: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Open-loop traffic.

    `schedule`: (seconds, requests per second) pieces, one after the other. Means in tokens. The same seed gives the
    same requests, whatever becomes of them.
    """

    schedule: tuple[tuple[float, float], ...]
    input_mean: float
    output_mean: float
    seed: int = 0
    longest: int = 1_000_000  # prompt and answer together

    @property
    def seconds(self) -> float:
        """How long requests arrive."""
        return sum(seconds for seconds, _ in self.schedule)

    def rate_at(self, at: float) -> float:
        """Requests per second expected at an instant."""
        for seconds, rate in self.schedule:
            if at < seconds:
                return rate
            at -= seconds
        return 0.0

    def arrivals(self) -> Iterator[Arrival]:
        """Every request, in order."""
        instants, lengths = random.Random(f"arrivals {self.seed}"), random.Random(f"lengths {self.seed}")
        for at in _poisson(self.schedule, instants):
            prompt = min(_length(lengths, self.input_mean), self.longest - 1)
            output = min(_length(lengths, self.output_mean), self.longest - prompt)
            yield Arrival(at, prompt, output)


def _poisson(schedule: Sequence[tuple[float, float]], rng: random.Random) -> Iterator[float]:
    began = 0.0
    for seconds, rate in schedule:
        at = began
        while rate > 0 and (at := at + rng.expovariate(rate)) < began + seconds:
            yield at
        began += seconds


def _length(rng: random.Random, mean: float) -> int:
    return max(1, round(rng.gammavariate(LENGTH_SHAPE, mean / LENGTH_SHAPE)))
