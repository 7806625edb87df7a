"""ModelService: a model, a latency objective, and what its owner allows. Shoal decides the rest."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shoal.api import defaults
from shoal.api.base import Resource, Rule, Shape
from shoal.api.fields import DNSLabel, ParserName, ServedName
from shoal.api.lists import unique
from shoal.api.model_service_status import ModelServiceStatus
from shoal.api.placement import ManualPlacement, Parallelism
from shoal.api.sources import ModelReference
from shoal.api.workload import Workload
from shoal.domain.service import Mode, RequiredProfile

MAX_NAME_LENGTH = 40


class ServedModel(ModelReference):
    """Which model is served."""

    served_name: ServedName | None = Field(
        None, description="What clients send as `model`. Default: the name of this object."
    )


class EngineChoice(Shape):
    """Which engine serves, and how it reads the model's answers."""

    class_: DNSLabel | None = Field(
        None,
        description=f"The administrator's EngineClass: image, version, resources. Default: {defaults.ENGINE_CLASS}.",
    )
    tool_call_parser: ParserName | None = Field(
        None,
        description="vLLM's parser of tool calls, such as hermes. Default, or none: not parsed.",
    )
    reasoning_parser: ParserName | None = Field(
        None,
        description="vLLM's parser of reasoning, such as qwen3. Default, or none: not parsed.",
    )


class Objectives(Shape):
    """The latency objective (SLO)."""

    rules: ClassVar = (
        Rule(
            "has(self.ttftMilliseconds) || has(self.itlMilliseconds)",
            "give at least one objective: ttftMilliseconds, itlMilliseconds, or both",
            lambda slo: slo.ttft_milliseconds is not None or slo.itl_milliseconds is not None,
        ),
    )

    percentile: int | None = Field(
        None,
        ge=50,
        le=99,
        description=f"Percent of the requests that must meet every objective. Default: {defaults.PERCENTILE}.",
    )
    ttft_milliseconds: int | None = Field(
        None,
        ge=1,
        le=600_000,
        description="Longest time from arrival to first token.",
    )
    itl_milliseconds: float | None = Field(
        None,
        gt=0,
        le=60_000,
        description="Longest mean gap between the tokens of one answer.",
    )


class Limits(Shape):
    """Bounds that no decision crosses."""

    rules: ClassVar = (
        Rule(
            "!has(self.minReplicas) || !has(self.maxGPUs) || self.minReplicas <= self.maxGPUs",
            "minReplicas needs at least as many GPUs: raise maxGPUs or lower minReplicas",
            lambda limits: (
                limits.min_replicas is None or limits.max_gpus is None or limits.min_replicas <= limits.max_gpus
            ),
        ),
    )

    min_replicas: int | None = Field(
        None,
        ge=1,
        le=1000,
        description=f"Replicas that run even without traffic. Default: {defaults.MIN_REPLICAS}.",
    )
    max_gpus: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="GPUs it may hold in all. Default: what pools and quotas allow.",
    )


class Standby(Shape):
    """Spare capacity for a step of the rate that nobody announced."""

    step_factor: float = Field(
        gt=1,
        le=10,
        description="The rate may multiply by this within seconds.",
    )
    max_miss_percent: float | None = Field(
        None,
        ge=0,
        lt=100,
        description="Percent of requests that may miss until new replicas are ready. Default: 100 - percentile.",
    )


class ProfileChoice(Shape):
    """Which performance data the plan may rest on."""

    require: RequiredProfile | None = Field(
        None,
        description="Any: plan cautiously on estimates until measured. Measured: wait for a measured ModelProfile. "
        "Default: Any.",
    )


def _is_manual(spec: ModelServiceSpec) -> bool:
    return spec.mode is Mode.MANUAL


def _fits_context(spec: ModelServiceSpec) -> bool:
    limit, work = spec.model.max_context_tokens, spec.workload
    return limit is None or work is None or work.input_tokens.mean + work.output_tokens.mean <= limit


def _one_engine_per_pod_possible(spec: ModelServiceSpec) -> bool:
    if spec.routing != "Service":
        return True
    allowed = spec.parallelism.engines_per_gpu if spec.parallelism else None
    manual = spec.manual.engines_per_gpu if spec.manual else None
    return (allowed is None or 1 in allowed) and manual in (None, 1)


