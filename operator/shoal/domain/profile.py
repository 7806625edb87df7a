"""Measured, learned, estimated or simulated performance of one model on one GPU type and engine version."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Source(enum.StrEnum):
    """Where the numbers of a profile come from."""

    MEASURED = "Measured"
    LEARNED = "Learned"  # from the live traffic of the service itself
    ESTIMATED = "Estimated"  # a roofline or somebody's model
    SIMULATED = "Simulated"  # measured on a simulated engine: true in the simulated world only


class Link(enum.StrEnum):
    """How the GPUs of a node talk to each other. Tensor parallelism needs a fast one."""

    NVLINK = "NVLink"
    PCIE = "PCIe"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model needs of memory, whatever the GPU."""

    parameters: float  # count
    weights_bytes: float
    kv_bytes_per_token: float
    max_context_tokens: int


@dataclass(frozen=True, slots=True)
class LengthMix:
    """Request lengths in tokens. `p95` values bound the tail; where unknown they equal twice the mean."""

    input_mean: float
    output_mean: float
    input_p95: float
    output_p95: float

    @property
    def mean_context(self) -> float:
        """Mean tokens in the KV cache of a running sequence: its prompt and half of its output."""
        return self.input_mean + self.output_mean / 2


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A latency distribution in milliseconds. None: not measured."""

    mean: float
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class RatePoint:
    """Latency of one engine at one offered rate (requests per second of that engine)."""

    rate: float
    ttft: Quantiles
    itl: Quantiles
    watts: float | None = None


@dataclass(frozen=True, slots=True)
class StepModel:
    """Step time of one engine, in milliseconds.

    A step that only decodes takes `alpha + (beta + gamma*ctx) * N` for N running sequences of mean context ctx. A
    step that also prefills A prompt tokens
    takes `max(that + beta*A, floor_small)` up to 512 tokens and `max(that + beta*A, floor_large)` above.
    `api_tokens_per_second` is what one
    API-server process can stream (None: never the limit).
    """

    alpha_ms: float
    beta_ms_per_token: float
    gamma_ms_per_kv_token: float
    floor_small_ms: float = 0.0
    floor_large_ms: float = 0.0
    api_tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One configuration at one length mix.

    All rates are **per engine**, while every engine of the GPU carries the same load. `overload_rate` is the throughput
    when overloaded (requests per second; None: not measured).
    """

    tensor_parallel: int
    engines_per_gpu: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_tokens: float  # per engine
    lengths: LengthMix
    overload_rate: float | None = None
    points: tuple[RatePoint, ...] = ()  # sorted by rate
    steps: StepModel | None = None
    api_servers: int = 1  # server processes in front of the engine that was measured
    mps: bool = False  # engines shared the GPU through MPS


@dataclass(frozen=True, slots=True)
class Profile:
    """Performance of one model on one GPU type with one engine version.

    `clock_mhz` is the SM clock under load it was measured at (None: unknown).
    """

    name: str
    namespace: str
    model: str
    accelerator: str
    engine: str
    engine_version: str
    source: Source
    facts: ModelFacts
    rows: tuple[ProfileRow, ...]
    link: Link = Link.NONE
    clock_mhz: float | None = None
