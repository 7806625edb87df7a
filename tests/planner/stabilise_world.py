"""One service of one shape, for tests of when the target moves."""

from __future__ import annotations

from planner_world import (
    NOW,
    make_pool,
    make_profile,
    make_row,
    place,
)

from shoal.domain.service import Memory, PlacedReplicas
from shoal.planner.ledger import UNBOUNDED, PoolRoom, Room

C = 9.0  # requests per second of one replica alone
POOLED = 10 / 1.08  # of each of several: the knee of 10, less its error
PROFILE = make_profile([make_row(C / 0.9)])
POOL = make_pool(gpus=400)
OPEN = Room({"h100": PoolRoom(UNBOUNDED, groups=(UNBOUNDED,) * 4)})


def memory_of(count, last_move=NOW - 600, **more):
    return Memory((PlacedReplicas(place(), count),), last_move_at=last_move, traffic_seen=True, **more)
