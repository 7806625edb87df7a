"""How long one step of an engine takes, from a profile's StepModel and the clock its GPU runs at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shoal.domain.profile import StepModel

SMALL_STEP_TOKENS = 512  # the largest captured graph: steps up to it have the small floor


@dataclass(frozen=True, slots=True)
class Speed:
    """How much slower than its profile an engine runs.

    `clock_ratio` is the profile's clock over the present one: it multiplies beta inside the maximum only, so an engine
    that waits for its CPU loses nothing. `stretch` multiplies whole steps (a fault).
    """

    clock_ratio: float = 1.0
    stretch: float = 1.0


@dataclass(frozen=True, slots=True)
class Stride:
    """So many equal or evenly growing steps in a row, during which nothing joins or leaves the batch.

    Seconds. Step i takes `first + i * growth`.
    """

    start: float
    steps: int
    first: float
    growth: float = 0.0

    def end_of(self, steps: int) -> float:
        """When so many steps are done."""
        return self.start + steps * self.first + self.growth * steps * (steps - 1) / 2

    @property
    def end(self) -> float:
        """When all of them are done."""
        return self.end_of(self.steps)

    def steps_by(self, now: float) -> int:
        """Steps done at `now`."""
        elapsed = now - self.start
        if elapsed <= 0:
            return 0
        half = self.first - self.growth / 2
        root = half + math.sqrt(half * half + 2 * self.growth * elapsed)
        done = min(int(2 * elapsed / root), self.steps)
        while done < self.steps and self.end_of(done + 1) <= now:
            done += 1
        while done > 0 and self.end_of(done) > now:
            done -= 1
        return done


def mixed_seconds(model: StepModel, speed: Speed, *, decoding: int, context: int, prompt_tokens: int) -> float:
    """One step that also computes prompts: `max(alpha + beta*(N+A) + gamma*context, floor)`.

    `context` is the sum over the decoding sequences, `prompt_tokens` is A. The API server's limit on the tokens it can
    stream holds the engine back as well: its output queue is bounded.
    """
    beta = model.beta_ms_per_token * speed.clock_ratio
    tokens = decoding + prompt_tokens
    floor = model.floor_small_ms if tokens <= SMALL_STEP_TOKENS else model.floor_large_ms
    step = max(model.alpha_ms + beta * tokens + model.gamma_ms_per_kv_token * context, floor)
    return max(step * speed.stretch, _api_floor_ms(model, decoding)) / 1000


def make_decode_stride(
    model: StepModel, speed: Speed, *, start: float, steps: int, decoding: int, context: int
) -> Stride:
    """At most `steps` steps that only decode; each adds one token of context to each of the `decoding` sequences."""
    beta = model.beta_ms_per_token * speed.clock_ratio
    first = (model.alpha_ms + beta * decoding + model.gamma_ms_per_kv_token * context) * speed.stretch
    growth = model.gamma_ms_per_kv_token * decoding * speed.stretch
    floor = _api_floor_ms(model, decoding)
    if first >= floor:
        return Stride(start, steps, first / 1000, growth / 1000)
    until_bound = math.ceil((floor - first) / growth) if growth > 0 else steps
    return Stride(start, max(1, min(steps, until_bound)), floor / 1000)


def _api_floor_ms(model: StepModel, decoding: int) -> float:
    return 1000 * decoding / model.api_tokens_per_second if model.api_tokens_per_second else 0.0
