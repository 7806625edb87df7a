"""What the routers are told, by every replica of the operator alike: engines from pods, weights from the status.

Nothing here asks who leads or what is planned: two replicas that watch the same objects publish the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from shoal.domain.service import ServiceKey
from shoal.reconciler.items import Item
from shoal.reconciler.keys import is_of_kind, is_replica_changed, is_status_plan_changed, is_wish_changed, service_of
from shoal.reconciler.kinds import MODEL_SERVICE, POD, Custom, Pod
from shoal.reconciler.store import Change, Store
from shoal.render.derating import read_deratings
from shoal.render.envoy import LARGEST_WEIGHT, EngineEndpoint, RouterResources, ServiceRoute, make_resources
from shoal.render.names import LABEL_VARIANT, engine_name, engine_port, variant_name

logger = logging.getLogger(__name__)

_DEBOUNCE_SECONDS: Final = 0.02
_ENGINE_PREFIX: Final = engine_name(0).removesuffix("0")


class Publisher(Protocol):
    """Takes what a namespace's routers shall have."""

    def publish(self, namespace: str, resources: RouterResources) -> None:
        """Replace a namespace's configuration. Raises ValueError when Envoy's types refuse it."""

    def forget(self, namespace: str) -> None:
        """The namespace has no routed ModelService any more."""


class Routes:
    """Publishes each namespace shortly after something in it changed, once the store is complete."""

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._complete = False
        store.listen(self._note)

    def complete(self) -> None:
        """The store was listed completely: from now on absence means absence. Publishes everything."""
        self._complete = True
        self._dirty.update(item.namespace or "" for item in self._store.all(MODEL_SERVICE))
        self._wake.set()

    async def run(self) -> None:
        """Publish what changed, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_DEBOUNCE_SECONDS)
            self._wake.clear()
            self.publish_dirty()

    def publish_dirty(self) -> None:
        """Publish the namespaces that changed since the last call."""
        if not self._complete:
            return
        dirty, self._dirty = self._dirty, set()
        for namespace in dirty:
            routes = tuple(self._make_routes(namespace))
            try:
                if routes:
                    self._publisher.publish(namespace, make_resources(namespace, routes))
                else:
                    self._publisher.forget(namespace)
            except ValueError:
                logger.exception("the routes of %s cannot be published", namespace)

    def _note(self, change: Change) -> None:
        concerned = (is_of_kind(change, POD) and is_replica_changed(change)) or (
            is_of_kind(change, MODEL_SERVICE) and (is_wish_changed(change) or is_status_plan_changed(change))
        )
        if concerned and (key := service_of(change)) is not None:
            self._dirty.add(key.namespace)
            self._wake.set()

    def _make_routes(self, namespace: str) -> Iterator[ServiceRoute]:
        for item in self._store.all(MODEL_SERVICE):
            if item.namespace == namespace and is_routed(item):
                pods = self._store.of_service(POD, namespace, item.name)
                yield make_route(item, pods)


def is_routed(item: Item[Custom]) -> bool:
    """Whether requests of the ModelService come through Envoy."""
    return (item.body.raw.get("spec") or {}).get("routing") != "Service"


def key_of(item: Item[Any]) -> ServiceKey:
    """Namespace and name of a ModelService."""
    return ServiceKey(item.namespace or "", item.name)


def make_route(item: Item[Custom], pods: list[Item[Pod]]) -> ServiceRoute:
    """The route of one ModelService: every engine that is ready, and those that finish their requests."""
    status = item.body.raw.get("status") or {}
    weights = _read_weights(status)
    deratings = read_deratings(status)
    fallback = min(weights.values(), default=float(LARGEST_WEIGHT))
    shares: dict[tuple[str, int, bool], float] = {}
    for pod in pods:
        name = variant_name(item.name, pod.labels.get(LABEL_VARIANT, ""))
        share = weights.get(name, fallback) * deratings.get(pod.name, 1.0)
        draining = pod.deleted_at is not None
        for index, ready in engines_of(pod.body):
            if pod.body.address and (ready or draining):
                shares[pod.body.address, engine_port(index), draining] = share
    slo = (item.body.raw.get("spec") or {}).get("slo") or {}
    return ServiceRoute(name=item.name, engines=_make_endpoints(shares), ttft_ms=slo.get("ttftMilliseconds"))


def engines_of(pod: Pod) -> list[tuple[int, bool]]:
    """(index, ready) of every engine of a pod: by container, so that one that crashed hides only itself."""
    return [
        (int(container.name.removeprefix(_ENGINE_PREFIX)), container.ready)
        for container in pod.containers
        if not pod.is_over
        and container.name.startswith(_ENGINE_PREFIX)
        and container.name.removeprefix(_ENGINE_PREFIX).isdigit()
    ]


def _make_endpoints(shares: Mapping[tuple[str, int, bool], float]) -> tuple[EngineEndpoint, ...]:
    largest = max((share for (_, _, draining), share in shares.items() if not draining), default=0.0) or 1.0
    return tuple(
        EngineEndpoint(
            address=address,
            port=port,
            weight=max(1, min(LARGEST_WEIGHT, round(LARGEST_WEIGHT * share / largest))),
            draining=draining,
        )
        for (address, port, draining), share in sorted(shares.items())
    )


def _read_weights(status: Mapping[str, Any]) -> dict[str, float]:
    """Variant -> what one engine of it carries, undimmed."""
    variants = (status.get("plan") or {}).get("variants") or ()
    found = {variant["name"]: float(variant.get("capacityPerEngine") or 0.0) for variant in variants}
    return {name: rate for name, rate in found.items() if rate > 0}
