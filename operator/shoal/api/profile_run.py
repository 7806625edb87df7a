"""ProfileRun: measure a model on a pool, and write a ModelProfile of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from shoal.api import defaults
from shoal.api.base import Resource, Rule, Shape
from shoal.api.fields import BatchLimit, DNSLabel, DNSSubdomain, EnginesPerGPU, TensorParallel, Tokens
from shoal.api.lists import atomic
from shoal.api.model_service import MAX_NAME_LENGTH, Objectives, is_service_name
from shoal.api.profile_run_status import MOST_CONFIGURATIONS, ProfileRunStatus
from shoal.api.sources import ModelReference

LENGTHS_INPUT: Final = 512
LENGTHS_OUTPUT: Final = 128


class MeasuredEngine(Shape):
    """Which engine is measured."""

    class_: DNSLabel | None = Field(
        None,
        description="Name of the EngineClass: image, version and resources of the engine, set by the administrator. "
        f"Default: {defaults.ENGINE_CLASS}.",
    )


class MeasuredConfiguration(Shape):
    """One way to lay engines over GPUs."""

    rules: ClassVar = (
        Rule(
            "!has(self.tensorParallel) || !has(self.enginesPerGPU) || self.tensorParallel == 1 || "
            "self.enginesPerGPU == 1",
            "engines share a GPU only with tensorParallel 1: set one of tensorParallel and enginesPerGPU to 1",
            lambda chosen: 1 in (chosen.tensor_parallel or 1, chosen.engines_per_gpu or 1),
        ),
        Rule(
            f"(has(self.maxNumBatchedTokens) ? self.maxNumBatchedTokens : {defaults.MAX_NUM_BATCHED_TOKENS}) >= "
            f"(has(self.maxNumSeqs) ? self.maxNumSeqs : {defaults.MAX_NUM_SEQS})",
            "maxNumBatchedTokens must be at least maxNumSeqs: each running request needs a token in a step",
            lambda chosen: (
                (chosen.max_num_batched_tokens or defaults.MAX_NUM_BATCHED_TOKENS)
                >= (chosen.max_num_seqs or defaults.MAX_NUM_SEQS)
            ),
        ),
    )

    tensor_parallel: TensorParallel | None = Field(None, description="GPUs per engine. Default: 1.")
    engines_per_gpu: EnginesPerGPU | None = Field(
        None, description="Engines that share one GPU; more than one needs a pool that is claimed by DRA. Default: 1."
    )
    max_num_seqs: BatchLimit | None = Field(
        None, description=f"Requests an engine works on at once, at most. Default: {defaults.MAX_NUM_SEQS}."
    )
    max_num_batched_tokens: BatchLimit | None = Field(
        None,
        description="Tokens an engine computes in one step, at most (its chunk budget). "
        f"Default: {defaults.MAX_NUM_BATCHED_TOKENS}.",
    )


class MeasuredLengths(Shape):
    """Lengths of the requests that are sent."""

    input_tokens: Tokens = Field(description="Mean length of the prompts, in tokens.")
    output_tokens: Tokens = Field(description="Mean length of the answers, in tokens.")
    distribution: Literal["Lognormal", "Gamma", "Fixed"] | None = Field(
        None,
        description="How lengths scatter around their means; all but Fixed with a standard deviation of 0.71 of the "
        f"mean, as in logs of chats. Default: {defaults.LENGTH_DISTRIBUTION}.",
    )


class ProfileRunSpec(Shape):
    """What is measured. A change begins anew."""

    rules: ClassVar = (
        Rule(
            "!has(self.configurations) || self.configurations.size() <= "
            f"(has(self.budgetMinutes) ? self.budgetMinutes : {defaults.BUDGET_MINUTES})",
            "a configuration needs at least a minute: raise budgetMinutes or name fewer configurations",
            lambda spec: len(spec.configurations or ()) <= (spec.budget_minutes or defaults.BUDGET_MINUTES),
        ),
        Rule(
            "!has(self.lengths) || !has(self.model.maxContextTokens) || self.lengths.inputTokens + "
            "self.lengths.outputTokens <= double(self.model.maxContextTokens)",
            "lengths: mean input and output tokens together must fit into model.maxContextTokens",
            lambda spec: (
                spec.lengths is None
                or spec.model.max_context_tokens is None
                or spec.lengths.input_tokens + spec.lengths.output_tokens <= spec.model.max_context_tokens
            ),
        ),
    )

    model: ModelReference = Field(description="Which model is measured, and where it comes from.")
    engine: MeasuredEngine | None = Field(None, description="Which engine is measured. Default: the default class.")
    pool: DNSLabel = Field(description="GPUPool on which it is measured.")
    configurations: Annotated[tuple[MeasuredConfiguration, ...], atomic(MOST_CONFIGURATIONS, min_items=1)] | None = (
        Field(
            None,
            description="What is measured, one after the other. Default: one engine on as few GPUs as it fits into.",
        )
    )
    lengths: MeasuredLengths | None = Field(
        None,
        description="Lengths of the requests; a profile is carried to other lengths by its step times. "
        f"Default: {LENGTHS_INPUT} tokens in and {LENGTHS_OUTPUT} out.",
    )
    slo: Objectives | None = Field(
        None,
        description="Objective whose highest rate is searched for; a profile serves other objectives too. "
        "Default: none, the highest rate at which no queue grows.",
    )
    budget_minutes: int | None = Field(
        None,
        ge=1,
        le=1440,
        description="Minutes of measuring, shared equally by the configurations; starts of engines come on top. "
        f"Ten for each configuration give full precision. Default: {defaults.BUDGET_MINUTES}.",
    )
    profile_name: DNSSubdomain | None = Field(
        None,
        description="Name of the ModelProfile that is written into this namespace. Default: the name of this object.",
    )


class ProfileRun(Resource):
    """Asks for a measurement of a model on a pool. Shoal runs it beside the services, and writes a ModelProfile."""

    rules: ClassVar = (
        Rule(
            f"size(self.metadata.name) <= {MAX_NAME_LENGTH}",
            f"metadata.name may have at most {MAX_NAME_LENGTH} characters, as other names are made from it",
            lambda run: len(run.metadata.name) <= MAX_NAME_LENGTH,
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must start with a letter and have only lower-case letters, digits and -",
            lambda run: is_service_name(run.metadata.name),
        ),
    )

    kind: Literal["ProfileRun"] = "ProfileRun"
    spec: ProfileRunSpec = Field(description="What is measured.")
    status: ProfileRunStatus | None = Field(None, description="How far it is, and what was found.")
