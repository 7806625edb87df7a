"""ModelProfile: performance of one model on one GPU type and engine version.

`shoal.api.convert` makes the domain's Profile of it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shoal.api.base import Resource, Rule, Shape
from shoal.api.fields import (
    AcceleratorName,
    APIServers,
    BatchLimit,
    EnginesPerGPU,
    ModelName,
    TensorParallel,
    Timestamp,
)
from shoal.api.lists import atomic
from shoal.api.workload import Lengths
from shoal.domain.profile import Link, Source

Latency = Annotated[float, Field(gt=0, le=86_400_000)]
PositiveRate = Annotated[float, Field(gt=0, le=1_000_000)]
StepTime = Annotated[float, Field(ge=0, le=1_000_000)]
Text = Annotated[str, Field(max_length=512)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ProfiledModel(Shape):
    """The model, and what it needs of memory on any GPU."""

    name: ModelName = Field(description="Name of the model, as in ModelService.spec.model.name.")
    parameter_count: float = Field(ge=1e5, le=1e14, description="Number of parameters.")
    weights_bytes: float = Field(ge=1e5, le=1e15, description="Bytes of the weights as they are loaded.")
    kv_bytes_per_token: float = Field(ge=1, le=1e9, description="Bytes of KV cache for one token of context.")
    max_context_tokens: int = Field(ge=64, le=16_777_216, description="Longest context the model can take, in tokens.")


class ProfiledEngine(Shape):
    """The engine that was measured."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-z][a-z0-9.-]*$")] = Field(
        description="Name of the engine, as in vllm."
    )
    version: Annotated[str, Field(min_length=1, max_length=32, pattern="^[0-9A-Za-z][0-9A-Za-z.+-]*$")] = Field(
        description="Its version. Another version's profile counts as stale."
    )


def _rises(values: list[float | None]) -> bool:
    known = [value for value in values if value is not None]
    return known == sorted(known)


class LatencyQuantiles(Shape):
    """A latency distribution in milliseconds; what was not measured is left out."""

    rules: ClassVar = (
        Rule(
            "((has(self.p50) ? [self.p50] : []) + (has(self.p90) ? [self.p90] : []) + "
            "(has(self.p95) ? [self.p95] : []) + (has(self.p99) ? [self.p99] : [])).isSorted()",
            "quantiles must rise: p50 <= p90 <= p95 <= p99",
            lambda q: _rises([q.p50, q.p90, q.p95, q.p99]),
        ),
    )

    mean: Latency = Field(description="Mean, in milliseconds.")
    p50: Latency | None = Field(None, description="Median, in milliseconds.")
    p90: Latency | None = Field(None, description="90th percentile, in milliseconds.")
    p95: Latency | None = Field(None, description="95th percentile, in milliseconds.")
    p99: Latency | None = Field(None, description="99th percentile, in milliseconds.")


class ProfilePoint(Shape):
    """Latency of one engine at one offered rate."""

    requests_per_second: PositiveRate = Field(description="Requests offered to this engine per second.")
    ttft_milliseconds: LatencyQuantiles = Field(description="Time to first token, over requests.")
    itl_milliseconds: LatencyQuantiles = Field(description="Mean gap between the tokens of an answer, over requests.")
    watts: Annotated[float, Field(ge=0, le=100_000)] | None = Field(
        None, description="Mean power of the GPUs of a replica, in watts."
    )


class StepTimes(Shape):
    """Time of one step of the engine.

    A step that only decodes takes alpha + (beta + gamma*context) * running sequences; one that also reads prompts at
    least a floor.
    """

    alpha_ms: StepTime = Field(description="Time of a step without work, in milliseconds: launches and weights.")
    beta_ms_per_token: StepTime = Field(description="Time for each token computed, in milliseconds.")
    gamma_ms_per_kv_token: StepTime = Field(description="Time for each token of KV cache read, in milliseconds.")
    floor_small_ms: StepTime | None = Field(
        None, description="Least time of a step that reads up to 512 prompt tokens, in milliseconds. Default: 0."
    )
    floor_large_ms: StepTime | None = Field(
        None, description="Least time of a step that reads more prompt tokens, in milliseconds. Default: 0."
    )
    api_tokens_per_second: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None, description="Tokens one server process can stream per second. Default: never the limit."
    )


