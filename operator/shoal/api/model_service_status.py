"""Status of a ModelService: what was decided, why, and what is seen.

At most 8 KB in all; render/status.py keeps to it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shoal.api.base import Shape
from shoal.api.conditions import Conditions
from shoal.api.fields import (
    AcceleratorName,
    APIServers,
    BatchLimit,
    CamelWord,
    DNSLabel,
    DNSSubdomain,
    EnginesPerGPU,
    Generation,
    GPUCount,
    Milliseconds,
    Money,
    ParameterCount,
    Rate,
    Ratio,
    Replicas,
    Revision,
    Sentence,
    ServedName,
    TensorParallel,
    Timestamp,
    Tokens,
)
from shoal.api.lists import atomic, list_map, unique
from shoal.domain.profile import Source
from shoal.domain.service import Mode, RequiredProfile

Summary = Annotated[str, Field(max_length=128)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class EffectiveWorkload(Shape):
    """Planned for until traffic is seen."""

    requests_per_second: Rate = Field(description="Request rate.")
    input_tokens_mean: Tokens = Field(description="Mean tokens of the prompts.")
    input_tokens_p95: Tokens = Field(description="p95 of the prompts.")
    output_tokens_mean: Tokens = Field(description="Mean tokens of the answers.")
    output_tokens_p95: Tokens = Field(description="p95 of the answers.")


class Effective(Shape):
    """The wish as Shoal read it: what was left out in spec stands here as it was filled in."""

    served_name: ServedName = Field(description="What clients send as `model`.")
    revision: Revision = Field(description="Revision of the model that is loaded.")
    max_context_tokens: int = Field(ge=64, le=16_777_216, description="Longest prompt and answer together, in tokens.")
    parameters: ParameterCount | None = Field(None, description="Number of parameters, if known.")
    source: Literal["HuggingFace", "PersistentVolumeClaim", "OCIImage"] = Field(
        description="Where the model is loaded from."
    )
    engine_class: DNSLabel = Field(description="EngineClass in use.")
    pools: Annotated[tuple[DNSLabel, ...], unique(16)] = Field(description="GPUPools that may be used.")
    percentile: int = Field(ge=50, le=99, description="Percent of the requests that must meet the objectives.")
    workload: EffectiveWorkload = Field(description="Planned for until traffic is seen.")
    min_replicas: Replicas = Field(description="Replicas that run even without traffic.")
    max_gpus: GPUCount | None = Field(None, description="GPUs it may hold, if limited.")
    standby_step_factor: float | None = Field(None, gt=1, le=10, description="As in spec.")
    standby_max_miss_percent: float | None = Field(None, ge=0, lt=100, description="As in spec.")
    tensor: Annotated[tuple[TensorParallel, ...], unique(4)] = Field(description="GPUs per engine that are considered.")
    engines_per_gpu: Annotated[tuple[EnginesPerGPU, ...], unique(4)] = Field(
        description="Engines per GPU that are considered."
    )
    profile_require: RequiredProfile = Field(description="Which performance data the plan may rest on.")
    priority: int = Field(ge=0, le=1000, description="Priority after the pools' caps.")
    routing: Literal["Envoy", "Service"] = Field(description="How requests reach the engines.")
    mode: Mode = Field(description="Who decides.")


class Placed(Shape):
    """A configuration in one pool."""

    pool: DNSLabel = Field(description="GPUPool it runs in.")
    accelerator: AcceleratorName = Field(description="GPU type.")
    tensor_parallel: TensorParallel = Field(description="GPUs per engine.")
    engines_per_gpu: EnginesPerGPU = Field(description="Engines that share one GPU.")
    max_num_seqs: BatchLimit = Field(description="Requests per engine at once.")
    max_num_batched_tokens: BatchLimit = Field(description="Tokens per step of an engine.")
    api_servers: APIServers | None = Field(None, description="API servers of one engine.")


class PlanVariant(Placed):
    """A configuration that runs: one Deployment."""

    name: DNSSubdomain = Field(description="Name of the Deployment.")
    replicas: Replicas = Field(description="Replicas it shall have.")
    capacity_per_replica: Rate = Field(description="Requests per second of a replica within the SLO.")
    capacity_per_engine: Rate = Field(description="Requests per second of an engine within the SLO.")
    weight: int = Field(ge=0, le=1000, description="An engine's share of the traffic; 1000 for the best.")


class Predicted(Shape):
    """What to expect at the present demand."""

    ttft_milliseconds: Milliseconds | None = Field(None, description="At the SLO's percentile.")
    itl_milliseconds: Milliseconds | None = Field(None, description="At the SLO's percentile.")
    utilization: float = Field(ge=0, le=1000, description="Demand over capacity; above 1 misses the SLO.")


class PlanStatus(Shape):
    """The replicas of each variant, and why."""

    summary: Summary = Field(description="In short: 2xTP1 is two replicas of one GPU each.")
    variants: Annotated[tuple[PlanVariant, ...], list_map("name", max_items=16)] = Field(
        description="The configurations that shall run."
    )
    gpus: GPUCount = Field(description="GPUs the plan takes.")
    predicted: Predicted = Field(description="What to expect at the present demand.")
    cost_per_hour: Money = Field(description="Price of its GPUs, in the currency of the pools.")
    binding_constraint: CamelWord = Field(description="What keeps it from being cheaper, or from meeting the wish.")
    reason: Sentence = Field(description="Why, with numbers.")


class FrontierEntry(Placed):
    """Not beaten on capacity per GPU, latency and cost together."""

    capacity_per_replica: Rate = Field(description="Requests per second of a replica within the SLO.")
    capacity_per_gpu: Rate = Field(description="The same for each GPU.")
    ttft_milliseconds: Milliseconds | None = Field(None, description="Time to first token at that rate.")
    itl_milliseconds: Milliseconds | None = Field(None, description="Mean gap between tokens at that rate.")
    source: Source = Field(description="Where the numbers come from.")


class RejectedEntry(Shape):
    """A configuration that is not used."""

    configuration: Summary = Field(description="The configuration in short.")
    reason: Sentence = Field(description="Why not, with numbers.")


class LearningEntry(Shape):
    """Means of the newest window, and what was learned so far."""

    configuration: Summary = Field(description="The configuration in short.")
    requests: Annotated[float, Field(ge=0, le=1e15)] = Field(description="Requests compared so far.")
    credited_rate: Rate | None = Field(None, description="Requests per second credited to an engine.")
    time_ratio: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="How many times slower than predicted."
    )
    ttft_predicted: Milliseconds | None = Field(None, description="Milliseconds.")
    ttft_observed: Milliseconds | None = Field(None, description="Milliseconds.")
    itl_predicted: Milliseconds | None = Field(None, description="Milliseconds.")
    itl_observed: Milliseconds | None = Field(None, description="Milliseconds.")


class ObservedTraffic(Shape):
    """What was measured lately. Live numbers are metrics; this is written at most once a minute."""

    requests_per_second: Rate | None = Field(None, description="Arriving requests.")
    ttft_milliseconds: Milliseconds | None = Field(None, description="Mean time to first token.")
    itl_milliseconds: Milliseconds | None = Field(None, description="Mean gap between tokens.")
    input_tokens_mean: Tokens | None = Field(None, description="Mean tokens of the prompts.")
    output_tokens_mean: Tokens | None = Field(None, description="Mean tokens of the answers.")
    at: Timestamp = Field(description="When this was measured.")


class GPUUse(Shape):
    """A GPU that the service holds."""

    pod: DNSSubdomain = Field(description="Pod that holds it.")
    node: DNSSubdomain = Field(description="Node it is in.")
    uuid: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Absent where a device plugin does not tell."
    )
    derating: Ratio | None = Field(None, description="Capacity left: 0.8 lost a fifth; absent: unknown.")
    reason: Sentence | None = Field(None, description="Why it is derated, or why that is unknown.")
    clock_mhz: Annotated[float, Field(ge=0, le=1e5)] | None = Field(None, description="SM clock at observed.at, MHz.")
    power_watts: Annotated[float, Field(ge=0, le=1e5)] | None = Field(None, description="Power at observed.at.")
    temperature_c: Annotated[float, Field(ge=0, le=1000)] | None = Field(None, description="Heat at observed.at, °C.")


class HistoryEntry(Shape):
    """One past decision."""

    at: Timestamp = Field(description="When.")
    from_: Summary = Field(description="The plan before.")
    to: Summary = Field(description="The plan after.")
    why: Annotated[str, Field(max_length=256)] = Field(description="Why, with numbers.")


class TargetEntry(Placed):
    """Replicas of one configuration."""

    replicas: Replicas = Field(description="Replicas decided.")


class RememberedLengths(Shape):
    """Observed request lengths that the plan rests on."""

    input_tokens_mean: Tokens = Field(description="Mean of the prompts.")
    input_tokens_p95: Tokens = Field(description="p95 of the prompts.")
    output_tokens_mean: Tokens = Field(description="Mean of the answers.")
    output_tokens_p95: Tokens = Field(description="p95 of the answers.")


class MemoryStatus(Shape):
    """What decisions need after a restart of the operator. Losing it is safe: it never causes a scale-down."""

    target: Annotated[tuple[TargetEntry, ...], atomic(16)] | None = Field(None, description="The plan last decided.")
    last_move_at: Timestamp | None = Field(None, description="When replicas were last added or given up.")
    last_mix_change_at: Timestamp | None = Field(None, description="When the configurations were last changed.")
    startup_seconds_p90: Seconds | None = Field(None, description="Start-up time of 9 in 10 engines.")
    mix_wanted_since: Timestamp | None = Field(
        None, description="Since when another mix of configurations has been worth its move."
    )
    traffic_seen: bool | None = Field(None, description="Traffic has arrived: spec.workload no longer counts.")
    lengths: RememberedLengths | None = Field(
        None, description="Request lengths planned for, until observed ones are far off."
    )


class ModelServiceStatus(Shape):
    """What Shoal decided, why, and what it sees."""

    observed_generation: Generation | None = Field(None, description="metadata.generation this status is about.")
    conditions: Conditions | None = Field(
        None,
        description="Ready, Stalled, SLOMet, Degraded and others: see the user guide.",
    )
    url: Annotated[str, Field(max_length=512)] | None = Field(None, description="OpenAI-compatible API, for clients.")
    slo_summary: Summary | None = Field(None, description="The objective, and whether it is met.")
    replicas: Replicas | None = Field(None, description="Pods that exist.")
    ready_replicas: Replicas | None = Field(None, description="Pods that serve.")
    selector: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="Label selector of the pods, for HPA and KEDA."
    )
    effective: Effective | None = Field(None, description="spec with its defaults filled in.")
    plan: PlanStatus | None = Field(None, description="What shall run, and why.")
    frontier: Annotated[tuple[FrontierEntry, ...], atomic(8)] | None = Field(
        None, description="The best configurations."
    )
    rejected: Annotated[tuple[RejectedEntry, ...], atomic(8)] | None = Field(
        None, description="Configurations that are not used, and why."
    )
    observed: ObservedTraffic | None = Field(None, description="What was measured lately.")
    learning: Annotated[tuple[LearningEntry, ...], atomic(4)] | None = Field(
        None, description="Predicted beside observed latencies."
    )
    gpus: Annotated[tuple[GPUUse, ...], atomic(64)] | None = Field(
        None, description="GPUs it holds, the most derated first."
    )
    history: Annotated[tuple[HistoryEntry, ...], atomic(10)] | None = Field(
        None, description="The last decisions, the newest first."
    )
    memory: MemoryStatus | None = Field(None, description="What decisions need after a restart. Losing it is safe.")
