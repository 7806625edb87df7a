"""The joint choice by branch and bound (HiGHS): exact for few services, and the oracle of the tests.

One thread, a fixed seed, limits on nodes and simplex iterations and none on time: the answer does not depend on how
fast or busy the machine is. Of several choices that cost the same HiGHS may return any, so plans are made to differ
by less than a cent in a million per hour, in the order in which they are given.
"""

from __future__ import annotations

from typing import Final

import highspy
import numpy as np

from shoal.planner.problem import Chosen, Floats, Indices, Problem

MOST_NODES: Final = 2_000
MOST_ITERATIONS: Final = 200_000
TIE: Final = 1e-8  # relative cost by which a plan gives way to one named before it


def solve_exactly(problem: Problem, known: Chosen | None = None) -> Chosen | None:
    """The cheapest choice that fits; `known` (or None) where the limits were reached before anything better was found.

    None: nothing fits.
    """
    services, plans = np.nonzero(np.isfinite(problem.costs))
    costs = problem.costs[services, plans]
    scale = float(np.abs(costs).max(initial=0.0)) or 1.0
    solver = make_solver()
    solver.passModel(_make_model(problem, services, plans, costs / scale + TIE * plans))
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return None
    values = np.array(solver.getSolution().col_value)
    if status != highspy.HighsModelStatus.kOptimal or values.size != costs.size:
        return known
    chosen = np.zeros(problem.services, dtype=np.intp)
    taken = values > 0.5
    chosen[services[taken]] = plans[taken]
    if int(taken.sum()) != problem.services or not problem.fits(chosen):
        return known
    cost = problem.cost(chosen)
    return Chosen(tuple(int(plan) for plan in chosen), cost, cost, exact=True, prices=known.prices if known else ())


class _Quiet(highspy.Highs):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def enableCallbacks(self) -> None:  # noqa: N802 - HiGHS's own name
        """Nothing listens; to enable them prints a banner on standard output, before it can be silenced."""


def make_solver() -> highspy.Highs:
    """A silent solver whose answers do not depend on the machine's speed."""
    solver = _Quiet()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("parallel", "off")
    solver.setOptionValue("random_seed", 0)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", TIE / 10)
    solver.setOptionValue("mip_max_nodes", MOST_NODES)
    solver.setOptionValue("simplex_iteration_limit", MOST_ITERATIONS)
    return solver


def _make_model(problem: Problem, services: Indices, plans: Indices, costs: Floats) -> highspy.HighsLp:
    """Binary columns, one for each plan; a row for each service (one plan) and for each shared row (its capacity)."""
    uses = problem.uses[services, plans]
    columns, rows = len(costs), problem.services + len(problem.capacity)
    entries = (uses != 0).sum(axis=1) + 1
    starts = np.concatenate([[0], np.cumsum(entries)]).astype(np.int32)
    index, value = [], []
    for column in range(columns):
        used = np.flatnonzero(uses[column])
        index += [int(services[column]), *(problem.services + used).tolist()]
        value += [1.0, *uses[column, used].tolist()]
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = columns, rows
    model.col_cost_ = costs
    model.col_lower_, model.col_upper_ = np.zeros(columns), np.ones(columns)
    model.row_lower_ = np.concatenate([np.ones(problem.services), np.full(len(problem.capacity), -highspy.kHighsInf)])
    model.row_upper_ = np.concatenate([np.ones(problem.services), problem.capacity])
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = starts, np.array(index), np.array(value)
    model.integrality_ = [highspy.HighsVarType.kInteger] * columns
    return model
