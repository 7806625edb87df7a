"""What nobody could do better: the least GPU time that serves a known rate with so many misses.

min sum n_t  with  n_t * C >= (1 - s_t) * lambda_t  and  sum s_t * lambda_t * tick <= misses,
with the same capacity C and start-up as the planner it is compared with: a replica that begins to serve in tick t was
started `startup` before and held its GPU since; before the first start-up has passed only those of the beginning serve.
Replicas may be fractions, so this is a bound below every real schedule, and it is solved exactly as a linear program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Bound:
    """GPU-hours of the bound, and the replicas that serve in each tick."""

    gpu_hours: float
    serving: NDArray[np.float64]


def least_gpu_hours(
    rates: Sequence[float] | NDArray[np.float64],
    *,
    tick_seconds: float,
    capacity: float,
    misses: float,
    startup_seconds: float,
    workers: int,
) -> Bound:
    """The bound for mean rates per tick (requests per second). `workers` serve at the beginning; at least one stays.

    Columns: serving n_t in [1, inf), started u_t >= 0 (serving from tick t on), missed requests m_t in [0, rate].
    Raises ValueError for a capacity that is not positive.
    """
    if capacity <= 0:
        raise ValueError(f"a capacity is more than 0 requests per second, not {capacity}")
    demand = np.asarray(rates, dtype=np.float64)
    ticks = len(demand)
    ahead = round(startup_seconds / tick_seconds)
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    for tick in range(ticks):
        solver.addVar(1.0, highspy.kHighsInf)
        solver.changeColCost(tick, tick_seconds)
    for tick in range(ticks):
        solver.addVar(0.0, highspy.kHighsInf if tick >= ahead else 0.0)
        solver.changeColCost(ticks + tick, startup_seconds)
    for rate in demand:
        solver.addVar(0.0, float(rate) * tick_seconds)
    for tick, rate in enumerate(demand):
        columns = np.array([tick, 2 * ticks + tick], dtype=np.int32)
        values = np.array([capacity * tick_seconds, 1.0])
        solver.addRow(float(rate) * tick_seconds, highspy.kHighsInf, 2, columns, values)
        before = [] if tick == 0 else [tick - 1]
        grown = np.array([tick, ticks + tick, *before], dtype=np.int32)
        signs = np.array([1.0, -1.0, *(-1.0 for _ in before)])
        solver.addRow(-highspy.kHighsInf, float(workers) if tick == 0 else 0.0, len(grown), grown, signs)
    missed = np.arange(2 * ticks, 3 * ticks, dtype=np.int32)
    forced = float(np.maximum(demand[:ahead] - workers * capacity, 0.0).sum() * tick_seconds)
    solver.addRow(-highspy.kHighsInf, max(misses, forced), ticks, missed, np.ones(ticks))
    solver.run()
    solution = np.array(solver.getSolution().col_value)
    return Bound(float(solver.getObjectiveValue()) / 3600, solution[:ticks])


def reactive_ceiling(requests: int, step_rate: float, startup_seconds: float, tick_seconds: float) -> float:
    """Highest attainment of whoever sees a step only when it has come: 1 - rate * (startup + tick) / requests."""
    return 1 - step_rate * (startup_seconds + tick_seconds) / requests
