"""What a simulated fleet consists of: GPUs, engines, replicas (pods) and variants (Deployments)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from shoal.domain.configuration import Placement
from shoal.domain.service import ReplicaPhase, ServiceKey
from shoal.sim.engine import Engine
from shoal.sim.truth import Truth

COMPLETIONS_SECONDS = 30.0  # over which the speed of a queue is taken


@dataclass(slots=True, eq=False)
class SimGPU:
    """One GPU.

    `ratio` is its clock over its highest. `lost`: it is gone; `missed`: and whoever watches has noticed.
    """

    uuid: str
    node: str
    pool: str
    ratio: float = 1.0
    held: bool = False
    lost: bool = False
    missed: bool = False


@dataclass(slots=True, eq=False)
class SimEngine:
    """One engine in the fleet, and what the router knows of it."""

    service: ServiceKey
    engine: Engine
    truth: Truth
    ready_at: float | None = None
    weight: float = 1.0
    wakes: int = 0  # number of its present alarm: earlier ones are void
    dead: bool = False
    completions: deque[float] = field(default_factory=deque)
    waited: tuple[int, int] = (0, 0)  # in the last two readings

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.ready_at is not None and not self.dead

    @property
    def active(self) -> int:
        """Requests it has."""
        return 0 if self.dead else len(self.engine.running) + len(self.engine.waiting)

    def read_queue(self) -> None:
        """Be read, as the operator reads engines once in a planning interval."""
        self.waited = self.waited[1], len(self.engine.waiting)

    def queue_seconds(self, now: float) -> float:
        """Waiting requests over the recent rate of completions, as the operator estimates it.

        What waits in one reading only is a burst. One that has finished nothing since it serves is taken to finish one
        in as much time again.
        """
        while self.completions and self.completions[0] <= now - COMPLETIONS_SECONDS:
            self.completions.popleft()
        watched = min(now - (now if self.ready_at is None else self.ready_at), COMPLETIONS_SECONDS)
        return min(self.waited) * watched / max(len(self.completions), 1)


@dataclass(slots=True, eq=False)
class SimReplica:
    """One pod."""

    name: str
    created_at: float
    placement: Placement
    engines: list[SimEngine]
    gpus: list[SimGPU] = field(default_factory=list)
    phase: ReplicaPhase = ReplicaPhase.PENDING
    bound_at: float | None = None
    dead: bool = False  # its GPU is gone, which nobody may have noticed yet

    @property
    def ready_engines(self) -> int:
        """Engines that serve."""
        return sum(engine.ready for engine in self.engines)


@dataclass(slots=True, eq=False)
class SimVariant:
    """One Deployment."""

    name: str
    service: ServiceKey
    placement: Placement
    desired: int = 0
    replicas: list[SimReplica] = field(default_factory=list)
