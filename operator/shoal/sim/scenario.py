"""What a simulation plays: pools, services with their traffic, and what happens to GPUs meanwhile."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from shoal.domain.profile import Link
from shoal.domain.service import Limits, Objective, Parallelism
from shoal.sim.incidents import Absence, FailingStarts, GPULoss, Heat, Incident, NodeLoss
from shoal.sim.rates import Schedule, seconds_of
from shoal.sim.traces import Trace
from shoal.sim.traffic import LENGTH_SCV, Arrival, Shape, Traffic


class ScenarioError(ValueError):
    """The scenario cannot be played; the message names the field."""


class Routing(enum.StrEnum):
    """How requests find an engine."""

    DOOR = "door"  # Envoy's weighted least request; refused ones are tried elsewhere within the TTFT objective
    LEAST_REQUEST = "least-request"  # the same without a second try
    ROUND_ROBIN = "round-robin"  # in turn, without a second try


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool of simulated GPUs, `per_node` of them on each node."""

    name: str
    accelerator: str
    gpus: int
    per_node: int = 4
    memory_gib: float = 80.0
    max_clock_mhz: float = 1980.0
    price_per_gpu_hour: float = 1.0
    link: Link = Link.NVLINK


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A ModelService and its traffic: a schedule of rates, or a trace.

    `declared_rate` None: nothing was declared. `pools` empty: all. `burst_cv`: coefficient of variation of the gaps
    between arrivals (1: Poisson). `length_cv` None: the usual 0.71.
    """

    name: str
    model: str
    objective: Objective
    schedule: Schedule = ()
    trace: Trace | None = None
    input_mean: float = 512.0
    output_mean: float = 128.0
    length_shape: Shape = Shape.GAMMA
    length_cv: float | None = None
    burst_cv: float = 1.0
    wander: float = 0.0
    wander_seconds: float = 60.0
    declared_rate: float | None = None
    pools: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    parallelism: Parallelism = field(default_factory=Parallelism)
    max_context_tokens: int = 8192
    priority: int = 0

    @property
    def seconds(self) -> float:
        """How long requests arrive."""
        return self.trace.seconds if self.trace is not None else seconds_of(self.schedule)

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Every request, in order. Services of one scenario draw apart from each other, whatever their order."""
        if self.trace is not None:
            return self.trace.arrivals(self.max_context_tokens)
        traffic = Traffic(
            self.schedule,
            self.input_mean,
            self.output_mean,
            f"{seed} {self.name}",
            self.max_context_tokens,
            self.length_shape,
            LENGTH_SCV if self.length_cv is None else self.length_cv**2,
            self.burst_cv**2,
            self.wander,
            self.wander_seconds,
        )
        return traffic.arrivals()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One play. It lasts as long as the longest traffic; then requests under way are still answered.

    `startup_spread`: start-ups take that share less or more, drawn evenly. `max_waiting`: requests that an engine
    queues before it refuses (None: one batch, 0: no bound).
    """

    name: str
    pools: tuple[PoolSpec, ...]
    services: tuple[ServiceSpec, ...]
    heat: tuple[Heat, ...] = ()
    gpu_loss: tuple[GPULoss, ...] = ()
    node_loss: tuple[NodeLoss, ...] = ()
    absence: tuple[Absence, ...] = ()
    failing_starts: tuple[FailingStarts, ...] = ()
    routing: Routing = Routing.DOOR
    max_waiting: int | None = None
    startup_seconds: float = 90.0
    startup_spread: float = 0.0
    tick_seconds: float = 5.0
    drain_seconds: float = 120.0
    shrink_after_seconds: float = 120.0
    settle_seconds: float = 60.0  # after a step of the rate; the share within the SLO is also told without them
    seed: int = 0

    @property
    def seconds(self) -> float:
        """How long requests arrive."""
        return max(service.seconds for service in self.services)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Everything that happens to the fleet and to those who watch it."""
        return (*self.heat, *self.gpu_loss, *self.node_loss, *self.absence, *self.failing_starts)
