"""A GPUPool and what is left of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from shoal.domain.profile import Link


class ClaimKind(enum.StrEnum):
    """How pods get the pool's GPUs."""

    DRA = "dra"
    EXTENDED = "extendedResource"


@dataclass(frozen=True, slots=True)
class Datasheet:
    """What the maker promises of one GPU: bytes per second of memory, dense 16-bit operations per second."""

    memory_bandwidth: float
    flops_16bit: float


@dataclass(frozen=True, slots=True)
class NodeStock:
    """GPUs of one node.

    `usable`: on a Ready node, not tainted, not held by others (GPUs held by Shoal's own pods count as usable).
    """

    node: str
    existing: int
    usable: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who holds GPUs of the pool: `Shoal`, `ml/train-*`, `hot`, `node not ready`."""

    name: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Stock:
    """What the pool has now. None in place of a Stock: the inventory could not be read, which is not zero."""

    nodes: tuple[NodeStock, ...] = ()
    holders: tuple[Holder, ...] = ()

    @property
    def existing(self) -> int:
        """GPUs that exist."""
        return sum(node.existing for node in self.nodes)

    @property
    def usable(self) -> int:
        """GPUs Shoal may use, those it uses already included."""
        return sum(node.usable for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Admission:
    """What one namespace may do in a pool. None: no bound."""

    namespace: str
    gpu_quota: int | None = None
    max_priority: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A set of GPUs of one type.

    `max_gpus` above `stock.existing` lets pods wait for a node autoscaler; None: the stock is the bound.
    """

    name: str
    accelerator: str
    memory_bytes: float  # of one GPU
    reserve_bytes: float  # kept free on each GPU
    claim: ClaimKind
    price_per_gpu_hour: float
    stock: Stock | None
    max_gpus: int | None = None
    link: Link = Link.NONE
    island_size: int | None = None  # GPUs that share the fast link; None: a node
    unified_memory: bool = False
    mps: bool = False  # engines that share a GPU do so through MPS
    datasheet: Datasheet | None = None
    derate: bool = True
    admissions: tuple[Admission, ...] = field(default_factory=tuple)
