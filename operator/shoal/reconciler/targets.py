"""Whom telemetry reads: made from the pods that are watched."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.domain.service import ServiceKey
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import MODEL_SERVICE, POD, Pod
from shoal.reconciler.routes import engines_of, is_routed, key_of
from shoal.reconciler.store import Store
from shoal.render.names import (
    COMPONENT_ENGINE,
    COMPONENT_GPU_AGENT,
    COMPONENT_ROUTER,
    LABEL_COMPONENT,
    LABEL_MODEL_SERVICE,
    engine_port,
)
from shoal.telemetry.targets import AgentTarget, EngineTarget, RouterTarget, Targets


def make_targets(store: Store, operator_namespace: str) -> Targets:
    """Engines and routers of known ModelServices, and the GPU agents of the operator's own namespace: no others."""
    services = {key_of(item): is_routed(item) for item in store.all(MODEL_SERVICE)}
    namespaces = {key.namespace for key, routed in services.items() if routed}
    engines: list[EngineTarget] = []
    routers: list[RouterTarget] = []
    agents: list[AgentTarget] = []
    for item in store.all(POD):
        pod, component = item.body, item.labels.get(LABEL_COMPONENT)
        if not pod.address or pod.phase != "Running":
            continue
        if component == COMPONENT_ENGINE:
            engines.extend(target for target in _make_engines(item, pod.address) if target.service in services)
        elif component == COMPONENT_ROUTER and item.namespace in namespaces:
            routers.append(
                RouterTarget(
                    namespace=item.namespace or "",
                    pod=item.name,
                    address=pod.address,
                    ready=pod.ready_since is not None and item.deleted_at is None,
                )
            )
        elif component == COMPONENT_GPU_AGENT and item.namespace == operator_namespace and pod.node:
            agents.append(AgentTarget(node=pod.node, address=pod.address))
    routed = frozenset(key for key, is_routed_by_envoy in services.items() if is_routed_by_envoy)
    return Targets(engines=tuple(engines), routers=tuple(routers), agents=tuple(agents), routed=routed)


def _make_engines(item: Item[Pod], address: str) -> Iterator[EngineTarget]:
    service = item.labels.get(LABEL_MODEL_SERVICE)
    if not service:
        return
    for index, ready in engines_of(item.body):
        yield EngineTarget(
            service=ServiceKey(item.namespace or "", service),
            pod=item.name,
            engine=index,
            address=address,
            port=engine_port(index),
            ready=ready and item.deleted_at is None,
        )
