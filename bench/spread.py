"""Many runs of one measurement, and what a reader needs to know of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Statistic = Literal["median", "p95", "max"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median, 95th percentile and largest of `count` values, all in the figure's unit."""

    count: int
    min: float
    median: float
    p95: float
    max: float

    def to_dict(self) -> dict[str, Any]:
        """What stands in a result file."""
        rounded = {name: round_to_digits(getattr(self, name)) for name in ("min", "median", "p95", "max")}
        return {"count": self.count, **rounded}


def make_spread(values: Sequence[float]) -> Spread:
    """Summarise at least one value. Raises ValueError for none: nothing measured is not zero."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return Spread(
        len(ordered), ordered[0], compute_quantile(ordered, 0.5), compute_quantile(ordered, 0.95), ordered[-1]
    )


def compute_quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie, linear between two of them (Hyndman and Fan's type 7)."""
    at = share * (len(ordered) - 1)
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def round_to_digits(value: float, digits: int = 4) -> float:
    """Round to so many significant digits: more are noise in every figure here."""
    return float(f"{value:.{digits}g}")


@dataclass(frozen=True, slots=True)
class Target:
    """What is promised: a statistic of the figure stays below `below`."""

    below: float
    statistic: Statistic = "median"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. No target: told for information."""

    name: str
    unit: str
    spread: Spread
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        value: float = getattr(self.spread, self.target.statistic)
        return value < self.target.below

    def to_dict(self) -> dict[str, Any]:
        """What stands in a result file."""
        entry: dict[str, Any] = {"name": self.name, "unit": self.unit, "spread": self.spread.to_dict()}
        if self.target is not None:
            entry["target"] = {"statistic": self.target.statistic, "below": self.target.below}
            entry["met"] = self.met
        return entry


def make_figure(name: str, unit: str, values: Sequence[float], target: Target | None = None) -> Figure:
    """A figure from its single measurements. Raises ValueError for none."""
    return Figure(name, unit, make_spread(values), target)
