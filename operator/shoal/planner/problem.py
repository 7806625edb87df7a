"""The choice of one plan for each service as arrays, and what its solvers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SLACK: Final = 1e-9  # rows are whole GPUs: less than this beyond a capacity is rounding

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Problem:
    """Choose one plan for each service: least cost in all, every row within its capacity.

    `costs` [services, plans], infinite where a service has no such plan; `uses` [services, plans, rows], never
    negative; `capacity` [rows].
    """

    costs: Floats
    uses: Floats
    capacity: Floats

    @property
    def services(self) -> int:
        """How many services there are."""
        return int(self.costs.shape[0])

    @property
    def possible(self) -> bool:
        """Whether every service has a plan, and no row is overdrawn to begin with."""
        return bool(np.isfinite(self.costs).any(axis=1).all() and (self.capacity >= -SLACK).all())

    def load(self, plans: Indices) -> Floats:
        """What these plans take of every row."""
        taken: Floats = self.uses[np.arange(self.services), plans].sum(axis=0)
        return taken

    def cost(self, plans: Indices) -> float:
        """What these plans cost together."""
        return float(self.costs[np.arange(self.services), plans].sum())

    def fits(self, plans: Indices) -> bool:
        """Whether every row holds what these plans take."""
        return bool((self.load(plans) <= self.capacity + SLACK).all())


@dataclass(frozen=True)
class Chosen:
    """One plan for each service. `bound`: no choice costs less. `prices`: of the rows, to begin a similar problem."""

    plans: tuple[int, ...]
    cost: float
    bound: float
    exact: bool
    prices: tuple[float, ...] = ()


def cheapest_of_all(problem: Problem) -> Chosen | None:
    """Everybody's own cheapest plan, if that fits: then nothing is to be chosen jointly."""
    plans = problem.costs.argmin(axis=1)
    if not problem.fits(plans):
        return None
    cost = problem.cost(plans)
    return Chosen(tuple(int(plan) for plan in plans), cost, cost, exact=True, prices=(0.0,) * len(problem.capacity))
