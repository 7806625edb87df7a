"""Parts of a Snapshot that share no pool: each can be decided by itself."""

from __future__ import annotations

from dataclasses import replace

from shoal.domain.service import Service
from shoal.domain.snapshot import Snapshot


def partition(snapshot: Snapshot) -> tuple[Snapshot, ...]:
    """The snapshot in parts whose services are connected by pools; services without a pool stand alone.

    Deciding the parts gives what deciding the whole gives, except for `brakes.max_concurrent_moves`, which counts
    within one Snapshot.
    """
    leader: dict[str, str] = {}

    def find(pool: str) -> str:
        leader.setdefault(pool, pool)
        while leader[pool] != pool:
            leader[pool] = leader[leader[pool]]
            pool = leader[pool]
        return pool

    for service in snapshot.services:
        pools = _pools_of(service)
        for pool in pools[1:]:
            leader[find(pool)] = find(pools[0])
    groups: dict[str, list[Service]] = {}
    for service in snapshot.services:
        pools = _pools_of(service)
        groups.setdefault(find(pools[0]) if pools else f"/{service.key}", []).append(service)
    return tuple(
        replace(
            snapshot,
            services=tuple(services),
            pools=tuple(pool for pool in snapshot.pools if find(pool.name) == group),
        )
        for group, services in sorted(groups.items())
    )


def _pools_of(service: Service) -> list[str]:
    running = {variant.placement.pool for variant in service.running}
    decided = {placed.placement.pool for placed in service.memory.target or ()}
    return sorted({*service.pools, *running, *decided})
