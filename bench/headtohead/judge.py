"""Who was better: paired intervals over seeds, and domination."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T95: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run on the two axes that count."""

    attainment: float
    gpu_hours: float


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean; of one value alone the interval is infinite."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Interval(mean, -math.inf, math.inf)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = _T95[min(count - 1, len(_T95)) - 1] * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Ours minus theirs on the seeds that both have."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise ValueError("no seed was run by both")
    return interval([ours[seed] - theirs[seed] for seed in seeds])


def dominates(one: Outcome, other: Outcome) -> bool:
    """Whether `one` is better on both axes."""
    return one.attainment > other.attainment and one.gpu_hours < other.gpu_hours


def pick_tuned(candidates: Sequence[Outcome], ours: Outcome, budget: float) -> int:
    """Index of the highest attainment within `budget` times our GPU-hours; if there is none, of the cheapest."""
    within = [i for i, c in enumerate(candidates) if c.gpu_hours <= budget * ours.gpu_hours]
    if within:
        return max(within, key=lambda i: (candidates[i].attainment, -candidates[i].gpu_hours))
    return min(range(len(candidates)), key=lambda i: (candidates[i].gpu_hours, -candidates[i].attainment))
