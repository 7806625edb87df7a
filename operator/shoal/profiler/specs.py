"""What is measured: settings of a whole measurement, and of each of its steps."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
from dataclasses import dataclass
from typing import Any, Final

from shoal.profiler.errors import ProfilerError
from shoal.profiler.lengths import LengthSource, parse_lengths

DRAIN_SECONDS: Final = 15.0  # requests of a window may take so much longer than it
STEP_OVERHEAD_SECONDS: Final = 2.0  # between two steps: until the server is idle, start of the next


class Kind(enum.StrEnum):
    """How requests are sent."""

    OPEN = "open"  # Poisson, whatever becomes of the answers
    CLOSED = "closed"  # so many connections, each one request after the other
    BURST = "burst"  # all at once


@dataclass(frozen=True, slots=True)
class Objective:
    """An SLO: at this percentile of requests, in milliseconds. None: not asked for."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    percentile: int = 95

    @property
    def allowed(self) -> float:
        """Share of the requests that may be late."""
        return (100 - self.percentile) / 100

    @property
    def is_set(self) -> bool:
        """Whether anything is asked for."""
        return self.ttft_ms is not None or self.itl_ms is not None


@dataclass(frozen=True, slots=True)
class Spec:
    """One step: requests for `warm_up` seconds, then for `seconds` that count. `rate` is of all engines together."""

    name: str
    kind: Kind
    seconds: float
    warm_up: float
    seed: int
    lengths: str
    rate: float | None = None
    connections: int = 0

    @property
    def key(self) -> str:
        """Tells steps apart in a journal."""
        load = f"{self.rate:.6g}/s" if self.rate is not None else str(self.connections)
        return f"{self.name} {load} seed {self.seed}"

    @property
    def expected_seconds(self) -> float:
        """Time it takes, about."""
        return self.warm_up + self.seconds + STEP_OVERHEAD_SECONDS

    @property
    def source(self) -> LengthSource:
        """Its lengths."""
        return parse_lengths(self.lengths)

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return dataclasses.asdict(self) | {"kind": str(self.kind)}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Spec:
        """From the journal."""
        return cls(**{**given, "kind": Kind(given["kind"])})


@dataclass(frozen=True, slots=True)
class Settings:
    """What one configuration is measured with.

    `batch` is max_num_seqs of one engine, `engines` how many carry the load, `longest` the most tokens of prompt and
    answer, `kv_cache_tokens` what one engine holds (None: unknown). Seconds; `tolerance` is how wide (high/low - 1)
    the bracket around the knee may stay.
    """

    lengths: str
    objective: Objective
    batch: int = 256
    chunk: int = 2048
    engines: int = 1
    longest: int = 2048
    horizon: float = 60.0
    warm_up: float = 10.0
    probe_seconds: float = 10.0
    budget_seconds: float = 600.0
    tolerance: float = 0.08
    seed: int = 1
    repeats: int = 2
    probes: bool = True
    burst: bool = False
    most_lag_ms: float = 5.0
    kv_cache_tokens: float | None = None

    @property
    def noise(self) -> float:
        """Two relative standard errors of a rate, times its root: what one window of a Poisson stream leaves open."""
        variation = _variation(self.lengths, self.longest)
        return 2 * math.sqrt((1 + variation**2) / self.horizon)

    @property
    def key(self) -> dict[str, Any]:
        """What must be the same for a journal to be continued; the budget may grow."""
        values = dataclasses.asdict(self)
        for name in ("budget_seconds", "repeats", "probes", "burst", "most_lag_ms", "kv_cache_tokens"):
            del values[name]
        return values


@functools.lru_cache(maxsize=64)
def _variation(lengths: str, longest: int) -> float:
    return parse_lengths(lengths).variation(longest)


_SLO_PARTS: Final = {"ttft": "ttft_ms", "itl": "itl_ms", "p": "percentile"}


def parse_objective(text: str) -> Objective:
    """`ttft=500,itl=40,p=95`: milliseconds and percent; each may be left out. Raises ProfilerError."""
    values: dict[str, float] = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        name, _, number = part.partition("=")
        try:
            values[_SLO_PARTS[name]] = float(number)
        except (KeyError, ValueError):
            raise ProfilerError(f"objective {part!r}: write ttft=500,itl=40,p=95 (milliseconds, percent)") from None
    percentile = values.pop("percentile", 95)
    if not 50 <= percentile <= 99 or any(value <= 0 for value in values.values()):
        raise ProfilerError(f"objective {text!r}: p is 50 to 99, times are above 0")
    return Objective(values.get("ttft_ms"), values.get("itl_ms"), int(percentile))
