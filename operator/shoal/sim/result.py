"""What came out of a simulation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from shoal.domain.profile import Quantiles
from shoal.sim.door import SimRequest
from shoal.sim.quantiles import make_quantiles
from shoal.sim.rates import ends_of, expected_requests
from shoal.sim.scenario import Scenario, ServiceSpec
from shoal.sim.timeline import Sample


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

    Every request sent is answered, refused (429), lost (cut off, or nothing served), or still under way at the end.
    `ceiling` is what a policy that starts replicas only after a step cannot pass, where the step overloads what runs at
    once: 1 - (requests in start-up time + one tick after steps up) / all. A milder step leaves room above. `cut`:
    requests of a trace that were shortened to the longest context.
    """

    name: str
    sent: int
    answered: int
    refused: int
    lost: int
    in_flight: int
    within: int
    attainment_outside_steps: float
    ceiling: float
    ttft: Quantiles | None
    itl: Quantiles | None
    cut: int = 0

    @property
    def attainment(self) -> float:
        """Share of the requests within the SLO."""
        return self.within / self.sent if self.sent else 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """One run. `requests`: all of them, by service."""

    scenario: str
    policy: str
    seconds: float
    services: tuple[ServiceResult, ...]
    moves: tuple[Move, ...]
    gpu_hours: float
    cost: float
    most_gpus: int
    timeline: tuple[Sample, ...] = field(repr=False, default=())
    requests: Mapping[str, Sequence[SimRequest]] = field(compare=False, repr=False, default_factory=dict)

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
        return sum(service.within for service in self.services) / self.sent if self.sent else 1.0

    @property
    def cost_per_hour(self) -> float:
        """Price of the GPUs held, for an hour."""
        return self.cost / (self.seconds / 3600) if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """What `-o json` prints. Latencies are of answered requests, all services together."""
        done = [request for requests in self.requests.values() for request in requests if request.answered]
        return {
            "scenario": self.scenario,
            "policy": self.policy,
            "seconds": self.seconds,
            "attainment": round(self.attainment, 5),
            "gpuHours": round(self.gpu_hours, 5),
            "moves": len(self.moves),
            "requests": self.sent,
            "answered": sum(service.answered for service in self.services),
            "refused": sum(service.refused for service in self.services),
            "lost": self.lost,
            "inFlight": sum(service.in_flight for service in self.services),
            **_latencies(_ttft_of(done), _itl_of(done)),
            "costPerHour": round(self.cost_per_hour, 5),
            "cost": round(self.cost, 5),
            "mostGPUs": self.most_gpus,
            "services": [_service_json(service) for service in self.services],
            "decisions": [
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
        "inFlight": service.in_flight,
        "shortened": service.cut,
        "attainment": round(service.attainment, 5),
        "attainmentOutsideSteps": round(service.attainment_outside_steps, 5),
        "ceiling": round(service.ceiling, 5),
        **_latencies(service.ttft, service.itl),
    }


def _latencies(ttft: Quantiles | None, itl: Quantiles | None) -> dict[str, float | None]:
    first = (None, None, None) if ttft is None else (ttft.p50, ttft.p95, ttft.p99)
    values = dict(zip(("p50TtftMs", "p95TtftMs", "p99TtftMs"), first, strict=True))
    values["p95ItlMs"] = None if itl is None else itl.p95
    return {name: None if value is None else round(value, 2) for name, value in values.items()}


def make_service_result(spec: ServiceSpec, requests: Sequence[SimRequest], scenario: Scenario) -> ServiceResult:
    """Sum up one service."""
    within = [request.is_within(spec.objective) for request in requests]
    calm = [not is_settling(spec, request.at, scenario.settle_seconds) for request in requests]
    done = [request for request in requests if request.answered]
    return ServiceResult(
        name=spec.name,
        sent=len(requests),
        answered=len(done),
        refused=sum(request.refused for request in requests),
        lost=sum(request.lost for request in requests),
        in_flight=sum(request.in_flight for request in requests),
        within=sum(within),
        attainment_outside_steps=_share([ok for ok, counts in zip(within, calm, strict=True) if counts]),
        ceiling=reactive_ceiling(spec, scenario.startup_seconds + scenario.tick_seconds),
        ttft=_ttft_of(done),
        itl=_itl_of(done),
        cut=spec.trace.cut(spec.max_context_tokens) if spec.trace is not None else 0,
    )


def _ttft_of(requests: Iterable[SimRequest]) -> Quantiles | None:
    return make_quantiles(value for request in requests if (value := request.ttft_ms) is not None)


def _itl_of(requests: Iterable[SimRequest]) -> Quantiles | None:
    return make_quantiles(value for request in requests if (value := request.itl_ms) is not None)


def steps_of(spec: ServiceSpec) -> list[tuple[float, float, float, float]]:
    """Steps of the rate: (when, rate before, rate after, seconds that it lasts). A ramp is no step."""
    steps, at = [], 0.0
    for (seconds, _, before), (lasts, after, _) in pairwise(map(ends_of, spec.schedule)):
        at += seconds
        if after != before:
            steps.append((at, before, after, lasts))
    return steps


def is_settling(spec: ServiceSpec, at: float, settle_seconds: float) -> bool:
    """Whether an instant is within so many seconds after a step of the rate."""
    return any(step <= at < step + settle_seconds for step, *_ in steps_of(spec))


def reactive_ceiling(spec: ServiceSpec, blind_seconds: float) -> float:
    """Expected share of requests outside the `blind_seconds` after steps up (reference: queues that cannot move)."""
    total = expected_requests(spec.schedule)
    blind = sum(after * min(blind_seconds, lasts) for _, before, after, lasts in steps_of(spec) if after > before)
    return 1 - blind / total if total else 1.0


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 1.0
