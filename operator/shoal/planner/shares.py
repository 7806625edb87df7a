"""The rows that services share, as numbers: what is left of each, and what a plan takes of them.

For every pool: its GPUs, the groups of 2, 4 and 8 linked GPUs (`sum over groups of at least k GPUs of g/k <= sum over
islands of floor(free/k)`), its limit, and the quota of every namespace that has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from shoal.domain.configuration import Placement
from shoal.domain.pool import Pool
from shoal.domain.service import ServiceKey
from shoal.planner.ledger import GROUPS, Ledger, groups_taken
from shoal.planner.problem import Floats, Problem

ROWS_OF_POOL: Final = len(GROUPS) + 2  # GPUs, groups of 1 (the same, padded), 2, 4, 8, and the limit
Counts = Mapping[Placement, int]


class Shares:
    """Names of the rows, and what one replica takes of them."""

    def __init__(self, pools: Iterable[Pool], namespaces: Iterable[str]) -> None:
        self.pools = {pool.name: place * ROWS_OF_POOL for place, pool in enumerate(pools)}
        self.quotas: dict[tuple[str, str], int] = {}
        at = len(self.pools) * ROWS_OF_POOL
        spaces = sorted(set(namespaces))
        for pool in pools:
            bounded = {admission.namespace for admission in pool.admissions if admission.gpu_quota is not None}
            for namespace in spaces:
                if namespace in bounded:
                    self.quotas[pool.name, namespace] = at
                    at += 1
        self.rows = at
        self._kinds: dict[tuple[str, int, str], int] = {}
        self._vectors: list[Floats] = []

    def left(self, ledger: Ledger) -> Floats:
        """What is left of every row beside what is written down. Unreadable pools bound nothing here."""
        left = np.zeros(self.rows)
        for pool, at in self.pools.items():
            room = ledger.room(ServiceKey("", ""), [pool], limit=None, beside_own=True).pools[pool]
            readable = ledger.is_readable(pool)
            left[at : at + ROWS_OF_POOL] = [room.stock if readable else np.inf, *room.groups, max(0, room.pool_limit)]
        for (pool, namespace), at in self.quotas.items():
            room = ledger.room(ServiceKey(namespace, ""), [pool], limit=None, beside_own=True).pools[pool]
            left[at] = max(0, room.quota)
        bounded: Floats = np.minimum(left, 1e9)
        return bounded

    def taken(self, namespace: str, plans: Sequence[Counts], pinned: Counts) -> Floats:
        """What each plan takes of every row [plans, rows] beyond what is pinned, never less than nothing."""
        entries = [
            (line, kind, count)
            for line, plan in enumerate([*plans, pinned])
            for placement, count in plan.items()
            if (kind := self._kind(placement, namespace)) is not None
        ]
        if not entries:
            return np.zeros((len(plans), self.rows))
        counts = np.zeros((len(plans) + 1, len(self._vectors)))
        for line, kind, count in entries:
            counts[line, kind] += count
        rows = counts @ np.array(self._vectors)
        beyond: Floats = np.maximum(0.0, rows[:-1] - rows[-1])
        return beyond

    def _kind(self, placement: Placement, namespace: str) -> int | None:
        at = self.pools.get(placement.pool)
        if at is None:
            return None
        gpus = placement.configuration.gpus_per_replica
        key = (placement.pool, gpus, namespace)
        if key not in self._kinds:
            vector = np.zeros(self.rows)
            vector[at : at + ROWS_OF_POOL] = [gpus, *groups_taken({gpus: 1}), gpus]
            quota = self.quotas.get((placement.pool, namespace))
            if quota is not None:
                vector[quota] = gpus
            self._kinds[key] = len(self._vectors)
            self._vectors.append(vector)
        return self._kinds[key]


def stack(costs: Sequence[Sequence[float]], uses: Sequence[Floats], capacity: Floats) -> Problem:
    """One problem from the plans of each service, padded to the longest list."""
    width = max((len(own) for own in costs), default=1)
    all_costs = np.full((len(costs), max(width, 1)), np.inf)
    all_uses = np.zeros((len(costs), max(width, 1), len(capacity)))
    for place, (own, taken) in enumerate(zip(costs, uses, strict=True)):
        all_costs[place, : len(own)] = own
        all_uses[place, : len(own)] = taken
    bounding = all_uses.max(axis=1, initial=0.0).sum(axis=0) > capacity
    return Problem(all_costs, all_uses[:, :, bounding], capacity[bounding])
