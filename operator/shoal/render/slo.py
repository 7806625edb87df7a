"""Whether the objective is met, as far as means tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from shoal.domain.service import Service

TTFT_TAIL: Final = 1.5
"""The 95th percentile of TTFT was at least so many times its mean in every measurement below the knee (1.5 to 2.4)."""

_RECOVERED: Final = 0.9  # of the limit: an objective once missed counts as met again only below this


@dataclass(frozen=True, slots=True)
class Judgement:
    """`missed`: which objective; empty when none is, None when there was nothing to measure."""

    missed: Literal["TTFT", "ITL", ""] | None
    message: str


def judge_slo(service: Service, *, missed_before: bool) -> Judgement:
    """Compare the means of the last minute with what they may be.

    Engines tell sums and counts, so a mean is what is known for sure. A mean TTFT above objective/1.5 is a 95th
    percentile above the objective. ITL counts requests, which differ little: its mean may reach the objective.
    """
    objective, load = service.objective, service.load
    ttft_tail = TTFT_TAIL if objective.percentile >= 90 else 1.0
    facts = [
        ("TTFT", load.ttft_mean_ms, objective.ttft_ms, ttft_tail),
        ("ITL", load.itl_mean_ms, objective.itl_ms, 1.0),
    ]
    asked = [(name, mean, limit, tail) for name, mean, limit, tail in facts if limit is not None]
    told = [(name, mean, limit, tail) for name, mean, limit, tail in asked if mean is not None]
    if not told:
        return Judgement(None, "no request was answered in the last minute")
    words = ", ".join(
        f"mean {name} {mean:.4g} ms, {limit:g} ms at p{objective.percentile}" for name, mean, limit, _ in told
    )
    slack = _RECOVERED if missed_before else 1.0
    for name, mean, limit, tail in told:
        if mean * tail > limit * slack:
            return Judgement("TTFT" if name == "TTFT" else "ITL", f"{name} is over the objective: {words}")
    return Judgement("", words)


def summarise_objective(service: Service, verdict: str) -> str:
    """The SLO column: the objective, and whether it is met."""
    objective = service.objective
    parts = [f"TTFT {objective.ttft_ms:g}ms"] if objective.ttft_ms is not None else []
    parts += [f"ITL {objective.itl_ms:g}ms"] if objective.itl_ms is not None else []
    return f"{' '.join(parts)} p{objective.percentile}: {verdict}"
