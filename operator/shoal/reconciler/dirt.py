"""What a change in the store makes dirty: plans, routers, pools."""

from __future__ import annotations

from collections.abc import Callable

from shoal.reconciler.keys import (
    Key,
    PoolKey,
    RouterKey,
    RunKey,
    component_of,
    is_of_kind,
    is_replica_changed,
    is_wish_changed,
    run_of,
    service_of,
)
from shoal.reconciler.kinds import (
    CLAIM,
    CUSTOM,
    DEPLOYMENT,
    GPU_POOL,
    JOB,
    MODEL_PROFILE,
    MODEL_SERVICE,
    POD,
    PROFILE_RUN,
)
from shoal.reconciler.library import is_learned
from shoal.reconciler.planloop import PlanLoop
from shoal.reconciler.store import Change, Store
from shoal.reconciler.workqueue import WorkQueue
from shoal.render.names import COMPONENT_ROUTER, LABEL_COMPONENT


class Dirt:
    """Listens to the store. Own status writes make nothing dirty; what the plan round finds changed goes to the queue.

    Without the lease nothing is queued.
    """

    def __init__(self, store: Store, plans: PlanLoop, queue: WorkQueue[Key], is_leading: Callable[[], bool]) -> None:
        self._store, self._plans, self._queue = store, plans, queue
        self._is_leading = is_leading

    def note(self, change: Change) -> None:
        """Take in one change."""
        if not self._is_leading():
            return
        run = run_of(change)
        if run is not None and is_of_kind(change, PROFILE_RUN, JOB, POD):
            self._note_run(change, run)
        elif is_of_kind(change, JOB):
            return  # somebody's, under our label
        elif is_of_kind(change, *CUSTOM):
            if is_wish_changed(change):
                self._note_wish(change)
        elif is_of_kind(change, DEPLOYMENT, POD):
            self._note_replica(change)
        elif is_changed(change):
            self._note_stock(change)

    def mark_everything(self) -> None:
        """Queue every router, pool and run: we have just begun to lead."""
        self._plans.mark_all()
        for item in self._store.all(PROFILE_RUN):
            self._queue.add(RunKey(item.namespace or "", item.name))
        for item in self._store.all(MODEL_SERVICE):
            self._queue.add(RouterKey(item.namespace or ""))
        self._mark_pools()

    def _note_wish(self, change: Change) -> None:
        if change.kind is MODEL_PROFILE and is_learned(change.item):
            return  # written from what the plans know already; that it was deleted, the next round sees
        if change.kind is not MODEL_SERVICE:
            self._plans.mark_all()
            self._mark_pools()
            return
        key = service_of(change)
        if key is not None:
            self._plans.mark(key)
            self._queue.add(RouterKey(key.namespace))

    def _note_replica(self, change: Change) -> None:
        if not is_replica_changed(change):
            return
        is_router = change.item.labels.get(LABEL_COMPONENT) == COMPONENT_ROUTER
        if is_router and change.kind is DEPLOYMENT and change.new is None:
            self._queue.add(RouterKey(change.item.namespace or ""))
        key = service_of(change)
        if key is not None and component_of(change) != COMPONENT_ROUTER:
            self._plans.mark(key)

    def _note_run(self, change: Change, run: RunKey) -> None:
        """What a run takes from a pool shows in claims and pods; a Job that came or went moves the quota as well."""
        changed = is_wish_changed(change) if is_of_kind(change, PROFILE_RUN) else is_changed(change)
        if changed:
            self._queue.add(run)
        if changed and is_of_kind(change, JOB, POD):
            self._plans.mark_all()

    def _note_stock(self, change: Change) -> None:
        """Nodes, slices, claims, taints, namespaces: whoever may be concerned."""
        key = service_of(change) if change.kind is CLAIM else None
        if key is not None:
            self._plans.mark(key)
        else:
            self._plans.mark_all()
        self._mark_pools()

    def _mark_pools(self) -> None:
        """Soon, not at once: a rollout changes many claims."""
        for item in self._store.all(GPU_POOL):
            self._queue.add_after(PoolKey(item.name), 1.0)


def is_changed(change: Change) -> bool:
    """Whether what was kept of an object is another now; a heartbeat changes nothing."""
    old, new = change.old, change.new
    if old is None or new is None:
        return True
    return (old.body, old.labels, old.deleted_at) != (new.body, new.labels, new.deleted_at)
