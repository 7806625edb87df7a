"""The joint choice by prices of the shared rows: Lagrangian relaxation, then repair, then improvement.

For prices p >= 0 of the rows, `L(p) = sum over services of min over plans (cost + p * use) - p * capacity` is a bound
below the cost of every choice that fits. Subgradient steps of Polyak's length raise it; a fixed number of them, so that
the answer does not depend on the machine's speed. The choice at the best prices seldom fits exactly: the repair gives
rows back where that costs least per GPU freed, and the improvement then takes every cheaper plan that still fits.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from shoal.planner.problem import SLACK, Chosen, Floats, Indices, Problem

STEPS: Final = 80
PATIENCE: Final = 6  # steps without a better bound after which the step is halved
CLOSE_ENOUGH: Final = 2e-4  # relative gap at which prices are good enough
ROUNDS: Final = 12  # of repair, and of improvement: each looks at all plans once
MOST_CHANGES: Final = 4  # plans looked at in a round, for each service on average
FREE: Final = 1e-6  # money per hour: so little counts what takes nothing that has a price
REPAIR_AT: Final = (0, 3, 10, 25, 45)  # steps at which a choice is made to fit, besides the last


def solve_by_prices(problem: Problem, start: Floats | None = None) -> Chosen | None:
    """A choice that fits and a bound; None when no choice was found that fits."""
    size = np.maximum(problem.capacity, 1.0)
    prices = np.zeros_like(problem.capacity) if start is None else start.copy()
    best_prices, bound, found = prices, -np.inf, None
    dearest = float(np.where(np.isfinite(problem.costs), problem.costs, -np.inf).max(axis=1).sum())
    theta, stale = 1.0, 0
    for step in range(STEPS):
        plans = (problem.costs + problem.uses @ prices).argmin(axis=1)
        load = problem.load(plans)
        value = problem.cost(plans) + float(prices @ (load - problem.capacity))
        if value > bound + 1e-12:
            bound, best_prices, stale = value, prices, 0
        else:
            stale += 1
            theta, stale = (theta / 2, 0) if stale >= PATIENCE else (theta, stale)
        if step in REPAIR_AT:
            found = _better(problem, found, _made_to_fit(problem, plans, prices))
        upper = problem.cost(found) if found is not None else dearest
        if upper - bound <= CLOSE_ENOUGH * abs(upper):
            break
        slope = (load - problem.capacity) / size
        slope[(prices <= 0) & (slope < 0)] = 0.0
        length = float(slope @ slope)
        if length == 0.0:
            break
        prices = np.maximum(0.0, prices + theta * max(upper - value, 0.0) / length * slope / size)
    plans = (problem.costs + problem.uses @ best_prices).argmin(axis=1)
    found = _better(problem, found, _made_to_fit(problem, plans, best_prices))
    if found is None:
        return None
    cost = problem.cost(found)
    bound = min(bound, cost)
    exact = cost - bound <= 1e-9 * max(1.0, abs(cost))
    return Chosen(tuple(int(plan) for plan in found), cost, bound, exact, tuple(float(p) for p in best_prices))


def _better(problem: Problem, one: Indices | None, other: Indices | None) -> Indices | None:
    if one is None or other is None:
        return one if other is None else other
    return other if problem.cost(other) < problem.cost(one) - 1e-12 else one


def _made_to_fit(problem: Problem, plans: Indices, prices: Floats) -> Indices | None:
    repaired = _repair(problem, plans.copy(), prices)
    return None if repaired is None else improve(problem, repaired, prices)


def _repair(problem: Problem, plans: Indices, prices: Floats) -> Indices | None:
    """Change plans until every row holds them: least regret per GPU freed first. None when that does not end well."""
    worth = problem.costs + problem.uses @ prices
    everyone = np.arange(problem.services)
    for _ in range(ROUNDS):
        load = problem.load(plans)
        excess = np.maximum(load - problem.capacity, 0.0)
        if excess.max(initial=0.0) <= SLACK:
            return plans
        own = problem.uses[everyone, plans][:, None, :]
        freed = np.minimum(own - problem.uses, excess).clip(min=0.0).sum(axis=2)
        regret = worth - worth[everyone, plans][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            merit = np.where((freed > SLACK) & np.isfinite(regret), regret / freed, np.inf)
        if not _take_in_order(problem, plans, load, merit, only_saving=False):
            return None
    return plans if problem.fits(plans) else None


def improve(problem: Problem, plans: Indices, prices: Floats) -> Indices:
    """Take cheaper plans that still fit, the largest saving for the price of what they take first, until none does."""
    everyone = np.arange(problem.services)
    for _ in range(ROUNDS):
        load = problem.load(plans)
        own = problem.uses[everyone, plans][:, None, :]
        saving = problem.costs[everyone, plans][:, None] - problem.costs
        fits = ((load - own + problem.uses) <= problem.capacity + SLACK).all(axis=2)
        taken = np.maximum(problem.uses - own, 0.0) @ prices
        merit = np.where(fits & (saving > 1e-12), -saving / (taken + FREE), np.inf)
        if not _take_in_order(problem, plans, load, merit, only_saving=True):
            break
    return plans


def _take_in_order(problem: Problem, plans: Indices, load: Floats, merit: Floats, *, only_saving: bool) -> bool:
    """Change each service's plan at most once, least merit first, where that helps; whether anything changed."""
    flat = merit.ravel()
    order = np.flatnonzero(np.isfinite(flat))
    order = order[np.argsort(flat[order], kind="stable")][: MOST_CHANGES * problem.services]
    done: set[int] = set()
    changed = False
    for place in order:
        service, plan = divmod(int(place), problem.costs.shape[1])
        if service in done:
            continue
        after = load - problem.uses[service, plans[service]] + problem.uses[service, plan]
        over = np.maximum(after - problem.capacity, 0.0).sum()
        before = np.maximum(load - problem.capacity, 0.0).sum()
        if not (over <= SLACK if only_saving else over < before - SLACK):
            continue
        load[:] = after
        plans[service] = plan
        done.add(service)
        changed = True
        if not only_saving and over <= SLACK:
            break
    return changed