class RowEvidence(Shape):
    """What live traffic said of a learned row, over means of TTFT and ITL."""

    requests: Annotated[float, Field(ge=0, le=1e15)] = Field(description="Requests the step times were learned from.")
    highest_rate: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        description="Highest rate of one engine, in requests per second, at which the SLO was seen to be met."
    )
    percentile: Annotated[int, Field(ge=50, le=99)] = Field(description="That SLO's percentile.")
    ttft_milliseconds: Latency | None = Field(None, description="That SLO's time to first token. Default: none.")
    itl_milliseconds: Latency | None = Field(None, description="That SLO's gap between tokens. Default: none.")
    ttft_ratio: Annotated[float, Field(gt=0, le=10_000)] | None = Field(
        None, description="Mean TTFT observed over predicted. Default: 1."
    )


class StepErrors(Shape):
    """How far the step times may be off: standard errors of the terms, and of the gaps they were fitted to."""

    alpha_ms: StepTime | None = Field(None, description="Of alphaMs. Left out here and below: cannot be told.")
    beta_ms_per_token: StepTime | None = Field(None, description="Of betaMsPerToken.")
    gamma_ms_per_kv_token: StepTime | None = Field(None, description="Of gammaMsPerKVToken.")
    floor_small_ms: StepTime | None = Field(None, description="Of floorSmallMs.")
    floor_large_ms: StepTime | None = Field(None, description="Of floorLargeMs.")
    api_tokens_per_second: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="Of apiTokensPerSecond."
    )
    relative_rms: Annotated[float, Field(ge=0, le=100)] = Field(
        description="Root mean square of fitted over measured gap, minus 1."
    )
    relative_worst: Annotated[float, Field(ge=0, le=100)] = Field(description="The largest of them.")


class RowErrors(Shape):
    """Standard errors of what was measured directly: of the sample, or of repeated runs where those differ more."""

    overload_rate: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(None, description="Of overloadRate.")
    kv_cache_tokens: Annotated[float, Field(ge=0, le=1e12)] | None = Field(
        None, description="Of kvCacheTokens; 0: every engine told the same."
    )


class RowProvenance(Shape):
    """How one row came about, where rows of several measurements stand together."""

    tool: Text | None = Field(None, description="Program that measured or computed, with its version.")
    engine: Text | None = Field(None, description="Engine and version.")
    gpu_name: Text | None = Field(None, description="Name of the GPU as its driver reports it.")
    driver: Text | None = Field(None, description="Version of the GPU's driver.")
    clock_mhz: Annotated[float, Field(ge=1, le=100_000)] | None = Field(
        None, description="SM clock under load while measuring, in MHz."
    )
    link: Link | None = Field(None, description="How the GPUs talked to each other.")
    date: Timestamp | None = Field(None, description="When it was measured.")
    lengths: Text | None = Field(None, description="Distribution of the lengths, as in gamma:512,128.")
    source: Source | None = Field(None, description="Where these numbers come from.")
    runs: Count | None = Field(None, description="Measurements that were pooled. Default: 1.")
    windows: Count | None = Field(None, description="Steps of the measurement that count, probes included.")
    requests: Count | None = Field(None, description="Requests that were answered in them.")
    partial: bool | None = Field(None, description="Whether the measurement ended before its time.")
    notes: Text | None = Field(None, description="What a reader should know, as the knee and how sure it is.")


