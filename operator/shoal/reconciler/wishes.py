"""Custom resources -> what the planner reads of them. Pure; nothing here knows of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shoal.api import defaults
from shoal.api.convert import lengths_to_domain
from shoal.api.engine_class import EngineClass
from shoal.api.fields import parse_quantity
from shoal.api.gpu_pool import GPUPool, NamespaceSelector, PoolAdmission
from shoal.api.model_service import ModelService, ModelServiceSpec
from shoal.domain.pool import Admission, ClaimKind, Datasheet, Pool, Stock
from shoal.domain.profile import LengthMix, Link, ModelFacts, Profile, Source
from shoal.domain.service import (
    EngineFacts,
    Limits,
    ManualPlan,
    Mode,
    Objective,
    Parallelism,
    RequiredProfile,
    Service,
    ServiceKey,
    Standby,
    Workload,
)
from shoal.planner.catalog import model_facts, parameter_count
from shoal.render.names import is_paused
from shoal.render.problems import Problem, find_problems
from shoal.render.reasons import ProblemReason
from shoal.render.recipe import is_routed_by_envoy

_ENGINE = "vllm"
_EVERYONE = PoolAdmission(selector=NamespaceSelector())


@dataclass(frozen=True, slots=True)
class PoolChoice:
    """The pools one ModelService may use, those it named and may not (with the reason), and what that means."""

    allowed: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()


def choose_pools(resource: ModelService, pools: Mapping[str, GPUPool], labels: Mapping[str, str] | None) -> PoolChoice:
    """Which pools count. `labels` are those of the service's namespace; None: not known, so none of them matches."""
    named = resource.spec.pools
    admitted = {name for name, pool in pools.items() if find_admission(pool, labels) is not None}
    if named is None:
        allowed = tuple(sorted(admitted))
        return PoolChoice(allowed, problems=() if allowed else (_no_pool(pools),))
    missing = [name for name in named if name not in pools]
    closed = [name for name in named if name in pools and name not in admitted]
    refused = (
        *((name, "no such GPUPool") for name in missing),
        *((name, "does not admit this namespace") for name in closed),
    )
    allowed = tuple(name for name in named if name in admitted)
    return PoolChoice(allowed, refused, tuple(_explain_refusals(missing, closed, pools)))


def find_admission(pool: GPUPool, labels: Mapping[str, str] | None) -> PoolAdmission | None:
    """The first entry that matches these labels of a namespace; None: not admitted. Without entries everybody is."""
    if pool.spec.namespaces is None:
        return _EVERYONE
    for entry in pool.spec.namespaces:
        wanted = entry.selector.match_labels or {}
        if all((labels or {}).get(key) == value for key, value in wanted.items()):
            return entry
    return None


def make_pool(
    resource: GPUPool,
    stock: Stock | None,
    namespaces: Mapping[str, Mapping[str, str]],
    profiling: Mapping[str, int],
) -> Pool:
    """The planner's view of a pool.

    `namespaces`: labels of every namespace that has ModelServices. `profiling`: GPUs that ProfileRuns of a namespace
    hold; they count against its quota.
    """
    spec = resource.spec
    sheet = spec.datasheet
    return Pool(
        name=resource.metadata.name,
        accelerator=spec.accelerator,
        memory_bytes=float(parse_quantity(spec.memory.per_gpu)),
        reserve_bytes=float(parse_quantity(spec.memory.reserve or defaults.MEMORY_RESERVE)),
        claim=ClaimKind.DRA if spec.claim.dra is not None else ClaimKind.EXTENDED,
        price_per_gpu_hour=float(spec.price_per_gpu_hour),
        stock=stock,
        max_gpus=spec.max_gpus,
        link=spec.link or Link.NONE,
        island_size=spec.island_size,
        unified_memory=bool(spec.memory.unified),
        mps=spec.sharing == "MPS",
        datasheet=Datasheet(sheet.memory_bandwidth_gbs * 1e9, sheet.dense_tflops_16_bit * 1e12) if sheet else None,
        derate=spec.thermal is None or spec.thermal.derate is not False,
        admissions=tuple(_make_admissions(resource, namespaces, profiling)),
    )


def make_service(
    resource: ModelService,
    engine: EngineClass,
    choice: PoolChoice,
    profiles: Sequence[Profile],
    *,
    created_at: float,
) -> Service:
    """The wish, without anything observed. `profiles`: all that may apply, the nearest first."""
    spec, metadata = resource.spec, resource.metadata
    facts, source = find_facts(spec, profiles)
    parallelism = spec.parallelism
    return Service(
        key=ServiceKey(metadata.namespace or "", metadata.name),
        uid=metadata.uid or "",
        generation=metadata.generation or 0,
        created_at=created_at,
        model=spec.model.name,
        facts=facts,
        facts_source=source,
        max_context_tokens=_max_context(spec, facts),
        objective=Objective(
            percentile=spec.slo.percentile or defaults.PERCENTILE,
            ttft_ms=spec.slo.ttft_milliseconds,
            itl_ms=spec.slo.itl_milliseconds,
        ),
        workload=_make_workload(spec),
        engine=EngineFacts(
            name=engine.spec.engine or _ENGINE,
            version=engine.spec.version,
            api_servers=engine.spec.api_server_count or defaults.API_SERVER_COUNT,
            max_api_servers=engine.spec.max_api_server_count or defaults.API_SERVER_COUNT,
        ),
        pools=choice.allowed,
        refused_pools=choice.refused,
        limits=_make_limits(spec),
        standby=_make_standby(spec),
        parallelism=Parallelism(
            tensor=(parallelism and parallelism.tensor) or defaults.TENSOR_PARALLEL,
            engines_per_gpu=(parallelism and parallelism.engines_per_gpu) or defaults.ENGINES_PER_GPU,
        ),
        required_profile=(spec.profile and spec.profile.require) or RequiredProfile.ANY,
        priority=defaults.PRIORITY if spec.priority is None else spec.priority,
        mode=spec.mode or Mode.AUTO,
        manual=_make_manual(spec),
        paused=is_paused(metadata.annotations),
        routed_per_engine=is_routed_by_envoy(resource),
    )


