"""The CustomResourceDefinitions: names, columns and subresources of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from shoal.api.base import GROUP, VERSION, Resource
from shoal.api.engine_class import EngineClass
from shoal.api.gpu_pool import GPUPool
from shoal.api.model_profile import ModelProfile
from shoal.api.model_service import ModelService
from shoal.api.profile_run import ProfileRun
from shoal.api.schema import make_schema

SCHEMA_REVISION: Final = 2
"""Raised by every change of a schema. The operator does not write while the served CRD carries a lower one."""

REVISION_ANNOTATION: Final = f"{GROUP}/schema-revision"
MAX_BYTES: Final = 40_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; priority 1 shows with `-o wide` only."""

    name: str
    path: str
    type: Literal["string", "integer", "number", "date"] = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a CRD says beside its schema."""

    model: type[Resource]
    plural: str
    short_names: tuple[str, ...]
    scope: Literal["Namespaced", "Cluster"]
    columns: tuple[Column, ...]
    categories: tuple[str, ...] = ("shoal",)
    scale: Mapping[str, str] | None = None

    @property
    def kind(self) -> str:
        """`ModelService`."""
        return self.model.__name__

    @property
    def name(self) -> str:
        """`modelservices.shoal.dev`."""
        return f"{self.plural}.{GROUP}"


_AGE: Final = Column("AGE", ".metadata.creationTimestamp", "date", description="Time since creation.")


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


MODEL_SERVICES: Final = Definition(
    model=ModelService,
    plural="modelservices",
    short_names=("msvc",),
    scope="Namespaced",
    categories=("shoal", "all"),
    columns=(
        Column("MODEL", ".spec.model.name", description="Model that is served."),
        Column("READY", _condition("Ready", "status"), description="Whether it serves as planned."),
        Column("PLAN", ".status.plan.summary", description="Replicas and shape of each variant."),
        Column("GPUS", ".status.plan.gpus", "integer", description="GPUs of the plan."),
        Column("SLO", ".status.sloSummary", description="Objective, and whether it is met."),
        Column("REASON", _condition("Ready", "reason"), description="Why it is ready or not."),
        Column("URL", ".status.url", priority=1, description="Address for clients."),
        _AGE,
    ),
    scale={
        "specReplicasPath": ".spec.manual.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
)
GPU_POOLS: Final = Definition(
    model=GPUPool,
    plural="gpupools",
    short_names=("gpupool",),
    scope="Cluster",
    columns=(
        Column("ACCELERATOR", ".spec.accelerator", description="GPU type."),
        Column("READY", _condition("Ready", "status"), description="Whether the pool can be used."),
        Column("GPUS", ".status.stock.existing", "integer", description="GPUs that exist."),
        Column("FREE", ".status.stock.free", "integer", description="GPUs nobody holds."),
        Column("SHOAL", ".status.stock.shoal", "integer", description="GPUs that ModelServices hold."),
        Column("OTHERS", ".status.stock.others", "integer", description="GPUs that others hold."),
        Column("HOT", ".status.stock.hot", "integer", description="GPUs slowed or tainted by heat."),
        Column("PRICE", ".spec.pricePerGPUHour", description="Price of one GPU for one hour."),
        _AGE,
    ),
)
ENGINE_CLASSES: Final = Definition(
    model=EngineClass,
    plural="engineclasses",
    short_names=("engineclass",),
    scope="Cluster",
    columns=(
        Column("VERSION", ".spec.version", description="Version of the engine."),
        Column("IMAGE", ".spec.image", priority=1, description="Image of the engine."),
        _AGE,
    ),
)
MODEL_PROFILES: Final = Definition(
    model=ModelProfile,
    plural="modelprofiles",
    short_names=("mprof",),
    scope="Namespaced",
    columns=(
        Column("MODEL", ".spec.model.name", description="Model."),
        Column("ACCELERATOR", ".spec.accelerator", description="GPU type."),
        Column("ENGINE", ".spec.engine.version", description="Version of the engine."),
        Column("SOURCE", ".spec.source", description="Where the numbers come from."),
        _AGE,
    ),
)
PROFILE_RUNS: Final = Definition(
    model=ProfileRun,
    plural="profileruns",
    short_names=("prun",),
    scope="Namespaced",
    columns=(
        Column("MODEL", ".spec.model.name", description="Model that is measured."),
        Column("POOL", ".spec.pool", description="Pool on which it is measured."),
        Column("PROGRESS", ".status.progress", description="Configurations done of all."),
        Column("READY", _condition("Ready", "status"), description="Whether the profile is complete."),
        Column("REASON", _condition("Ready", "reason"), description="What it is doing, or why it cannot."),
        Column("PROFILE", ".status.profile", priority=1, description="ModelProfile with the results."),
        _AGE,
    ),
)
DEFINITIONS: Final = (MODEL_SERVICES, GPU_POOLS, ENGINE_CLASSES, MODEL_PROFILES, PROFILE_RUNS)


def make_crd(definition: Definition) -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    subresources: dict[str, Any] = {"status": {}} if "status" in definition.model.model_fields else {}
    if definition.scale:
        subresources["scale"] = dict(definition.scale)
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_make_column(column) for column in definition.columns],
        "schema": {"openAPIV3Schema": make_schema(definition.model)},
    }
    if subresources:
        version["subresources"] = subresources
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition.name, "annotations": {REVISION_ANNOTATION: str(SCHEMA_REVISION)}},
        "spec": {
            "group": GROUP,
            "scope": definition.scope,
            "names": {
                "kind": definition.kind,
                "listKind": f"{definition.kind}List",
                "plural": definition.plural,
                "singular": definition.kind.lower(),
                "shortNames": [name for name in definition.short_names if name != definition.kind.lower()],
                "categories": list(definition.categories),
            },
            "versions": [version],
        },
    }


def _make_column(column: Column) -> dict[str, Any]:
    result: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.priority:
        result["priority"] = column.priority
    return result | {"description": column.description}
