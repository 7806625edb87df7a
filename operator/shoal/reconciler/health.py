"""What makes a replica unfit. Being unable to reach the API server for a while is none of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shoal.reconciler.clock import steady
from shoal.reconciler.workqueue import WorkQueue

# Above any outage worth waiting out: a restart helps against a stuck process, not against an API server that is away.
STUCK_SECONDS: Final = 600.0


def find_illness(
    *, queue: WorkQueue[Any], listed_at: float | None, interval: float, started_at: float, leading: bool
) -> Mapping[str, str]:
    """Why this process should be restarted; empty: it should not. Instants are on the steady clock."""
    now, wrong = steady(), {}
    listed = now - (started_at if listed_at is None else listed_at)
    if listed > STUCK_SECONDS + interval:
        wrong["list"] = f"nothing could be listed for {listed:.0f} s"
    waited = now - queue.stats.advanced_at
    if leading and queue.oldest_wait > STUCK_SECONDS and waited > STUCK_SECONDS:
        wrong["queue"] = f"{queue.depth} keys wait and none was taken for {waited:.0f} s"
    return wrong


def find_unreadiness(*, listed: bool) -> Mapping[str, str]:
    """Why this process cannot serve routers yet; empty: it can."""
    return {} if listed else {"list": "not everything was listed yet"}
