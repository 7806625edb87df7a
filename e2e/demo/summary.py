"""What the demo claims, computed from what the clients saw and what the resources say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.domain.words import count


@dataclass(frozen=True, slots=True)
class Request:
    """One request as its client saw it.

    `lost`: a 5xx, a reset, a time-out or a stream that broke off; clients never retry.
    """

    service: str
    sent_at: float  # seconds since the traffic began
    answered: bool
    lost: bool
    within_slo: bool
    settling: bool  # sent within the settling time after a step of its service's rate


@dataclass(frozen=True, slots=True)
class Decided:
    """One entry of a ModelService's history."""

    service: str
    at: float  # seconds since the traffic began
    before: str
    after: str
    why: str
    gpus_before: int
    gpus_after: int

    @property
    def grows(self) -> bool:
        """Whether it adds GPUs."""
        return self.gpus_after > self.gpus_before


@dataclass(slots=True)
class Observations:
    """What was seen besides the requests."""

    decisions: list[Decided] = field(default_factory=list)
    gpu_seconds: float = 0.0
    derated: list[dict[str, Any]] = field(default_factory=list)
    weight_before_heat: float | None = None  # of the GPU that gets hot, relative to its siblings
    weight_after_heat: float | None = None
    weight_followed_after: float | None = None  # seconds from the heat to the first smaller weight
    full_pool_message: str = ""
    first_day_answers: int = 0
    operator_restarts: int = 0
    operator_ends: list[str] = field(default_factory=list)  # how each replica of it last ended
    most_gpus: dict[str, int] = field(default_factory=dict)  # pool -> GPUs in use at most
    stock: dict[str, int] = field(default_factory=dict)  # pool -> GPUs that exist


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise of the demo, and whether it held."""

    name: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The result. `stamp` says what was real."""

    stamp: str
    sent: int
    answered: int
    lost: int
    within_slo: float
    within_slo_outside_steps: float
    gpu_hours: float
    decisions: tuple[Decided, ...]
    derated: tuple[dict[str, Any], ...]
    claims: tuple[Claim, ...]

    @property
    def held(self) -> bool:
        """Whether every claim held."""
        return all(claim.held for claim in self.claims)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "stamp": self.stamp,
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.lost,
            "withinSlo": round(self.within_slo, 4),
            "withinSloOutsideSteps": round(self.within_slo_outside_steps, 4),
            "gpuHours": round(self.gpu_hours, 4),
            "decisions": [
                {"service": d.service, "at": round(d.at, 1), "from": d.before, "to": d.after, "why": d.why}
                for d in self.decisions
            ],
            "derated": list(self.derated),
            "claims": [dataclasses.asdict(claim) for claim in self.claims],
        }


def share(requests: Iterable[Request], keep: Callable[[Request], bool]) -> float:
    """Share of the kept requests that were within the SLO; a lost one is not. No request at all: 0, not 1."""
    kept = [request for request in requests if keep(request)]
    return sum(request.within_slo for request in kept) / len(kept) if kept else 0.0


def make_summary(
    requests: Sequence[Request],
    seen: Observations,
    *,
    stamp: str,
    step_up: float,
    step_down: float,
    heat: float,
    settle: float,
    stepped: str,
    heated: str,
) -> Summary:
    """Sum up one run. Instants are seconds since the traffic began.

    `stepped` is the service whose rate steps, `heated` the one that loses clock at a constant rate.
    """
    lost = sum(request.lost for request in requests)
    outside = share(requests, lambda request: not request.settling)
    claims = (
        Claim("no request lost", lost == 0 and bool(requests), f"{lost} of {len(requests)} lost"),
        Claim("at least 95 % within the SLO outside steps", outside >= 0.95, f"{outside:.1%}"),
        _one_jump(seen.decisions, stepped, step_up, min(step_up + settle, step_down)),
        _gave_back(seen.decisions, step_down),
        _weights_follow_heat(seen),
        _plan_follows_heat(seen, heated, heat, heat + settle),
        Claim("a full pool says who holds it", "ml/train-" in seen.full_pool_message, seen.full_pool_message),
        Claim("a model without a profile is served", seen.first_day_answers > 0, f"{seen.first_day_answers} answers"),
        # One is the demo's doing. More would be crashes that nobody asked for.
        Claim(
            "the operator was killed once and came back",
            seen.operator_restarts == 1,
            "; ".join([count(seen.operator_restarts, "restart"), *seen.operator_ends]),
        ),
        _never_more_gpus(seen),
    )
    return Summary(
        stamp=stamp,
        sent=len(requests),
        answered=sum(request.answered for request in requests),
        lost=lost,
        within_slo=share(requests, lambda request: True),
        within_slo_outside_steps=outside,
        gpu_hours=seen.gpu_seconds / 3600,
        decisions=tuple(sorted(seen.decisions, key=lambda decided: decided.at)),
        derated=tuple(seen.derated),
        claims=claims,
    )


def _one_jump(decisions: Sequence[Decided], service: str, start: float, end: float) -> Claim:
    growths = [d for d in decisions if d.service == service and d.grows and start <= d.at < end]
    detail = "; ".join(f"{d.before} -> {d.after} {d.at - start:.0f} s after the step" for d in growths)
    return Claim("the step up is met in one jump", len(growths) == 1, detail or "no growth")


def _gave_back(decisions: Sequence[Decided], step_down: float) -> Claim:
    shrinks = [d for d in decisions if d.gpus_after < d.gpus_before and d.at >= step_down]
    detail = "; ".join(f"{d.service} {d.before} -> {d.after}" for d in shrinks)
    return Claim("replicas are given back after the step down", bool(shrinks), detail or "none given back")


def _weights_follow_heat(seen: Observations) -> Claim:
    before, after = seen.weight_before_heat, seen.weight_after_heat
    if before is None or after is None:
        return Claim("the weights follow the heat", False, "the hot GPU's weight was not seen")
    late = "" if seen.weight_followed_after is None else f", the first step after {seen.weight_followed_after:.0f} s"
    return Claim("the weights follow the heat", after < 0.95 * before, f"weight {before:.2f} -> {after:.2f}{late}")


def _plan_follows_heat(seen: Observations, service: str, heat: float, end: float) -> Claim:
    grown = [d for d in seen.decisions if d.service == service and d.grows and heat <= d.at < end]
    detail = "; ".join(f"{d.before} -> {d.after}: {d.why}" for d in grown)
    return Claim("the plan follows the heat", bool(grown), detail or "the plan did not change")


def _never_more_gpus(seen: Observations) -> Claim:
    over = {pool: most for pool, most in seen.most_gpus.items() if most > seen.stock.get(pool, 0)}
    detail = ", ".join(f"{pool}: at most {most} of {seen.stock.get(pool, 0)}" for pool, most in seen.most_gpus.items())
    return Claim("never more GPUs than exist", not over and bool(seen.most_gpus), detail or "no GPUs seen")
