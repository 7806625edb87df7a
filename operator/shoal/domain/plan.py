"""What `decide()` answers: one Decision for each ModelService, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.domain.configuration import Placement
from shoal.domain.live import Residual
from shoal.domain.reasons import Binding, HoldReason, ProfileState, Rejection
from shoal.domain.service import ServiceKey


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one engine of a placement carries within the SLO, undimmed by heat, margin already taken.

    `rate` and `overload_rate` are requests per second of one engine. The latencies are those predicted at `rate`: the
    SLO's percentile, and the mean that the live residual compares.
    """

    rate: float
    overload_rate: float
    ttft_ms: float | None
    itl_ms: float | None
    margin: float
    source: ProfileState
    profile: str | None  # namespace/name
    limit: str  # which term binds: "TTFT", "ITL", "KV", "batch", "API server", "measured knee"
    credited: float | None = None
    """Of a configuration that is learned: the rate live traffic vouches for. Only what this carries may be given back;
    None: `rate`."""
    notes: tuple[str, ...] = ()  # where this leaves what was measured or checked


@dataclass(frozen=True, slots=True)
class PlannedVariant:
    """The replicas one placement shall have in the end."""

    placement: Placement
    replicas: int
    capacity: Capacity

    @property
    def gpus(self) -> int:
        """GPUs all replicas occupy."""
        return self.replicas * self.placement.configuration.gpus_per_replica

    @property
    def replica_rate(self) -> float:
        """Requests per second that one undimmed replica carries within the SLO."""
        return self.capacity.rate * self.placement.configuration.engines_per_replica


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the plan should show at the present demand.

    Percentile latencies in milliseconds; utilization is demand over capacity.
    """

    ttft_ms: float | None
    itl_ms: float | None
    utilization: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The target. No variants: nothing can run."""

    variants: tuple[PlannedVariant, ...]
    predicted: Prediction
    cost_per_hour: float
    binding: Binding

    @property
    def gpus(self) -> int:
        """GPUs of the target."""
        return sum(variant.gpus for variant in self.variants)

    @property
    def replicas(self) -> int:
        """Replicas of the target."""
        return sum(variant.replicas for variant in self.variants)

    @property
    def summary(self) -> str:
        """`2xTP1`, `1xTP2`, `3x(4/GPU)`, joined by `+`; `none` when nothing can run."""
        return (
            "+".join(f"{v.replicas}x{v.placement.configuration.shape}" for v in self.variants if v.replicas) or "none"
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """The request rate to plan for.

    `rate` is the mean of the present window, `forecast` its value when a new replica would be ready; all in requests
    per second.
    """

    rate: float
    forecast: float
    standard_error: float
    slope: float  # requests per second, per second
    window_seconds: float
    observed: bool  # False: the declared or assumed workload
    stuck_replicas: int = 0
    changing: bool = False  # a change is too young to be measured: `rate` is the one before it
    trend: float = 0.0  # as the slope, over ten minutes, in which slower ones show
    recent: float = 0.0  # mean rate of the last five minutes, whatever changed in them
    latest: float = 0.0  # mean rate of the last minute


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A configuration no other one beats."""

    placement: Placement
    capacity: Capacity
    rate_per_gpu: float
    cost_per_million_requests: float


@dataclass(frozen=True, slots=True)
class RejectedOption:
    """A configuration that is not used, and why, in words with numbers."""

    placement: Placement
    reason: Rejection
    message: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The numbers a decision rests on."""

    demand: Demand
    profile: ProfileState
    frontier: tuple[FrontierPoint, ...] = ()
    rejected: tuple[RejectedOption, ...] = ()
    message: str = ""  # one sentence with numbers and, where something is wrong, the way out
    derating: Mapping[str, float] = field(default_factory=dict)  # replica name -> capacity left, 1.0 is full
    mix_wanted_since: float | None = None  # for Memory
    residuals: tuple[Residual, ...] = ()  # of the placements whose engines told of their traffic


@dataclass(frozen=True, slots=True)
class Step:
    """What a variant's Deployment shall have right now, on the way to the target.

    `doomed` are the replicas to give up first when the number falls: hot, idle, newest.
    """

    placement: Placement
    replicas: int
    variant: str | None = None  # name of the running variant; None: a new one is made
    doomed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """The plan chosen from this snapshot; it may equal the present one.

    `moved`: it differs from the target in memory.
    """

    service: ServiceKey
    plan: Plan
    steps: tuple[Step, ...]
    explanation: Explanation
    moved: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """The target stays as it was. Dead replicas are still replaced and a move under way goes on."""

    service: ServiceKey
    reason: HoldReason
    plan: Plan
    steps: tuple[Step, ...]
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class NearestFeasible:
    """The smallest change of the wish that could be met, e.g. an ITL of 31 ms, or 3 GPUs."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    rate: float | None = None
    gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Infeasible:
    """The wish cannot be met; `plan` is the best effort within the limits (it may be empty)."""

    service: ServiceKey
    binding: Binding
    plan: Plan
    steps: tuple[Step, ...]
    explanation: Explanation
    nearest: NearestFeasible
    moved: bool


Decision = Scale | Hold | Infeasible


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the targets of all services are together.

    `cost` and `bound` in money per hour, moves spread over an hour included; no choice among the same candidate plans
    costs less than `bound`. `exact`: this is the cheapest one. Services that are cut, or that had to take what was
    left, count with what they got.
    """

    cost: float
    bound: float
    exact: bool

    @property
    def gap(self) -> float:
        """Share of the cost that a better choice could save at most."""
        return max(0.0, self.cost - self.bound) / self.cost if self.cost > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PlanSet:
    """The answer of one `decide()`: exactly one Decision for every service of the snapshot."""

    at: float
    decisions: Mapping[ServiceKey, Decision]
    quality: Quality = Quality(0.0, 0.0, exact=True)
