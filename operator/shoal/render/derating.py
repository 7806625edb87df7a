"""How slow GPUs are, as a status tells it: routers' weights are made from it, so that it must not be old."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# One and a half steps of the grid of clocks: a clock that flaps between two of them is not told each time.
TOLD_FROM: Final = 0.075


def read_deratings(status: Mapping[str, Any]) -> dict[str, float]:
    """Pod -> share of its capacity that is left, of its slowest GPU. Pods of which nothing is known are left out."""
    lowest: dict[str, float] = {}
    for use in status.get("gpus") or ():
        if use.get("derating") is not None:
            lowest[use["pod"]] = min(lowest.get(use["pod"], 1.0), float(use["derating"]))
    return lowest


def has_heat_changed(told: Mapping[str, float], now: Mapping[str, float]) -> bool:
    """Whether a pod has so much more or less left than was told that its weight should follow at once."""
    return any(abs(left - told.get(pod, 1.0)) >= TOLD_FROM for pod, left in now.items())
