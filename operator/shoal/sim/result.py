"""What came out of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.domain.service import Objective
from shoal.sim.batch import Sequence as EngineSequence
from shoal.sim.measure import mean_gap_ms, ttft_ms
from shoal.sim.quantiles import make_quantiles
from shoal.sim.scenario import Scenario, ServiceSpec


@dataclass(frozen=True, slots=True)
class SimRequest:
    """One request, and what an engine made of it. None: no engine took it; their queues were full, or none served."""

    at: float
    sequence: EngineSequence | None
    refused: bool = False  # 429: all queues full

    @property
    def answered(self) -> bool:
        """Whether all its tokens came."""
        return self.sequence is not None and self.sequence.finished_at is not None and not self.sequence.aborted

    def is_within(self, objective: Objective) -> bool:
        """Whether it was answered within the SLO."""
        if self.sequence is None or not self.answered:
            return False
        ttft, gap = ttft_ms(self.sequence), mean_gap_ms(self.sequence)
        return (objective.ttft_ms is None or (ttft is not None and ttft <= objective.ttft_ms)) and (
            objective.itl_ms is None or gap is None or gap <= objective.itl_ms
        )


@dataclass(frozen=True, slots=True)
class Move:
    """A decision that changed the plan of a service."""

    at: float
    service: str
    before: str
    after: str
    why: str


@dataclass(frozen=True, slots=True)
class ServiceResult:
    """What clients of one service saw. Shares are of all requests sent: a refused or lost one is a miss.

    `ceiling` is what a policy that starts replicas only after a step cannot pass, where the step overloads what runs at
    once: 1 - (requests in start-up time + one tick after steps up) / all. A milder step leaves room above.
    """

    name: str
    sent: int
    answered: int
    refused: int
    lost: int
    attainment: float
    attainment_outside_steps: float
    ceiling: float
    ttft_p95_ms: float | None
    itl_p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    scenario: str
    seconds: float
    services: tuple[ServiceResult, ...]
    moves: tuple[Move, ...]
    gpu_hours: float
    cost: float
    most_gpus: int

    @property
    def sent(self) -> int:
        """Requests of all services."""
        return sum(service.sent for service in self.services)

    @property
    def lost(self) -> int:
        """Requests without an answer or a refusal."""
        return sum(service.lost for service in self.services)

    @property
    def attainment(self) -> float:
        """Share of all requests within their SLO."""
        return sum(s.attainment * s.sent for s in self.services) / self.sent if self.sent else 1.0

    def as_json(self) -> dict[str, Any]:
        """What `-o json` prints."""
        return {
            "scenario": self.scenario,
            "seconds": self.seconds,
            "attainment": round(self.attainment, 5),
            "requests": self.sent,
            "lost": self.lost,
            "gpuHours": round(self.gpu_hours, 5),
            "cost": round(self.cost, 5),
            "mostGPUs": self.most_gpus,
            "services": [_service_json(service) for service in self.services],
            "moves": [
                {"at": round(m.at, 3), "service": m.service, "from": m.before, "to": m.after, "why": m.why}
                for m in self.moves
            ],
        }


def _service_json(service: ServiceResult) -> dict[str, Any]:
    return {
        "name": service.name,
        "requests": service.sent,
        "answered": service.answered,
        "refused": service.refused,
        "lost": service.lost,
        "attainment": round(service.attainment, 5),
        "attainmentOutsideSteps": round(service.attainment_outside_steps, 5),
        "ceiling": round(service.ceiling, 5),
        "ttftP95Ms": service.ttft_p95_ms and round(service.ttft_p95_ms, 1),
        "itlP95Ms": service.itl_p95_ms and round(service.itl_p95_ms, 1),
    }


def make_service_result(spec: ServiceSpec, requests: Sequence[SimRequest], scenario: Scenario) -> ServiceResult:
    """Sum up one service."""
    within = [request.is_within(spec.objective) for request in requests]
    calm = [not is_settling(spec, request.at, scenario.settle_seconds) for request in requests]
    done = [request.sequence for request in requests if request.sequence is not None and request.answered]
    ttft = make_quantiles(value for s in done if (value := ttft_ms(s)) is not None)
    itl = make_quantiles(value for s in done if (value := mean_gap_ms(s)) is not None)
    return ServiceResult(
        name=spec.name,
        sent=len(requests),
        answered=len(done),
        refused=sum(request.refused for request in requests),
        lost=sum(not request.answered and not request.refused for request in requests),
        attainment=_share(within),
        attainment_outside_steps=_share([ok for ok, counts in zip(within, calm, strict=True) if counts]),
        ceiling=reactive_ceiling(spec, scenario.startup_seconds + scenario.tick_seconds),
        ttft_p95_ms=ttft.p95 if ttft else None,
        itl_p95_ms=itl.p95 if itl else None,
    )


def steps_of(spec: ServiceSpec) -> list[tuple[float, float, float, float]]:
    """Steps of the rate: (when, rate before, rate after, seconds that it lasts)."""
    steps, at = [], 0.0
    for (seconds, before), (lasts, after) in zip(spec.schedule, spec.schedule[1:], strict=False):
        at += seconds
        if after != before:
            steps.append((at, before, after, lasts))
    return steps


def is_settling(spec: ServiceSpec, at: float, settle_seconds: float) -> bool:
    """Whether an instant is within so many seconds after a step of the rate."""
    return any(step <= at < step + settle_seconds for step, *_ in steps_of(spec))


def reactive_ceiling(spec: ServiceSpec, blind_seconds: float) -> float:
    """Expected share of requests outside the `blind_seconds` after steps up (reference: queues that cannot move)."""
    total = sum(seconds * rate for seconds, rate in spec.schedule)
    blind = sum(after * min(blind_seconds, lasts) for _, before, after, lasts in steps_of(spec) if after > before)
    return 1 - blind / total if total else 1.0


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 1.0
