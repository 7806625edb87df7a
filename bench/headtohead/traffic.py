"""Seeded arrivals, and the trace files the simulator replays."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID_SECONDS = 1.0  # the rate is taken as constant within
HASH_BLOCK = 512  # prompt tokens for each hash of a block: each is new, so that nothing is found in a prefix cache
LENGTH_SIGMA = 0.5  # of the lognormal request lengths: p95 is 2.0 times the mean

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shape:
    """A rate over time: pieces that each run from one rate to another (requests per second), or a sine.

    `noise`: within each `noise_seconds` the rate is off by a factor drawn evenly from 1 +- noise.
    """

    pieces: tuple[tuple[float, float, float], ...] = ()  # seconds, rate at the start, rate at the end
    sine: tuple[float, float, float, float] | None = None  # seconds, mean, amplitude, period
    noise: float = 0.0
    noise_seconds: float = 60.0

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.sine[0] if self.sine else sum(seconds for seconds, _, _ in self.pieces)

    def rates(self) -> Floats:
        """The mean rate in every second, without noise."""
        at = np.arange(round(self.seconds / GRID_SECONDS)) * GRID_SECONDS + GRID_SECONDS / 2
        if self.sine:
            _, mean, amplitude, period = self.sine
            return np.asarray(mean - amplitude * np.cos(2 * math.pi * at / period), dtype=np.float64)
        ends = np.cumsum([seconds for seconds, _, _ in self.pieces])
        rates = np.empty_like(at)
        for (seconds, first, last), end in zip(self.pieces, ends, strict=True):
            inside = (at >= end - seconds) & (at < end)
            rates[inside] = first + (last - first) * (at[inside] - end + seconds) / seconds
        return rates


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean prompt and answer of lognormal request lengths."""

    prompt: float
    answer: float

    @property
    def tail(self) -> float:
        """95th percentile over mean."""
        return math.exp(1.6449 * LENGTH_SIGMA - LENGTH_SIGMA**2 / 2)


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of arrival: milliseconds, prompt and answer tokens. `seconds`: how long traffic lasts."""

    at_ms: Floats
    prompts: NDArray[np.int64]
    answers: NDArray[np.int64]
    seconds: float

    def __len__(self) -> int:
        return len(self.at_ms)


def make_shape(spec: Mapping[str, Any]) -> Shape:
    """A shape as the plan file writes it."""
    sine = spec.get("sine")
    return Shape(
        pieces=tuple((float(s), float(a), float(b)) for s, a, b in spec.get("pieces", ())),
        sine=(float(sine["seconds"]), float(sine["mean"]), float(sine["amplitude"]), float(sine["period"]))
        if sine
        else None,
        noise=float(spec.get("noise", 0.0)),
    )


def make_trace(shape: Shape, lengths: Lengths, seed: int) -> Trace:
    """Poisson arrivals with that rate, the first one at 0 (the simulator counts time from the first arrival)."""
    random = np.random.default_rng(seed)
    rates = shape.rates()
    if shape.noise:
        per = round(shape.noise_seconds / GRID_SECONDS)
        factors = random.uniform(1 - shape.noise, 1 + shape.noise, size=-(-len(rates) // per))
        rates = rates * np.repeat(factors, per)[: len(rates)]
    counts = random.poisson(rates * GRID_SECONDS)
    at = np.repeat(np.arange(len(rates)) * GRID_SECONDS, counts) + random.random(int(counts.sum())) * GRID_SECONDS
    at = np.sort(at) * 1000
    if len(at):
        at[0] = 0.0
    prompts, answers = (_lognormal(random, mean, len(at)) for mean in (lengths.prompt, lengths.answer))
    return Trace(at, np.maximum(prompts, 8), np.maximum(answers, 2), shape.seconds)


def write_trace(trace: Trace, path: Path) -> None:
    """As the Mooncake JSON lines that the simulator reads."""
    with path.open("w") as file:
        for number, (at, prompt, answer) in enumerate(zip(trace.at_ms, trace.prompts, trace.answers, strict=True)):
            blocks = -(-int(prompt) // HASH_BLOCK)
            row = {
                "timestamp": float(at),
                "input_length": int(prompt),
                "output_length": int(answer),
                "hash_ids": list(range(number * 1000, number * 1000 + blocks)),
            }
            file.write(json.dumps(row) + "\n")


def arrivals_per_tick(trace: Trace, tick_seconds: float) -> Sequence[float]:
    """Counts of arrivals in each tick of the trace."""
    ticks = round(trace.seconds / tick_seconds)
    return [float(n) for n in np.histogram(trace.at_ms / 1000, bins=ticks, range=(0, ticks * tick_seconds))[0]]


def _lognormal(random: np.random.Generator, mean: float, count: int) -> NDArray[np.int64]:
    values = random.lognormal(math.log(mean) - LENGTH_SIGMA**2 / 2, LENGTH_SIGMA, count)
    return np.asarray(np.round(values), dtype=np.int64)
