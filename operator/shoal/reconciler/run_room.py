"""Whether a ProfileRun may take GPUs: only what no service needs, now or in its plan. Pure over what was observed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shoal.domain.configuration import Placement
from shoal.domain.plan import Infeasible
from shoal.domain.reasons import Binding
from shoal.domain.service import Mode, Service, ServiceKey
from shoal.reconciler.inventory import Inventory
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import JOB, POD, Job
from shoal.reconciler.planloop import Planned
from shoal.reconciler.store import Store
from shoal.render.names import LABEL_PROFILE_RUN
from shoal.render.recipe import parse_placement

_OF_STOCK: Final = (Binding.STOCK, Binding.PRIORITY)

Plans = Mapping[ServiceKey, Planned]


@dataclass(frozen=True, slots=True)
class Room:
    """GPUs of a pool as one ProfileRun sees them; what it holds itself counts as free.

    `usable`: those of services and the free ones (None: not known). `on_one_node`: most free GPUs of a node.
    `committed`: what services hold or shall hold. `promised`: of other runs, not on a node yet. `limit`, `quota`: what
    the pool and the namespace may use in all (None: unbounded), beside `limit_used`, `quota_used`. `short`: services
    that lack GPUs which the pool could give.
    """

    pool: str
    usable: int | None
    on_one_node: int
    committed: int
    promised: int
    limit: int | None
    limit_used: int
    quota: int | None
    quota_used: int
    short: tuple[str, ...]


def count_profiling(store: Store) -> dict[str, Counter[str]]:
    """Pool -> namespace -> GPUs that ProfileRuns hold there, or wait for with a Job that exists."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for job, placement in _open_jobs(store):
        found[placement.pool][job.namespace or ""] += placement.configuration.gpus_per_replica
    return found


def observe_room(
    store: Store,
    inventory: Inventory,
    plans: Plans,
    *,
    pool: str,
    limit: int | None,
    namespace: str,
    quota: int | None,
    run: str,
) -> Room:
    """See the pool for the ProfileRun `run` of a namespace. `quota`: what the pool allows that namespace."""
    stock, free = inventory.stocks.get(pool), inventory.free.get(pool, {})
    own, others, promised = Counter[str](), Counter[str](), 0
    for job, placement in _open_jobs(store):
        gpus, node = placement.configuration.gpus_per_replica, _node_of(store, job)
        if placement.pool != pool:
            continue
        if (job.namespace, job.labels[LABEL_PROFILE_RUN]) == (namespace, run):
            own[node or ""] += gpus if node else 0
            continue
        others[job.namespace or ""] += gpus
        promised += 0 if node else gpus
    committed = {key: _committed(planned.service, planned, pool) for key, planned in plans.items() if planned.service}
    nodes = free.keys() | own.keys()
    return Room(
        pool=pool,
        usable=None if stock is None else stock.usable + sum(own.values()),
        on_one_node=max((free.get(node, 0) + own[node] for node in nodes), default=0),
        committed=sum(committed.values()),
        promised=promised,
        limit=limit,
        limit_used=sum(committed.values()) + sum(others.values()),
        quota=quota,
        quota_used=sum(gpus for key, gpus in committed.items() if key.namespace == namespace) + others[namespace],
        short=tuple(sorted(_find_short(plans, pool, namespace))),
    )


def explain_shortage(room: Room, gpus: int) -> str | None:
    """Why a run may not have so many GPUs; None: it may."""
    fact = next((found for check in _CHECKS if (found := check(room, gpus)) is not None), None)
    return None if fact is None else f"needs {gpus} GPU{'s' * (gpus > 1)} of pool {room.pool}{fact}"


def _unreadable(room: Room, _: int) -> str | None:
    return ", whose GPUs could not be listed: see the operator's log" if room.usable is None else None


def _services_short(room: Room, _: int) -> str | None:
    others = f" and {len(room.short) - 3} more" if len(room.short) > 3 else ""
    return f", where services are short of GPUs: {', '.join(room.short[:3])}{others}" if room.short else None


def _quota_used(room: Room, gpus: int) -> str | None:
    if room.quota is None or room.quota_used + gpus <= room.quota:
        return None
    return f"; of the namespace's quota of {room.quota} there, {room.quota_used} are used"


def _limit_used(room: Room, gpus: int) -> str | None:
    if room.limit is None or room.limit_used + gpus <= room.limit:
        return None
    return f"; of its maxGPUs {room.limit}, {room.limit_used} are used"


def _nothing_left(room: Room, gpus: int) -> str | None:
    usable = room.usable or 0
    if usable - room.committed - room.promised >= gpus:
        return None
    waiting = f", other runs wait for {room.promised}" if room.promised else ""
    return f"; of {usable} that Shoal may use, services hold or plan {room.committed}{waiting}"


def _scattered(room: Room, gpus: int) -> str | None:
    return f" on one node; at most {room.on_one_node} are free on one" if room.on_one_node < gpus else None


_CHECKS: Final[tuple[Callable[[Room, int], str | None], ...]] = (
    _unreadable,
    _services_short,
    _quota_used,
    _limit_used,
    _nothing_left,
    _scattered,
)


def _open_jobs(store: Store) -> Iterator[tuple[Item[Job], Placement]]:
    """Jobs of ProfileRuns that have not ended, with what they measure."""
    for job in store.all(JOB):
        placement = parse_placement(job.annotations)
        if LABEL_PROFILE_RUN in job.labels and job.body.ended is None and placement is not None:
            yield job, placement


def _node_of(store: Store, job: Item[Job]) -> str | None:
    """Where a Job's pod is bound: its GPUs count as held from then on."""
    return next((pod.body.node for pod in store.all(POD) if pod.owner == job.uid and not pod.body.is_over), None)


def _committed(service: Service, planned: Planned, pool: str) -> int:
    """GPUs that a service holds there or shall hold, whichever is more, of each placement."""
    held: Counter[Placement] = Counter()
    for variant in service.running:
        held[variant.placement] += variant.gpus_held
    target: Counter[Placement] = Counter()
    if planned.decision is not None and service.mode is not Mode.OBSERVE:
        for planned_variant in planned.decision.plan.variants:
            target[planned_variant.placement] += planned_variant.gpus
    return sum(gpus for placement, gpus in (held | target).items() if placement.pool == pool)


def _find_short(plans: Plans, pool: str, namespace: str) -> Iterator[str]:
    for key, planned in plans.items():
        decision, service = planned.decision, planned.service
        if service is None or not isinstance(decision, Infeasible) or pool not in service.pools:
            continue
        quota_binds = decision.binding is Binding.QUOTA and key.namespace == namespace
        if service.mode is not Mode.OBSERVE and (decision.binding in _OF_STOCK or quota_binds):
            yield str(key)
