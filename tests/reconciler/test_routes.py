"""What the routers are told of pods and statuses."""

from __future__ import annotations

import asyncio
from typing import Any

from objects import add_pod, add_service, make_engine_pod, make_service, make_store, put, until

from shoal.reconciler.items import make_item
from shoal.reconciler.kinds import MODEL_SERVICE, POD
from shoal.reconciler.routes import Routes, make_route
from shoal.reconciler.store import Store
from shoal.reconciler.targets import make_targets
from shoal.render.envoy import EngineEndpoint, RouterResources

GONE = {"deletionTimestamp": "2026-11-22T11:00:00Z"}


class Publisher:
    def __init__(self) -> None:
        self.published: list[tuple[str, RouterResources]] = []
        self.forgotten: list[str] = []

    def publish(self, namespace: str, resources: RouterResources) -> None:
        self.published.append((namespace, resources))

    def forget(self, namespace: str) -> None:
        self.forgotten.append(namespace)

    def endpoints(self) -> list[tuple[str, int, str]]:
        """Address, port and health of the last published engines."""
        (load,) = self.published[-1][1].endpoints
        found = []
        for group in load["endpoints"]:
            for endpoint in group["lb_endpoints"]:
                address = endpoint["endpoint"]["address"]["socket_address"]
                found.append((address["address"], address["port_value"], endpoint["health_status"]))
        return found


def status(*variants: tuple[str, float], gpus: Any = ()) -> dict[str, Any]:
    named = [{"name": f"chat-{name}", "capacityPerEngine": rate} for name, rate in variants]
    return {"plan": {"variants": named}, "gpus": list(gpus)}


def engines(found_status: dict[str, Any] | None, *pods: dict[str, Any]) -> tuple[EngineEndpoint, ...]:
    item = make_item(MODEL_SERVICE, make_service(status=found_status))
    return make_route(item, [make_item(POD, pod) for pod in pods]).engines


def test_weights_are_capacity_after_derating() -> None:
    found = engines(
        status(("aaaaaaaa", 10.0), ("bbbbbbbb", 4.0), gpus=[{"pod": "hot", "derating": 0.5}]),
        make_engine_pod("fast", variant="aaaaaaaa", address="127.1.0.1"),
        make_engine_pod("hot", variant="aaaaaaaa", address="127.1.0.2"),
        make_engine_pod("small", variant="bbbbbbbb", address="127.1.0.3"),
    )
    assert {(e.address, e.weight) for e in found} == {("127.1.0.1", 1000), ("127.1.0.2", 500), ("127.1.0.3", 400)}


def test_engines_are_told_apart_by_container() -> None:
    found = engines(None, make_engine_pod("pod", ready=(True, False, True, True)))
    assert [engine.port for engine in found] == [8000, 8002, 8003]


def test_leaving_pods_drain_until_they_are_gone() -> None:
    found = engines(
        None,
        make_engine_pod("stays", address="127.1.0.1"),
        make_engine_pod("leaves", address="127.1.0.2", ready=(False,), metadata=GONE),
        make_engine_pod("ended", address="127.1.0.3", metadata=GONE, status={"phase": "Succeeded"}),
    )
    assert [(engine.address, engine.draining) for engine in found] == [("127.1.0.1", False), ("127.1.0.2", True)]


def test_an_old_variant_serves_on_with_the_least_weight() -> None:
    """It is not in the plan any more, and its successor is not ready everywhere."""
    found = engines(
        status(("aaaaaaaa", 10.0), ("bbbbbbbb", 5.0)),
        make_engine_pod("new", variant="aaaaaaaa", address="127.1.0.1"),
        make_engine_pod("old", variant="cccccccc", address="127.1.0.2"),
    )
    assert [engine.weight for engine in found] == [1000, 500]


def test_pods_without_address_are_not_endpoints() -> None:
    assert engines(None, make_engine_pod("new", address=None)) == ()


def world() -> tuple[Store, Publisher, Routes]:
    store, publisher = make_store(), Publisher()
    return store, publisher, Routes(store, publisher)


def test_nothing_is_published_before_everything_was_listed() -> None:
    """An empty set, because we have just started, would take the engines away from every router."""
    store, publisher, routes = world()
    add_service(store)
    routes.publish_dirty()
    assert publisher.published == []
    add_pod(store, "pod")
    routes.complete()
    routes.publish_dirty()
    assert publisher.endpoints() == [("127.1.2.3", 8000, "HEALTHY")]


def test_only_what_concerns_routes_is_published() -> None:
    store, publisher, routes = world()
    add_service(store)
    add_pod(store, "pod")
    routes.complete()
    routes.publish_dirty()
    add_service(store, status={"observed": {"requestsPerSecond": 7}})
    add_pod(store, "pod", status={"qosClass": "Burstable"})
    routes.publish_dirty()
    assert len(publisher.published) == 1
    add_service(store, status=status(("00000000", 3.0)))
    routes.publish_dirty()
    add_pod(store, "pod", metadata=GONE)
    routes.publish_dirty()
    assert len(publisher.published) == 3
    assert publisher.endpoints() == [("127.1.2.3", 8000, "DRAINING")]


def test_services_without_envoy_are_not_routed() -> None:
    store, publisher, routes = world()
    add_service(store, routing="Service")
    routes.complete()
    routes.publish_dirty()
    assert publisher.published == []
    assert publisher.forgotten == ["team"]


async def test_a_pod_event_is_published_within_a_tenth_of_a_second() -> None:
    store, publisher, routes = world()
    add_service(store)
    routes.complete()
    task = asyncio.create_task(routes.run())
    try:
        await until(lambda: len(publisher.published) == 1)
        began = asyncio.get_running_loop().time()
        add_pod(store, "pod")
        await until(lambda: len(publisher.published) == 2)
        assert asyncio.get_running_loop().time() - began < 0.1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_telemetry_reads_pods_of_known_services_only() -> None:
    store = make_store()
    add_service(store)
    add_pod(store, "pod", ready=(True, False))
    add_pod(store, "orphan", service="gone")
    add_pod(store, "leaving", metadata=GONE)
    for name, namespace in (("agent", "shoal-system"), ("impostor", "team")):
        pod = make_engine_pod(name, namespace=namespace)
        pod["metadata"]["labels"] = {"app.kubernetes.io/component": "gpu-agent"}
        put(store, POD, pod)
    router = make_engine_pod("router")
    router["metadata"]["labels"] = {"app.kubernetes.io/component": "router"}
    put(store, POD, router)
    targets = make_targets(store, "shoal-system")
    assert sorted((t.pod, t.port, t.ready) for t in targets.engines) == [
        ("leaving", 8000, False),
        ("pod", 8000, True),
        ("pod", 8001, False),
    ]
    assert [target.node for target in targets.agents] == ["a"]
    assert [target.pod for target in targets.routers] == ["router"]