def _make_standby(spec: ModelServiceSpec) -> Standby | None:
    wish = spec.standby
    if wish is None:
        return None
    percentile = spec.slo.percentile or defaults.PERCENTILE
    return Standby(
        wish.step_factor, (100 - percentile if wish.max_miss_percent is None else wish.max_miss_percent) / 100
    )


def find_class_problems(resource: ModelService, engine: EngineClass | None) -> tuple[Problem, ...]:
    """What the EngineClass, or its absence, forbids."""
    if engine is None:
        name = engine_class_name(resource)
        text = f"there is no EngineClass {name}: create it, or name another in engine.class"
        return (Problem(ProblemReason.ENGINE_CLASS_NOT_FOUND, text),)
    return find_problems(resource, engine)


def engine_class_name(resource: ModelService) -> str:
    """Name of the EngineClass that a ModelService asks for."""
    choice = resource.spec.engine
    return (choice and choice.class_) or defaults.ENGINE_CLASS


def find_facts(spec: ModelServiceSpec, profiles: Iterable[Profile]) -> tuple[ModelFacts | None, Source]:
    """What the model needs of memory: from the first profile of it, else from its name or the given size."""
    for profile in profiles:
        if profile.model == spec.model.name:
            return profile.facts, profile.source
    given = parameter_count(spec.model.parameters) if spec.model.parameters else None
    return model_facts(spec.model.name, given), Source.ESTIMATED


def _max_context(spec: ModelServiceSpec, facts: ModelFacts | None) -> int:
    if spec.model.max_context_tokens is not None:
        return spec.model.max_context_tokens
    return min(facts.max_context_tokens, defaults.MAX_CONTEXT_TOKENS) if facts else defaults.MAX_CONTEXT_TOKENS


def _make_workload(spec: ModelServiceSpec) -> Workload:
    if spec.workload is not None:
        lengths = lengths_to_domain(spec.workload.input_tokens, spec.workload.output_tokens)
        return Workload(spec.workload.requests_per_second, lengths)
    inputs, outputs = defaults.WORKLOAD_INPUT_TOKENS, defaults.WORKLOAD_OUTPUT_TOKENS
    tail = defaults.TAIL_OVER_MEAN
    assumed = LengthMix(inputs, outputs, tail * inputs, tail * outputs)
    return Workload(defaults.WORKLOAD_REQUESTS_PER_SECOND, assumed, declared=False)


def _make_limits(spec: ModelServiceSpec) -> Limits:
    limits = spec.limits
    return Limits(
        min_replicas=(limits and limits.min_replicas) or defaults.MIN_REPLICAS,
        max_gpus=limits.max_gpus if limits else None,
    )


def _make_manual(spec: ModelServiceSpec) -> ManualPlan | None:
    manual = spec.manual
    if manual is None:
        return None
    return ManualPlan(
        replicas=manual.replicas,
        pool=manual.pool,
        tensor_parallel=manual.tensor_parallel,
        engines_per_gpu=manual.engines_per_gpu,
    )


def _make_admissions(
    resource: GPUPool, namespaces: Mapping[str, Mapping[str, str]], profiling: Mapping[str, int]
) -> Iterable[Admission]:
    for namespace, labels in sorted(namespaces.items()):
        entry = find_admission(resource, labels)
        if entry is not None:
            quota = None if entry.gpu_quota is None else max(0, entry.gpu_quota - profiling.get(namespace, 0))
            yield Admission(namespace, gpu_quota=quota, max_priority=entry.max_priority)


def _no_pool(pools: Mapping[str, GPUPool]) -> Problem:
    if not pools:
        text = "there is no GPUPool: create one, `shoal pools discover` writes them from what the cluster has"
        return Problem(ProblemReason.POOL_NOT_FOUND, text)
    text = f"none of the GPUPools {', '.join(sorted(pools))} admits this namespace: ask the administrator for one"
    return Problem(ProblemReason.POOL_NOT_ADMITTED, text)


def _explain_refusals(missing: Sequence[str], closed: Sequence[str], pools: Mapping[str, GPUPool]) -> Iterable[Problem]:
    """Pools that were named and cannot be used. The administrator may still create or open them."""
    if missing:
        there = ", ".join(sorted(pools)) or "none"
        text = f"there is no GPUPool {', '.join(missing)} (there are: {there}): correct spec.pools, or create it"
        yield Problem(ProblemReason.POOL_NOT_FOUND, text)
    if closed:
        text = (
            f"GPUPool {', '.join(closed)} does not admit this namespace: take it out of spec.pools, or ask for access"
        )
        yield Problem(ProblemReason.POOL_NOT_ADMITTED, text)
