"""Relative errors of many runs in the few numbers that a reader needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Errors:
    """Simulated over real, less one: mean (bias), root of the mean square, and the worst with where it was."""

    runs: int
    bias: float
    rms: float
    worst: float
    worst_at: str

    def to_dict(self) -> dict[str, Any]:
        """What stands in the result file."""
        return {
            "runs": self.runs,
            "bias": round(self.bias, 4),
            "rms": round(self.rms, 4),
            "worst": round(self.worst, 4),
            "worstAt": self.worst_at,
        }


def summarise(errors: Sequence[tuple[str, float]]) -> Errors:
    """Sum up (where, relative error) pairs; at least one."""
    values = [error for _, error in errors]
    where, worst = max(errors, key=lambda pair: abs(pair[1]))
    return Errors(
        len(values), statistics.fmean(values), math.sqrt(statistics.fmean(v * v for v in values)), worst, where
    )


def batch_means(values: Sequence[float], batches: int = 20) -> tuple[float, float]:
    """Mean of a correlated series, and half of its 95 % interval from the means of batches."""
    size = len(values) // batches
    means = [statistics.fmean(values[n * size : (n + 1) * size]) for n in range(batches)]
    student = 2.093  # 97.5 % of Student's t with 19 degrees of freedom
    return statistics.fmean(means), student * statistics.stdev(means) / math.sqrt(batches)
