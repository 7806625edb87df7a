"""Where a plan's numbers come from, in words; and what live traffic says of them."""

from __future__ import annotations

from typing import Any, Final

from shoal.domain.configuration import Configuration
from shoal.domain.live import Learned, Residual
from shoal.domain.plan import PlannedVariant
from shoal.domain.reasons import ProfileState
from shoal.render.report import Report
from shoal.render.words import bounded, clip, round_figures

MOST_ENTRIES: Final = 4
_MESSAGES: Final = {
    ProfileState.MEASURED: "planned from measurements",
    ProfileState.LEARNED: "planned from what the service's own traffic showed",
    ProfileState.SIMULATED: "planned from measurements of a simulated engine: true in the simulated world only",
    ProfileState.ESTIMATED: "no measurement of this model on these GPUs: planned cautiously from an estimate. "
    "Measure it with `shoal profile` or a ProfileRun",
    ProfileState.MISSING: "nothing is known of this model on these GPUs: create a ModelProfile, or measure it with "
    "`shoal profile` or a ProfileRun",
    ProfileState.STALE: "the profile is of another engine version: measure again with `shoal profile` or a ProfileRun",
}


def describe_profile(report: Report) -> str:
    """Message of the condition Profiled."""
    assert report.decision is not None
    state = report.decision.explanation.profile
    variants = [variant for variant in report.decision.plan.variants if variant.capacity.source is state]
    for variant in variants:
        if (told := _describe_variant(report, state, variant)) is not None:
            return f"{told}{_unkept(report)}"
    used = {v.capacity.profile for v in report.decision.plan.variants if v.capacity.profile}
    names = f" ({', '.join(sorted(used))})" if used else ""
    return f"{_MESSAGES[state]}{names}{_unkept(report)}"


def make_learning(report: Report) -> list[dict[str, Any]]:
    """Entries of `status.learning`: the placements whose engines told of their traffic."""
    if report.decision is None:
        return []
    return [_make_entry(report, residual) for residual in report.decision.explanation.residuals[:MOST_ENTRIES]]


def find_learned(report: Report, configuration: Configuration) -> Learned | None:
    """What is known of a configuration."""
    service = report.service
    if service is None:
        return None
    asked = (service.model, service.engine.version, configuration)
    known = ((one.model, one.engine_version, one.lesson.configuration) for one in service.learned)
    return next((one for one, key in zip(service.learned, known, strict=True) if key == asked), None)


def _describe_variant(report: Report, state: ProfileState, variant: PlannedVariant) -> str | None:
    """With numbers, if live traffic gave any."""
    learned = find_learned(report, variant.placement.configuration)
    if learned is None:
        return None
    compared = _describe_latencies(report, variant)
    drift, highest = learned.lesson.evidence.drift, learned.tally.highest_rate
    requests = f"{round_figures(learned.tally.requests, 2):,.0f} requests"
    model = report.resource.spec.model.name
    if state is ProfileState.LEARNED and variant.capacity.credited is not None:
        credited = f"credited {variant.capacity.credited:.3g}"
        return f"learned from {requests} at up to {highest:.3g} req/s per engine; {credited}{compared}"
    if state is ProfileState.STALE and drift is not None:
        how = f"{drift:.2g} times slower" if drift > 1 else f"{1 / drift:.2g} times faster"
        says = f"{variant.placement}: lastingly {how} than {variant.capacity.profile} says"
        return f"{says}{compared}; measure again with `shoal profile --launch {model}` or a ProfileRun"
    if state is ProfileState.ESTIMATED and learned.tally.requests > 0:
        how = f"`shoal profile --launch {model}` or a ProfileRun measures it"
        return f"estimated; {requests} compared so far{compared}; {how}"
    return None


def _describe_latencies(report: Report, variant: PlannedVariant) -> str:
    residuals = report.decision.explanation.residuals if report.decision else ()
    residual = next((one for one in residuals if one.placement == variant.placement), None)
    if residual is None or residual.predicted_itl_ms is None or residual.sample.itl_mean_ms is None:
        return ""
    return f"; predicted ITL {residual.predicted_itl_ms:.3g} ms, observed {residual.sample.itl_mean_ms:.3g} ms"


def _unkept(report: Report) -> str:
    return f". {report.unkept}" if report.unkept else ""


def _make_entry(report: Report, residual: Residual) -> dict[str, Any]:
    learned = find_learned(report, residual.placement.configuration)
    variants = report.decision.plan.variants if report.decision else ()
    credited = next((v.capacity.credited for v in variants if v.placement == residual.placement), None)
    entry = {
        "configuration": clip(str(residual.placement), 128),
        "requests": round(learned.tally.requests) if learned else 0,
        "creditedRate": bounded(credited, 0, 1e6),
        "timeRatio": bounded(residual.time_ratio, 0, 1000),
        "ttftPredicted": bounded(residual.predicted_ttft_ms, 0, 3.6e6),
        "ttftObserved": bounded(residual.sample.ttft_mean_ms, 0, 3.6e6),
        "itlPredicted": bounded(residual.predicted_itl_ms, 0, 3.6e6),
        "itlObserved": bounded(residual.sample.itl_mean_ms, 0, 3.6e6),
    }
    return {key: value for key, value in entry.items() if value is not None}
