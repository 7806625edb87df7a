"""Percentiles of what was seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from shoal.domain.profile import Quantiles


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the sorted values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def make_quantiles(values: Iterable[float]) -> Quantiles | None:
    """Mean and percentiles; None when there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Quantiles(
        mean=sum(ordered) / len(ordered),
        p50=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
    )
