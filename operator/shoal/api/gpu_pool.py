"""GPUPool: the administrator's object. GPUs of one type, how they are claimed, who may use them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shoal.api import defaults
from shoal.api.base import Resource, Rule, Shape, exactly_one, exactly_one_cel
from shoal.api.conditions import Conditions
from shoal.api.fields import (
    AcceleratorName,
    Bytes,
    DNSSubdomain,
    ExtendedResource,
    Generation,
    GPUCount,
    Labels,
    LabelValue,
    Money,
    QualifiedName,
    parse_quantity,
)
from shoal.api.lists import atomic
from shoal.domain.profile import Link

MAX_NAME_LENGTH = 63
SMALLEST_GPU = "1Gi"


def _reserve_fits(memory: PoolMemory) -> bool:
    return memory.reserve is None or parse_quantity(memory.reserve) < parse_quantity(memory.per_gpu)


class PoolMemory(Shape):
    """Memory of one GPU."""

    rules: ClassVar = (
        Rule(
            f"quantity(string(self.perGPU)).compareTo(quantity('{SMALLEST_GPU}')) >= 0",
            f"perGPU must be at least {SMALLEST_GPU}; give a unit, as in 80Gi",
            lambda memory: parse_quantity(memory.per_gpu) >= parse_quantity(SMALLEST_GPU),
        ),
        Rule(
            "!has(self.reserve) || quantity(string(self.reserve)).compareTo(quantity(string(self.perGPU))) < 0",
            "reserve must be less than perGPU",
            _reserve_fits,
        ),
    )

    per_gpu: Bytes = Field(
        description="Memory of one GPU, as in 80Gi. For GPUs that share the host's memory: what engines may use."
    )
    reserve: Bytes | None = Field(
        None,
        description=f"Memory kept free on each GPU for the driver and the display. Default: {defaults.MEMORY_RESERVE}.",
    )
    unified: bool | None = Field(None, description="The GPU shares the host's memory, as GB10 does. Default: false.")


class DynamicClaim(Shape):
    """GPUs are claimed with Dynamic Resource Allocation (DRA)."""

    device_class_name: DNSSubdomain = Field(description="DeviceClass that claims ask for, as in gpu.nvidia.com.")
    driver: DNSSubdomain = Field(description="DRA driver that publishes the GPUs, as in gpu.nvidia.com.")


class PoolClaim(Shape):
    """How pods get these GPUs."""

    rules: ClassVar = (
        Rule(
            exactly_one_cel("dra", "extended_resource"),
            "give exactly one of dra and extendedResource",
            exactly_one("dra", "extended_resource"),
        ),
    )

    dra: DynamicClaim | None = Field(
        None, description="By DRA: the GPU is known by UUID, may be tainted, and engines may share it."
    )
    extended_resource: ExtendedResource | None = Field(
        None, description="By a device plugin's extended resource, as in nvidia.com/gpu: one engine per GPU."
    )


class Toleration(Shape):
    """A taint of nodes that engine pods tolerate."""

    rules: ClassVar = (
        Rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
            "operator Exists takes no value",
            lambda toleration: toleration.operator != "Exists" or toleration.value is None,
        ),
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "without a key, operator must be Exists",
            lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
    )

    key: QualifiedName | None = Field(None, description="Key of the taint. Default: every key.")
    operator: Literal["Equal", "Exists"] | None = Field(
        None, description="Equal compares the value, Exists does not. Default: Equal."
    )
    value: LabelValue | None = Field(None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint. Default: every effect."
    )


class PoolNodes(Shape):
    """Which nodes belong to the pool, and how pods get onto them."""

    labels: Labels | None = Field(None, description="Labels a node must have. Default: none.")
    tolerations: Annotated[tuple[Toleration, ...], atomic(16)] | None = Field(
        None, description="Taints that engine pods tolerate. Default: none."
    )
    runtime_class_name: DNSSubdomain | None = Field(
        None, description="RuntimeClass of engine pods, as in nvidia. Default: the cluster's own."
    )


class NamespaceSelector(Shape):
    """Picks namespaces by their labels."""

    match_labels: Labels | None = Field(None, description="Labels a namespace must have. Default: every namespace.")


class PoolAdmission(Shape):
    """What some namespaces may do here."""

    selector: NamespaceSelector = Field(description="Namespaces this is about.")
    gpu_quota: GPUCount | None = Field(
        None, description="GPUs that each of these namespaces may hold. Default: no bound."
    )
    max_priority: int | None = Field(
        None, ge=0, le=1000, description="Highest priority that counts for their ModelServices. Default: no cap."
    )


class ThermalPolicy(Shape):
    """What happens when a GPU is slowed by heat."""

    derate: bool | None = Field(
        None, description="Give a slowed GPU less traffic, and plan with what it still carries. Default: true."
    )
    taint: Literal["never", "NoSchedule", "NoExecute"] | None = Field(
        None,
        description="Whether Shoal taints a hot GPU: NoSchedule keeps new pods away, NoExecute also moves engines off "
        "it once there is room elsewhere. Only for GPUs claimed by DRA. Default: never.",
    )


class Datasheet(Shape):
    """What the maker promises of one GPU. Estimates start from it while there is no profile."""

    memory_bandwidth_gbs: float = Field(ge=1, le=1_000_000, description="Memory bandwidth in gigabytes per second.")
    dense_tflops_16_bit: float = Field(
        gt=0, le=1_000_000, description="Dense 16-bit operations, in 10^12 per second (without sparsity)."
    )


class GPUPoolSpec(Shape):
    """GPUs of one type."""

    rules: ClassVar = (
        Rule(
            "!has(self.link) || self.link != 'None' || !has(self.islandSize) || self.islandSize == 1",
            "without a link between the GPUs an island has one GPU: set islandSize to 1 or name the link",
            lambda pool: pool.link is not Link.NONE or pool.island_size in (None, 1),
        ),
        Rule(
            "!has(self.thermal) || !has(self.thermal.taint) || self.thermal.taint == 'never' || has(self.claim.dra)",
            "only GPUs claimed by DRA can be tainted: set thermal.taint to never",
            lambda pool: pool.thermal is None or pool.thermal.taint in (None, "never") or pool.claim.dra is not None,
        ),
    )

    accelerator: AcceleratorName = Field(
        description="GPU type: its product name with - for blanks, as in NVIDIA-H100-80GB-HBM3. A GPU belongs to the "
        "pool when its name is equal."
    )
    memory: PoolMemory = Field(description="Memory of one GPU.")
    claim: PoolClaim = Field(description="How pods get these GPUs.")
    nodes: PoolNodes | None = Field(None, description="Which nodes belong to the pool. Default: all that have the GPU.")
    max_gpus: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="GPUs Shoal may use here. Beyond what exists, pods wait for a node autoscaler. Default: the stock.",
    )
    price_per_gpu_hour: Money = Field(
        description="Price of one GPU for one hour, as a decimal in quotes, in a currency of your choice."
    )
    link: Link | None = Field(
        None,
        description="How the GPUs of a node talk to each other. Engines over several GPUs need NVLink, or measurements "
        "that show PCIe is enough. Default: None.",
    )
    island_size: int | None = Field(
        None, ge=1, le=576, description="GPUs that share the fast link. Default: all GPUs of a node."
    )
    sharing: Literal["None", "MPS", "TimeSlicing"] | None = Field(
        None, description="How the nodes let several engines share one GPU. Default: None."
    )
    namespaces: Annotated[tuple[PoolAdmission, ...], atomic(32, min_items=1)] | None = Field(
        None,
        description="Who may use the pool; the first entry that matches a namespace counts. Default: everyone, without "
        "bounds.",
    )
    thermal: ThermalPolicy | None = Field(None, description="What happens when a GPU is slowed by heat.")
    datasheet: Datasheet | None = Field(
        None, description="What the maker promises of the GPU. Needed for types Shoal does not know, until measured."
    )


class PoolStock(Shape):
    """Where the GPUs are."""

    existing: GPUCount = Field(description="GPUs that exist.")
    free: GPUCount = Field(description="GPUs nobody holds and Shoal may use.")
    shoal: GPUCount = Field(description="GPUs that ModelServices hold.")
    others: GPUCount = Field(description="GPUs that other workloads hold.")
    hot: GPUCount = Field(description="GPUs that are tainted or slowed by heat.")
    unready: GPUCount = Field(description="GPUs on nodes that are not ready.")


class PoolHolder(Shape):
    """Somebody who holds GPUs of the pool."""

    name: Annotated[str, Field(max_length=253)] = Field(description="Namespace and name, as in ml/train-*.")
    gpus: GPUCount = Field(description="GPUs held.")


class GPUPoolStatus(Shape):
    """What Shoal sees of the pool."""

    observed_generation: Generation | None = Field(None, description="metadata.generation this status is about.")
    conditions: Conditions | None = Field(None, description="Ready, and what is wrong.")
    stock: PoolStock | None = Field(None, description="Where the GPUs are; absent when they could not be listed.")
    holders: Annotated[tuple[PoolHolder, ...], atomic(16)] | None = Field(
        None, description="Who holds GPUs, the largest first."
    )


class GPUPool(Resource):
    """GPUs of one type that ModelServices may use: price, link, how they are claimed, and who may use them."""

    rules: ClassVar = (
        Rule(
            f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && !self.metadata.name.contains('.')",
            f"metadata.name may have at most {MAX_NAME_LENGTH} characters and no dot",
            lambda pool: len(pool.metadata.name) <= MAX_NAME_LENGTH and "." not in pool.metadata.name,
        ),
    )

    kind: Literal["GPUPool"] = "GPUPool"
    spec: GPUPoolSpec = Field(description="What the GPUs are, and who may use them.")
    status: GPUPoolStatus | None = Field(None, description="What Shoal sees of the pool.")
