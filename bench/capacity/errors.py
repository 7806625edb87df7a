"""Predictions beside what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """One prediction, and what was measured, in the same unit."""

    case: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative error; above 0: predicted too high."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Errors:
    """All predictions of one kind for one model."""

    kind: str
    model: str
    pairs: tuple[Pair, ...]

    @property
    def mean(self) -> float:
        return sum(pair.error for pair in self.pairs) / len(self.pairs)

    @property
    def rms(self) -> float:
        return math.sqrt(sum(pair.error**2 for pair in self.pairs) / len(self.pairs))

    @property
    def worst(self) -> Pair:
        return max(self.pairs, key=lambda pair: abs(pair.error))

    def to_dict(self) -> dict[str, Any]:
        """As the result file holds it."""
        return {
            "kind": self.kind,
            "model": self.model,
            "count": len(self.pairs),
            "mean": round(self.mean, 4),
            "rms": round(self.rms, 4),
            "worst": round(self.worst.error, 4),
            "worstCase": self.worst.case,
        }