class ModelServiceSpec(Shape):
    """What the owner wants. Shoal never writes here, and fills in nothing: see status.effective."""

    rules: ClassVar = (
        Rule(
            "!has(self.manual) || (has(self.mode) && self.mode == 'Manual')",
            "manual (and so kubectl scale) works only in mode Manual: set mode to Manual or remove manual",
            lambda spec: spec.manual is None or _is_manual(spec),
        ),
        Rule(
            "!has(self.mode) || self.mode != 'Manual' || has(self.manual)",
            "mode Manual needs manual.replicas",
            lambda spec: not _is_manual(spec) or spec.manual is not None,
        ),
        Rule(
            "!has(self.manual) || !has(self.manual.pool) || !has(self.pools) || self.manual.pool in self.pools",
            "manual.pool must be one of pools",
            lambda spec: (
                spec.manual is None or spec.manual.pool is None or spec.pools is None or spec.manual.pool in spec.pools
            ),
        ),
        Rule(
            "!has(self.routing) || self.routing != 'Service' || "
            "((!has(self.parallelism) || !has(self.parallelism.enginesPerGPU) || 1 in self.parallelism.enginesPerGPU) "
            "&& (!has(self.manual) || !has(self.manual.enginesPerGPU) || self.manual.enginesPerGPU == 1))",
            "routing Service reaches one engine per pod: allow enginesPerGPU 1, or use routing Envoy",
            _one_engine_per_pod_possible,
        ),
        Rule(
            "!has(self.workload) || !has(self.model.maxContextTokens) || self.workload.inputTokens.mean + "
            "self.workload.outputTokens.mean <= double(self.model.maxContextTokens)",
            "workload: mean input and output tokens together must fit into model.maxContextTokens",
            _fits_context,
        ),
    )

    model: ServedModel = Field(description="Which model, and where it comes from.")
    engine: EngineChoice | None = Field(None, description="Which engine serves it.")
    pools: Annotated[tuple[DNSLabel, ...], unique(16, min_items=1)] | None = Field(
        None,
        description="GPUPools that may be used. Default: all that admit this namespace.",
    )
    slo: Objectives = Field(description="The latency objective (SLO).")
    workload: Workload | None = Field(
        None,
        description="What to plan for until traffic is seen. "
        f"Default: {defaults.WORKLOAD_REQUESTS_PER_SECOND:g} request per second, "
        f"{defaults.WORKLOAD_INPUT_TOKENS:g} tokens in and {defaults.WORKLOAD_OUTPUT_TOKENS:g} out.",
    )
    limits: Limits | None = Field(None, description="Bounds that no decision crosses.")
    standby: Standby | None = Field(None, description="Spare replicas for a step of the rate. Default: none.")
    parallelism: Parallelism | None = Field(None, description="Narrows the search. Default: all that fits.")
    profile: ProfileChoice | None = Field(None, description="Which performance data the plan may rest on.")
    priority: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Higher gets scarce GPUs first, but never another's minReplicas. "
        f"Capped by the pool. Default: {defaults.PRIORITY}.",
    )
    routing: Literal["Envoy", "Service"] | None = Field(
        None,
        description="Envoy: a router weighs the engines, hot GPUs less. Service: a plain Kubernetes Service, one "
        "engine per pod. Default: Envoy.",
    )
    mode: Mode | None = Field(
        None,
        description="Auto: decide and act. Observe: only report. Manual: run spec.manual (a person, HPA or KEDA). "
        "Default: Auto.",
    )
    manual: ManualPlacement | None = Field(None, description="What runs in mode Manual; kubectl scale writes here.")


class ModelService(Resource):
    """A model served within a latency objective; Shoal decides on which GPUs, and how."""

    rules: ClassVar = (
        Rule(
            f"size(self.metadata.name) <= {MAX_NAME_LENGTH}",
            f"metadata.name may have at most {MAX_NAME_LENGTH} characters, as other names are made from it",
            lambda service: len(service.metadata.name) <= MAX_NAME_LENGTH,
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must start with a letter and have only lower-case letters, digits and -",
            lambda service: is_service_name(service.metadata.name),
        ),
    )

    kind: Literal["ModelService"] = "ModelService"
    spec: ModelServiceSpec = Field(description="What the owner wants.")
    status: ModelServiceStatus | None = Field(None, description="What Shoal decided, why, and what it sees.")


def is_service_name(name: str) -> bool:
    """Whether other names can be made from it: a letter first, then lower-case letters, digits and `-`."""
    characters = set(name)
    return name[0].isalpha() and name[-1] != "-" and characters <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