class ProfileRowSpec(Shape):
    """One configuration at one mix of lengths. All rates are for one engine while its neighbours carry the same."""

    rules: ClassVar = (
        Rule(
            "self.tensorParallel == 1 || self.enginesPerGPU == 1",
            "engines share a GPU only with tensorParallel 1",
            lambda row: 1 in (row.tensor_parallel, row.engines_per_gpu),
        ),
        Rule(
            "!has(self.mps) || !self.mps || self.enginesPerGPU > 1",
            "mps is about engines that share a GPU: leave it out where there is one",
            lambda row: not row.mps or row.engines_per_gpu > 1,
        ),
        Rule(
            "has(self.points) || has(self.overloadRate) || has(self.steps)",
            "a row needs points, overloadRate or steps: without them it says nothing",
            lambda row: row.points is not None or row.overload_rate is not None or row.steps is not None,
        ),
        Rule(
            "!has(self.points) || self.points.map(point, point.requestsPerSecond).isSorted()",
            "points must be sorted by requestsPerSecond",
            lambda row: _rises([point.requests_per_second for point in row.points or ()]),
        ),
    )

    tensor_parallel: TensorParallel = Field(description="GPUs per engine.")
    engines_per_gpu: EnginesPerGPU = Field(description="Engines that shared one GPU.")
    mps: bool | None = Field(
        None,
        description="Whether they shared it through MPS. Such a row counts only where GPUPool.spec.sharing is MPS, "
        "one without only where it is not. Default: false.",
    )
    max_num_seqs: BatchLimit = Field(description="Requests the engine worked on at once, at most.")
    max_num_batched_tokens: BatchLimit = Field(description="Tokens the engine computed in one step, at most.")
    api_servers: APIServers | None = Field(
        None, description="Server processes in front of the engine (--api-server-count). Default: 1."
    )
    kv_cache_tokens: Annotated[float, Field(ge=1, le=1e12)] = Field(
        description="Tokens the KV cache of one engine holds, as the engine reports."
    )
    input_tokens: Lengths = Field(description="Length of the prompts.")
    output_tokens: Lengths = Field(description="Length of the answers.")
    overload_rate: PositiveRate | None = Field(
        None, description="Requests per second that one engine finishes when overloaded. Default: not measured."
    )
    points: Annotated[tuple[ProfilePoint, ...], atomic(32, min_items=1)] | None = Field(
        None, description="Latency at several rates, the lowest rate first."
    )
    steps: StepTimes | None = Field(None, description="Fitted step times; they carry the row to other lengths.")
    step_errors: StepErrors | None = Field(None, description="How well the step times are known.")
    errors: RowErrors | None = Field(None, description="How well the other numbers are known.")
    provenance: RowProvenance | None = Field(None, description="How this row came about.")
    evidence: RowEvidence | None = Field(None, description="Of a learned row: what live traffic said of it.")


class Provenance(Shape):
    """How the numbers came about."""

    tool: Text | None = Field(None, description="Program that measured or computed.")
    version: Text | None = Field(None, description="Version of that program.")
    gpu_name: Text | None = Field(None, description="Name of the GPU as its driver reports it.")
    driver: Text | None = Field(None, description="Version of the GPU's driver.")
    date: Timestamp | None = Field(None, description="When it was measured.")
    host: Text | None = Field(None, description="The host: processor, cores per engine.")
    command: Annotated[str, Field(max_length=2048)] | None = Field(None, description="Command that was run.")
    notes: Annotated[str, Field(max_length=2048)] | None = Field(None, description="What a reader should know.")
    source_url: Text | None = Field(None, description="Where imported numbers were published.")


class ModelProfileSpec(Shape):
    """Performance of one model on one GPU type and engine version."""

    model: ProfiledModel = Field(description="The model, and what it needs of memory on any GPU.")
    accelerator: AcceleratorName = Field(description="GPU type, as in GPUPool.spec.accelerator.")
    engine: ProfiledEngine = Field(description="The engine that was measured.")
    link: Link | None = Field(None, description="How the GPUs talked to each other. Default: None.")
    clock_mhz: Annotated[float, Field(ge=1, le=100_000)] | None = Field(
        None, description="SM clock under load while measuring, in MHz; derating compares with it. Default: unknown."
    )
    source: Source = Field(
        description="Where the numbers come from. Estimated ones, and those that another service learned, may add "
        "replicas, but never remove any or share GPUs."
    )
    rows: Annotated[tuple[ProfileRowSpec, ...], atomic(256, min_items=1)] = Field(
        description="What was found, for each configuration and mix of lengths."
    )
    provenance: Provenance | None = Field(None, description="How the numbers came about.")


class ModelProfile(Resource):
    """Measured, learned, estimated or simulated performance of one model on one GPU type and engine version."""

    kind: Literal["ModelProfile"] = "ModelProfile"
    spec: ModelProfileSpec = Field(description="What was found.")
