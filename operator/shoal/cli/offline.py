"""Manifests in files -> the Snapshot that the operator would see on the first day, when nothing runs yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from shoal.api.base import Metadata, Resource
from shoal.api.convert import profile_to_domain
from shoal.api.engine_class import EngineClass, EngineClassSpec
from shoal.api.errors import ApiError
from shoal.api.gpu_pool import GPUPool
from shoal.api.load import load_files
from shoal.api.model_profile import ModelProfile
from shoal.api.model_service import ModelService
from shoal.domain.pool import NodeStock, Pool, Stock
from shoal.domain.profile import Profile
from shoal.domain.service import Service
from shoal.domain.snapshot import Snapshot
from shoal.reconciler.wishes import choose_pools, engine_class_name, find_class_problems, make_pool, make_service

LIBRARY: Final = "shoal-system"  # where a profile without a namespace is taken to be
NAMESPACE: Final = "default"
GPUS_PER_NODE: Final = 8
NEWEST_ENGINE: Final = "0.33.0"  # assumed where neither an EngineClass nor a profile tells

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Question:
    """What to decide, and what had to be assumed to decide it offline."""

    snapshot: Snapshot
    assumptions: tuple[str, ...] = ()


def read_question(paths: Sequence[Path], *, gpus: Mapping[str, int], rate: float | None = None) -> Question:
    """The question that files ask. Raises ApiError, which says where, what is wrong and what to do."""
    resources = load_files(_yaml_files(paths))
    services = _named(_of(resources, ModelService))
    pools = _named(_of(resources, GPUPool))
    classes = _named(_of(resources, EngineClass))
    profiles = tuple(_in_library(profile_to_domain(p)) for p in _of(resources, ModelProfile))
    if not services:
        raise ApiError("there is no ModelService in these files", advice="Add one: `shoal plan --help` shows how")
    if not pools:
        raise ApiError("there is no GPUPool in these files", advice="Add one, so that there are GPUs to plan with")
    unknown = sorted(set(gpus) - {pool.metadata.name for pool in pools.values()})
    if unknown:
        raise ApiError(f"--gpus names no GPUPool of these files: {', '.join(unknown)}", advice="Correct the name")
    notes: list[str] = []
    labels = {namespace: _labels(namespace) for namespace in {_namespace(s) for s in services.values()}}
    models = {pool.metadata.name: pool for pool in pools.values()}
    return Question(
        Snapshot(
            now=0.0,
            services=tuple(_service(s, models, classes, profiles, rate=rate, notes=notes) for s in services.values()),
            pools=tuple(_pool(pool, gpus, labels, notes) for pool in models.values()),
            profiles=profiles,
            operator_namespace=LIBRARY,
        ),
        tuple(dict.fromkeys(notes)),
    )


def parse_gpus(text: str) -> tuple[str, int]:
    """`h100=8` -> ("h100", 8). Raises ValueError with a message for people."""
    pool, separator, count = text.partition("=")
    if not pool or not separator or not count.isdecimal():
        raise ValueError(f"{text!r} is not POOL=NUMBER, as in h100=8")
    return pool, int(count)


def _yaml_files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
        if not found:
            raise ApiError("there are no YAML files in this directory", where=str(path), advice="Name another")
        files += found
    return files


def _of(resources: Iterable[Resource], kind: type[R]) -> list[R]:
    return [resource for resource in resources if isinstance(resource, kind)]


def _named(resources: Sequence[R]) -> dict[str, R]:
    """By namespace and name; the same one twice is an error, as nobody could say which counts."""
    found: dict[str, R] = {}
    for resource in resources:
        key = f"{resource.metadata.namespace or ''}/{resource.metadata.name}"
        if key in found:
            kind = type(resource).__name__
            raise ApiError(f"{kind} {key.lstrip('/')} stands twice in these files", advice="Remove one of them")
        found[key] = resource
    return found


def _in_library(profile: Profile) -> Profile:
    return profile if profile.namespace else replace(profile, namespace=LIBRARY)


def _namespace(service: ModelService) -> str:
    return service.metadata.namespace or NAMESPACE


def _labels(namespace: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": namespace}


def _pool(
    resource: GPUPool, gpus: Mapping[str, int], labels: Mapping[str, Mapping[str, str]], notes: list[str]
) -> Pool:
    name = resource.metadata.name
    count = gpus.get(name, resource.spec.max_gpus)
    if count is None:
        raise ApiError(
            f"nothing says how many GPUs the pool {name} has",
            where=f"GPUPool {name}",
            field="spec.maxGPUs",
            advice=f"Give it, or --gpus {name}={GPUS_PER_NODE}",
        )
    whole, rest = divmod(count, GPUS_PER_NODE)
    sizes = [GPUS_PER_NODE] * whole + ([rest] if rest else [])
    if whole and count > GPUS_PER_NODE:
        notes.append(f"GPUs are taken to stand in nodes of {GPUS_PER_NODE}")
    stock = Stock(tuple(NodeStock(f"{name}-{index}", size, size) for index, size in enumerate(sizes)))
    return replace(make_pool(resource, stock, labels, {}), max_gpus=None)


def _service(
    resource: ModelService,
    pools: Mapping[str, GPUPool],
    classes: Mapping[str, EngineClass],
    profiles: Sequence[Profile],
    *,
    rate: float | None,
    notes: list[str],
) -> Service:
    namespace = _namespace(resource)
    where = f"ModelService {namespace}/{resource.metadata.name}"
    engine = classes.get(f"/{engine_class_name(resource)}") or _stand_in(resource, profiles, notes)
    problems = find_class_problems(resource, engine)
    if problems:
        raise ApiError(problems[0].message, where=where)
    placed = resource.model_copy(update={"metadata": resource.metadata.model_copy(update={"namespace": namespace})})
    choice = choose_pools(placed, pools, _labels(namespace))
    own = [profile for name in (namespace, LIBRARY) for profile in profiles if profile.namespace == name]
    service = make_service(placed, engine, choice, own, created_at=0.0)
    return service if rate is None else replace(service, workload=replace(service.workload, rate=rate))


def _stand_in(resource: ModelService, profiles: Iterable[Profile], notes: list[str]) -> EngineClass:
    """An EngineClass for files that have none: of the version that the model's profiles were made with."""
    versions = sorted(
        (p.engine_version for p in profiles if p.model == resource.spec.model.name), key=_version_key, reverse=True
    )
    chosen = versions[0] if versions else NEWEST_ENGINE
    name = engine_class_name(resource)
    notes.append(f"EngineClass {name} is not in these files: vLLM {chosen} is assumed")
    spec = EngineClassSpec.model_construct(image="vllm", version=chosen)
    return EngineClass.model_construct(metadata=Metadata(name=name), spec=spec)


def _version_key(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in text.split("."))
