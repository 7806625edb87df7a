"""An observer and what it sees, made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from objects import (
    H100,
    add_deployment,
    add_engine_class,
    add_namespace,
    add_node,
    add_pool,
    add_slice,
    make_store,
)

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.live import LiveSample
from shoal.domain.service import Load, Memory, ServiceKey
from shoal.domain.snapshot import Brakes
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import Pod
from shoal.reconciler.lessons import Lessons
from shoal.reconciler.library import Library
from shoal.reconciler.observe import Observer
from shoal.reconciler.planloop import View
from shoal.reconciler.startups import Startups
from shoal.reconciler.store import Store
from shoal.render.recipe import dump_placement
from shoal.telemetry.gpu import GpuReading

CHAT = ServiceKey("team", "chat")
TP1 = Placement("h100", Configuration(H100))
STATUS_TARGET = {
    "pool": "h100",
    "accelerator": H100,
    "tensorParallel": 1,
    "enginesPerGPU": 1,
    "maxNumSeqs": 256,
    "maxNumBatchedTokens": 2048,
    "replicas": 3,
}


@dataclass
class Measured:
    """Telemetry and foreign pods in one."""

    gpus: dict[str, tuple[GpuReading, ...]] = field(default_factory=dict)
    foreign: tuple[Item[Pod], ...] | None = ()
    samples: dict[frozenset[str], LiveSample] = field(default_factory=dict)

    def load_of(self, service: ServiceKey) -> Load:
        return Load()

    def queue_seconds(self, namespace: str, pod: str) -> float | None:
        return 2.5 if pod == "slow" else None

    def sample_of(self, namespace: str, pods: Iterable[str]) -> LiveSample | None:
        return self.samples.get(frozenset(pods))

    def gpus_of(self, node: str) -> tuple[GpuReading, ...]:
        return self.gpus.get(node, ())


def make_observer(store: Store, measured: Measured | None = None) -> Observer:
    world, library = measured or Measured(), Library(store)
    return Observer(
        store=store,
        library=library,
        telemetry=world,
        foreign=world,
        startups=Startups(),
        lessons=Lessons(library),
        operator_namespace="shoal-system",
        brakes=Brakes(),
        now=lambda: 1000.0,
    )


def observe(store: Store, measured: Measured | None = None, **memories: Memory) -> View:
    return make_observer(store, measured).observe({ServiceKey("team", name): m for name, m in memories.items()})


def make_world() -> Store:
    store = make_store()
    add_namespace(store, "team")
    add_engine_class(store)
    add_pool(store)
    add_node(store, "a")
    add_slice(store, "a", 4)
    return store


def add_variant(store: Store, replicas: int = 1, variant: str = "00000000", **annotations: str) -> None:
    add_deployment(store, "chat", variant, replicas, {"shoal.dev/configuration": dump_placement(TP1), **annotations})


def reading(uuid: str, clock: float | None) -> GpuReading:
    return GpuReading(uuid, 0, max_clock_mhz=1980.0, clock_mhz=clock, clock_under_load_mhz=clock)
