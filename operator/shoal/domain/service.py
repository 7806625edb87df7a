"""One ModelService as the planner sees it: wishes, what runs, what was observed."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from shoal.domain.configuration import Placement
from shoal.domain.live import Learned, LiveSample
from shoal.domain.profile import LengthMix, ModelFacts, Source


@dataclass(frozen=True, slots=True, order=True)
class ServiceKey:
    """Namespace and name of a ModelService."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Mode(enum.StrEnum):
    """Who decides."""

    AUTO = "Auto"
    OBSERVE = "Observe"  # decide and report, change nothing
    MANUAL = "Manual"


class RequiredProfile(enum.StrEnum):
    """Least trustworthy profile the owner accepts."""

    ANY = "Any"
    MEASURED = "Measured"


@dataclass(frozen=True, slots=True)
class Objective:
    """The SLO:

    `percentile` of requests must have a TTFT and a mean inter-token gap within these. None: no such objective; at
    least one is set.
    """

    percentile: int = 95
    ttft_ms: float | None = None
    itl_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What to plan for until traffic has been seen."""

    rate: float  # requests per second
    lengths: LengthMix
    declared: bool = True  # False: Shoal's own assumption


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds by the owner. `max_gpus` None: only quota and stock bind."""

    min_replicas: int = 1
    max_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Standby:
    """Spare capacity for a sudden step: the rate may multiply by `step_factor`.

    Until new replicas are ready at most `max_miss` of the requests may miss the objective (0 to 1).
    """

    step_factor: float
    max_miss: float


@dataclass(frozen=True, slots=True)
class Parallelism:
    """The part of the search space the owner allows."""

    tensor: tuple[int, ...] = (1, 2, 4, 8)
    engines_per_gpu: tuple[int, ...] = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class ManualPlan:
    """What a person, HPA or KEDA asks for in mode Manual. None: Shoal chooses that part."""

    replicas: int
    pool: str | None = None
    tensor_parallel: int | None = None
    engines_per_gpu: int | None = None


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the planner must know of the EngineClass."""

    name: str
    version: str
    startup_seconds: float = 90.0  # assumed until start-ups were seen
    api_servers: int = 1  # server processes every engine starts with
    max_api_servers: int = 1  # as many as Shoal may give one engine


class ReplicaPhase(enum.StrEnum):
    """Where a pod is in its life."""

    PENDING = "Pending"  # not bound to a node
    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"  # deleted, finishing its requests; its GPUs are still taken


@dataclass(frozen=True, slots=True)
class Replica:
    """One pod.

    `clock_mhz` is the lowest SM clock under load of its GPUs (None: unknown, which is not slow); `queue_seconds` the
    estimated wait of its queue.
    """

    name: str
    phase: ReplicaPhase
    created_at: float
    node: str | None = None
    gpus: tuple[str, ...] = ()  # UUIDs, as far as known
    clock_mhz: float | None = None
    queue_seconds: float | None = None
    ready_engines: int = 0


@dataclass(frozen=True, slots=True)
class RunningVariant:
    """A Deployment of ours.

    `desired` is its present spec.replicas; `outdated`: the ModelService now asks for another model, revision or class
    than it runs. `observed` is the newest window of its engines' traffic (None: nothing was told).
    """

    name: str
    placement: Placement
    desired: int
    replicas: tuple[Replica, ...] = ()
    outdated: bool = False
    observed: LiveSample | None = None

    @property
    def live(self) -> int:
        """Pods that exist, draining ones included."""
        return len(self.replicas)

    @property
    def ready(self) -> int:
        """Pods that serve."""
        return sum(replica.phase is ReplicaPhase.READY for replica in self.replicas)

    @property
    def gpus_held(self) -> int:
        """GPUs that must count as spent: max(desired, live) replicas."""
        return max(self.desired, self.live) * self.placement.configuration.gpus_per_replica


@dataclass(frozen=True, slots=True)
class Tick:
    """Arrivals of one tick. Not `complete`: some source was missing, and `count` is only a lower bound."""

    count: float
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """What was observed of a service's traffic. Empty `ticks`: nothing is known, which is not zero.

    `ticks_to_settle`: whole ticks that a new rate must have lasted before it counts; together about a planning
    interval.
    """

    ticks: tuple[Tick, ...] = ()  # oldest first, at most 30 minutes
    tick_seconds: float = 5.0
    fresh_fraction: float = 0.0  # engines (and routers) read within the last two ticks
    lengths: LengthMix | None = None
    lengths_requests: float = math.inf  # how many requests `lengths` rests on; faded ones count less
    ttft_mean_ms: float | None = None
    itl_mean_ms: float | None = None
    ticks_to_settle: int = 1


@dataclass(frozen=True, slots=True)
class PlacedReplicas:
    """So many replicas of one placement."""

    placement: Placement
    replicas: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What decisions need after a restart of the operator; losing it is safe. Instants are seconds since the epoch."""

    target: tuple[PlacedReplicas, ...] | None = None  # the plan last decided
    last_move_at: float | None = None
    last_mix_change_at: float | None = None
    startup_p90_seconds: float | None = None
    mix_wanted_since: float | None = None  # a cheaper mix has been worth its move in every plan since then
    traffic_seen: bool = False  # requests have arrived once: the declared workload no longer counts
    lengths: LengthMix | None = None  # the observed mix last planned for, kept until the observed one is far from it


@dataclass(frozen=True, slots=True)
class Service:
    """One ModelService with everything `decide()` needs of it.

    `pools` are the pools it may use; `refused_pools` those it named and may not, with the reason.
    """

    key: ServiceKey
    uid: str
    generation: int
    created_at: float
    model: str
    facts: ModelFacts | None  # None: nothing is known about its size
    max_context_tokens: int
    objective: Objective
    workload: Workload
    engine: EngineFacts
    pools: tuple[str, ...]
    refused_pools: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits)
    standby: Standby | None = None
    parallelism: Parallelism = field(default_factory=Parallelism)
    required_profile: RequiredProfile = RequiredProfile.ANY
    priority: int = 0
    mode: Mode = Mode.AUTO
    manual: ManualPlan | None = None
    paused: bool = False
    routed_per_engine: bool = True  # False (routing: Service): one engine per pod only
    running: tuple[RunningVariant, ...] = ()
    load: Load = field(default_factory=Load)
    memory: Memory = field(default_factory=Memory)
    facts_source: Source = Source.ESTIMATED
    learned: tuple[Learned, ...] = ()  # from this service's own traffic; losing it is safe
