"""How long replicas took from their node to being ready: what a scale-up has to expect."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from shoal.domain.service import ServiceKey
from shoal.reconciler.items import Item
from shoal.reconciler.keys import service_of
from shoal.reconciler.kinds import POD, Pod
from shoal.reconciler.store import Change
from shoal.render.names import LABEL_VARIANT

_KEPT = 20  # the last start-ups of a service
_ENOUGH = 3  # start-ups of a variant that say more than those of all variants


class Startups:
    """Listens to the store. Only first starts count: a restarted engine finds its model downloaded."""

    def __init__(self) -> None:
        self._seconds: dict[ServiceKey, deque[tuple[str, float]]] = {}

    def note(self, change: Change) -> None:
        """Take in a pod that has just become ready while we watched."""
        if change.kind is not POD or change.old is None or change.new is None:
            return
        key = service_of(change)
        seconds = _first_start(change.old, change.new)
        if key is not None and seconds is not None:
            self._seconds.setdefault(key, deque(maxlen=_KEPT)).append(
                (change.new.labels.get(LABEL_VARIANT, ""), seconds)
            )

    def p90(self, service: ServiceKey, variants: Collection[str] = ()) -> float | None:
        """The time that 9 of 10 start-ups stayed within; None when none was seen.

        Those of the variants named here, where enough were seen: engines over several GPUs take longer.
        """
        seen = self._seconds.get(service, ())
        own = [seconds for variant, seconds in seen if variant in variants]
        known = sorted(own if len(own) >= _ENOUGH else [seconds for _, seconds in seen])
        return known[min(len(known) - 1, int(0.9 * len(known)))] if known else None

    def forget(self, service: ServiceKey) -> None:
        """The service is gone."""
        self._seconds.pop(service, None)


def _first_start(old: Item[Pod], new: Item[Pod]) -> float | None:
    pod = new.body
    if old.body.ready_since is not None or pod.ready_since is None or pod.started_at is None:
        return None
    if any(container.restarts for container in pod.containers):
        return None
    return max(0.0, pod.ready_since - pod.started_at)
