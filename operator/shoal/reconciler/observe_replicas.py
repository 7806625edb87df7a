"""What runs: Deployments and pods of a ModelService as variants and replicas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol

from shoal.domain.configuration import Placement
from shoal.domain.live import LiveSample
from shoal.domain.service import Replica, ReplicaPhase, RunningVariant
from shoal.reconciler.inventory import Inventory
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import CLAIM, DEPLOYMENT, POD, Custom, Deployment, Pod
from shoal.reconciler.routes import engines_of
from shoal.reconciler.store import Store
from shoal.render.names import ANNOTATION_CONFIGURATION, LABEL_VARIANT, variant_name
from shoal.render.recipe import parse_placement
from shoal.telemetry.gpu import GpuReading

_MESSAGE_LENGTH = 200


class Measurements(Protocol):
    """What telemetry knows of pods and nodes."""

    def queue_seconds(self, namespace: str, pod: str) -> float | None:
        """How long a request that comes to this pod now would wait."""

    def gpus_of(self, node: str) -> tuple[GpuReading, ...]:
        """GPUs of a node; empty: not known."""

    def sample_of(self, namespace: str, pods: Iterable[str]) -> LiveSample | None:
        """What the engines of these pods did lately; None: not known."""


def own_variants(store: Store, service: Item[Custom]) -> Iterator[tuple[Item[Deployment], Placement]]:
    """The Deployments that a ModelService controls, with what each runs."""
    for item in store.of_service(DEPLOYMENT, service.namespace or "", service.name):
        placement = _read_placement(item.annotations.get(ANNOTATION_CONFIGURATION, ""))
        if item.owner == service.uid and placement is not None:
            yield item, placement


def observe_variants(
    store: Store, inventory: Inventory, measured: Measurements, service: Item[Custom]
) -> tuple[RunningVariant, ...]:
    """The variants of a ModelService with their pods."""
    pods: dict[str, list[Item[Pod]]] = {}
    for pod in store.of_service(POD, service.namespace or "", service.name):
        if not pod.body.is_over:
            pods.setdefault(variant_name(service.name, pod.labels.get(LABEL_VARIANT, "")), []).append(pod)
    variants = []
    for item, placement in own_variants(store, service):
        replicas = tuple(observe_replica(store, inventory, measured, pod) for pod in pods.get(item.name, ()))
        desired = 0 if item.deleted_at else item.body.replicas
        ready = [replica.name for replica in replicas if replica.phase is ReplicaPhase.READY]
        observed = measured.sample_of(service.namespace or "", ready)
        variants.append(RunningVariant(item.name, placement, desired, replicas, observed=observed))
    return tuple(variants)


def observe_replica(store: Store, inventory: Inventory, measured: Measurements, item: Item[Pod]) -> Replica:
    """One pod."""
    readings = observe_gpus(store, inventory, measured, item)
    clocks = [r.clock_under_load_mhz for r in readings if r.clock_under_load_mhz is not None]
    return Replica(
        name=item.name,
        phase=_phase(item),
        created_at=item.created_at,
        node=item.body.node,
        gpus=tuple(reading.uuid for reading in readings) or _claimed_uuids(store, inventory, item),
        clock_mhz=min(clocks, default=None),
        queue_seconds=measured.queue_seconds(item.namespace or "", item.name),
        ready_engines=sum(ready for _, ready in engines_of(item.body)),
    )


def observe_gpus(store: Store, inventory: Inventory, measured: Measurements, item: Item[Pod]) -> tuple[GpuReading, ...]:
    """Readings of the GPUs that a pod holds.

    With DRA its claim names them. A device plugin names nothing: they are known only where the pod holds every GPU
    of its node.
    """
    if item.body.node is None:
        return ()
    readings = measured.gpus_of(item.body.node)
    if item.body.claims:
        uuids = set(_claimed_uuids(store, inventory, item))
        return tuple(reading for reading in readings if reading.uuid in uuids)
    held = sum(item.body.devices.values())
    return readings if held and held == len(readings) else ()


def find_failures(store: Store, namespace: str, service: str) -> dict[str, str]:
    """Pod -> why its engines crash, or why it does not start; pods that are merely on their way are left out."""
    found = {}
    for item in store.of_service(POD, namespace, service):
        if item.deleted_at is None and not item.body.is_over and (message := _failure(item.body)):
            found[item.name] = message[:_MESSAGE_LENGTH]
    return found


@lru_cache(maxsize=4096)
def _read_placement(annotation: str) -> Placement | None:
    """Read once what never changes: a variant's annotation, asked for in every round."""
    return parse_placement({ANNOTATION_CONFIGURATION: annotation})


def _phase(item: Item[Pod]) -> ReplicaPhase:
    if item.deleted_at is not None:
        return ReplicaPhase.DRAINING
    if item.body.node is None:
        return ReplicaPhase.PENDING
    return ReplicaPhase.READY if item.body.ready_since is not None else ReplicaPhase.STARTING


def _claimed_uuids(store: Store, inventory: Inventory, item: Item[Pod]) -> tuple[str, ...]:
    return tuple(_find_uuids(store, inventory, item.namespace, item.body.claims))


def _find_uuids(store: Store, inventory: Inventory, namespace: str | None, claims: Sequence[str]) -> Iterator[str]:
    for name in claims:
        claim = store.get(CLAIM, namespace, name)
        for device in claim.body.devices if claim else ():
            gpu = inventory.gpus.get(device)
            if gpu is not None and gpu.uuid is not None:
                yield gpu.uuid


def _failure(pod: Pod) -> str:
    """The first thing that is wrong with a pod."""
    if pod.node is None:
        return pod.waits_for
    for container in pod.containers:
        if not container.ready and container.message and (container.restarts or "rror" in container.message):
            return f"{container.name} restarted {container.restarts} times: {container.message}"
    return ""
