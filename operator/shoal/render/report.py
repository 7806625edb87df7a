"""All that the status of one ModelService is made from, and the counts its conditions share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.api.model_service import ModelService
from shoal.domain.configuration import Placement
from shoal.domain.plan import Decision, Plan
from shoal.domain.service import Memory, Mode, RunningVariant, Service
from shoal.render.outcome import Outcome
from shoal.render.problems import Problem


@dataclass(frozen=True, slots=True)
class GpuNow:
    """What a GPU told last: MHz of its SMs, watts, °C. None: it does not tell."""

    clock_mhz: float | None = None
    power_watts: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be told of a ModelService at `now` (seconds since the epoch).

    `resource` and `service` are of the same generation: the one that the decision is about. `service` and `decision`
    are None while the wish could not be planned; `memory` is what the next decision shall know (`Memory()` then).
    """

    resource: ModelService
    now: float
    service: Service | None = None
    decision: Decision | None = None
    memory: Memory = field(default_factory=Memory)
    names: Mapping[Placement, str] = field(default_factory=dict)  # Deployments of the planned placements
    outcome: Outcome = field(default_factory=Outcome)
    problems: tuple[Problem, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)  # pod -> why its engines crash, or it does not start
    silent: tuple[str, ...] = ()  # pods that should have answered and did not
    heat: Mapping[str, str] = field(default_factory=dict)  # pod -> why its GPUs are slow
    gpus: Mapping[str, GpuNow] = field(default_factory=dict)  # by UUID
    unkept: str = ""  # why what was learned could not be written down

    @property
    def running(self) -> tuple[RunningVariant, ...]:
        """Variants that exist."""
        return self.service.running if self.service else ()

    @property
    def plan(self) -> Plan | None:
        """The target; None before the first decision."""
        return self.decision.plan if self.decision else None

    @property
    def live(self) -> int:
        """Pods that exist."""
        return sum(variant.live for variant in self.running)

    @property
    def ready(self) -> int:
        """Pods that serve."""
        return sum(variant.ready for variant in self.running)

    @property
    def ready_as_wished(self) -> int:
        """Pods that serve what the present spec asks for: not an earlier model, revision or class."""
        return sum(variant.ready for variant in self.running if not variant.outdated)

    @property
    def required(self) -> int:
        """Replicas that must serve before the wish counts as reached: the floor, never what the traffic adds."""
        if self.service is None or self.plan is None:
            return 0
        manual = self.service.manual
        floor = manual.replicas if self.service.mode is Mode.MANUAL and manual else self.service.limits.min_replicas
        return min(max(floor, 1), self.plan.replicas)

    @property
    def is_stopped(self) -> bool:
        """Whether the owner asked for no replicas."""
        service = self.service
        return (
            service is not None
            and service.mode is Mode.MANUAL
            and service.manual is not None
            and service.manual.replicas == 0
        )

    @property
    def is_settled(self) -> bool:
        """Whether exactly the steps of the decision run, all ready, and nothing else."""
        if self.decision is None:
            return False
        wanted = {step.placement: step.replicas for step in self.decision.steps if step.replicas}
        planned = {v.placement: v.replicas for v in self.decision.plan.variants if v.replicas}
        present = {variant.placement: variant.ready for variant in self.running if variant.live}
        others = any(variant.live != variant.ready or variant.outdated for variant in self.running)
        return not others and wanted == planned == present
