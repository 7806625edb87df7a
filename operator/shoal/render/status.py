"""The whole status of a ModelService, made from what was seen, decided and done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shoal.domain.plan import FrontierPoint, Plan, PlannedVariant
from shoal.domain.profile import Source
from shoal.domain.reasons import ProfileState
from shoal.domain.service import Replica, RunningVariant
from shoal.render.budgeted import fit_to_budget
from shoal.render.conditions import HOT_BELOW, Verdict, Verdicts, judge
from shoal.render.effective import make_effective
from shoal.render.names import selector_text, service_selector, service_url
from shoal.render.profiled import make_learning
from shoal.render.reasons import ConditionType
from shoal.render.recipe import is_routed_by_envoy
from shoal.render.remembered import dump_memory, dump_placed, memory_of
from shoal.render.report import GpuNow, Report
from shoal.render.slo import summarise_objective
from shoal.render.times import format_time
from shoal.render.words import bounded, clip

Status = dict[str, Any]

HISTORY: Final = 10
_TOP: Final = 8
_MOST_GPUS: Final = 64
_MOST_VARIANTS: Final = 16
_MOST_COST: Final = 999_999_999.0
_SOURCES: Final = {ProfileState(source.value): source for source in Source}
_LARGEST_WEIGHT: Final = 1000


def make_status(previous: Mapping[str, Any] | None, report: Report) -> Status:
    """The status to write; `previous` is the one that stands there. At most 8 KB of JSON.

    What cannot be told now (nothing was decided, or the wish cannot be read) keeps its last value.
    """
    before = dict(previous or {})
    metadata, service = report.resource.metadata, report.service
    verdicts = judge(report, {condition["type"]: condition for condition in before.get("conditions") or ()})
    status: Status = {
        "observedGeneration": metadata.generation,
        "conditions": _conditions(before, verdicts, report),
        "url": service_url(metadata.namespace or "", metadata.name, envoy=is_routed_by_envoy(report.resource)),
        "selector": selector_text(service_selector(metadata.name)),
    }
    if service is None:
        kept = {key: value for key, value in before.items() if key not in status}
        return fit_to_budget({**kept, **status})
    status |= {
        "sloSummary": summarise_objective(service, _SLO_WORDS[verdicts[ConditionType.SLO_MET].status]),
        "replicas": report.live,
        "readyReplicas": report.ready,
        "effective": make_effective(report.resource, service),
        "observed": _observed(report),
        "gpus": _gpus(report),
    }
    if learning := make_learning(report):
        status["learning"] = learning
    return fit_to_budget({**status, **_decided(before, report)})


_SLO_WORDS: Final = {"True": "met", "False": "missed", "Unknown": "unknown"}


def _conditions(before: Status, verdicts: Verdicts, report: Report) -> list[dict[str, Any]]:
    """The transition time of a condition moves only when its status does."""
    known = {condition["type"]: condition for condition in before.get("conditions") or ()}
    return [_condition(kind, verdict, known.get(kind), report) for kind, verdict in verdicts.items()]


def _condition(kind: ConditionType, verdict: Verdict, old: Mapping[str, Any] | None, report: Report) -> dict[str, Any]:
    same = old is not None and old["status"] == verdict.status
    return {
        "type": str(kind),
        "status": verdict.status,
        "observedGeneration": report.resource.metadata.generation,
        "lastTransitionTime": old["lastTransitionTime"] if old and same else format_time(report.now),
        "reason": str(verdict.reason),
        "message": clip(verdict.message, 1024),
    }


# -- what was decided ----------------------------------------------------------------------------------------------


def _decided(before: Status, report: Report) -> Status:
    """Parts that only a decision can tell; they stay as they were while there is none."""
    if report.decision is None or report.plan is None:
        return {key: before[key] for key in ("plan", "frontier", "rejected", "history", "memory") if key in before}
    explanation = report.decision.explanation
    return {
        "plan": _plan(report, report.plan),
        "frontier": [_frontier_entry(point) for point in explanation.frontier[:_TOP]],
        "rejected": [
            {
                "configuration": clip(str(option.placement), 128),
                "reason": clip(f"{option.reason}: {option.message}", 512),
            }
            for option in explanation.rejected[:_TOP]
        ],
        "history": _history(before, report, report.plan),
        "memory": dump_memory(report.memory),
    }


def _plan(report: Report, plan: Plan) -> Status:
    best = max((_rate(variant.capacity.rate) for variant in plan.variants), default=0.0)
    named = [(report.names.get(variant.placement), variant) for variant in plan.variants if variant.replicas]
    named.sort(key=lambda pair: -pair[1].replicas)
    predicted = {
        "ttftMilliseconds": _milliseconds(plan.predicted.ttft_ms),
        "itlMilliseconds": _milliseconds(plan.predicted.itl_ms),
        "utilization": bounded(plan.predicted.utilization, 0, 1000) or 0.0,
    }
    return {
        "summary": clip(plan.summary, 128),
        "variants": [_plan_variant(name, variant, best) for name, variant in named if name is not None][
            :_MOST_VARIANTS
        ],
        "gpus": plan.gpus,
        "predicted": _without_none(predicted),
        "costPerHour": f"{min(max(0.0, plan.cost_per_hour), _MOST_COST):.2f}",
        "bindingConstraint": str(plan.binding),
        "reason": clip(report.decision.explanation.message if report.decision else "", 512),
    }


def _plan_variant(name: str, variant: PlannedVariant, best: float) -> Status:
    return {
        "name": name,
        **dump_placed(variant.placement),
        "replicas": variant.replicas,
        "capacityPerReplica": _rate(variant.replica_rate),
        "capacityPerEngine": _rate(variant.capacity.rate),
        "weight": round(_LARGEST_WEIGHT * _rate(variant.capacity.rate) / best) if best > 0 else 0,
    }


def _frontier_entry(point: FrontierPoint) -> Status:
    engines = point.placement.configuration.engines_per_replica
    entry = {
        **dump_placed(point.placement),
        "capacityPerReplica": _rate(point.capacity.rate * engines),
        "capacityPerGPU": _rate(point.rate_per_gpu),
        "ttftMilliseconds": _milliseconds(point.capacity.ttft_ms),
        "itlMilliseconds": _milliseconds(point.capacity.itl_ms),
        "source": str(_SOURCES.get(point.capacity.source, Source.ESTIMATED)),
    }
    return _without_none(entry)


def _history(before: Status, report: Report, plan: Plan) -> list[Status]:
    """The last decisions, newest first; a new one only when the target is another."""
    entries: list[Status] = list(before.get("history") or ())
    old = memory_of(before).target
    new = report.memory.target
    if new is None or (old is not None and set(old) == set(new)):
        return entries[:HISTORY]
    was, now = (before.get("plan") or {}).get("summary", "none"), clip(plan.summary, 128)
    if was == now:  # the same shapes in other pools
        was, now = (_with_pools(target) for target in (old or (), new))
    why = report.decision.explanation.message if report.decision else ""
    entry = {"at": format_time(report.now), "from": was, "to": now, "why": clip(why, 256)}
    return [entry, *entries][:HISTORY]


def _with_pools(target: Sequence[Any]) -> str:
    words = "+".join(f"{placed.replicas}x{placed.placement}" for placed in target if placed.replicas)
    return clip(words or "none", 128)


# -- what was seen -------------------------------------------------------------------------------------------------


def _observed(report: Report) -> Status:
    assert report.service is not None
    load = report.service.load
    demand = report.decision.explanation.demand if report.decision else None
    observed = {
        "requestsPerSecond": _rate(demand.rate) if demand is not None and demand.observed else None,
        "ttftMilliseconds": _milliseconds(load.ttft_mean_ms),
        "itlMilliseconds": _milliseconds(load.itl_mean_ms),
        "inputTokensMean": _tokens(load.lengths.input_mean) if load.lengths else None,
        "outputTokensMean": _tokens(load.lengths.output_mean) if load.lengths else None,
        "at": format_time(report.now),
    }
    return _without_none(observed)


def _gpus(report: Report) -> list[Status]:
    """Every GPU that a replica holds, the most derated first."""
    entries = [
        entry
        for variant in report.running
        for replica in variant.replicas
        if replica.node is not None
        for entry in _gpus_of(report, variant, replica)
    ]
    return sorted(entries, key=lambda entry: (entry.get("derating", 2.0), entry["pod"], entry.get("uuid", "")))[
        :_MOST_GPUS
    ]


def _gpus_of(report: Report, variant: RunningVariant, replica: Replica) -> list[Status]:
    known = report.decision is not None and replica.clock_mhz is not None
    left = report.decision.explanation.derating.get(replica.name, 1.0) if report.decision and known else None
    base: Status = {"pod": replica.name, "node": replica.node}
    if left is not None:
        base["derating"] = round(min(max(left, 0.0), 1.0), 2)
    if not replica.gpus:
        count = variant.placement.configuration.gpus_per_replica
        return [{**base, "reason": f"{count} of pool {variant.placement.pool}; a device plugin does not tell which"}]
    # A GPU at its power cap runs far below its highest clock, and its profile was measured so: that is no reason.
    slowed = left is not None and left < HOT_BELOW
    reason = report.heat.get(replica.name, "") if slowed else "" if known else "its clock under load is not known"
    why = {"reason": clip(reason, 512)} if reason else {}
    return [{**base, "uuid": uuid, **why, **_gpu_now(report.gpus.get(uuid, GpuNow()))} for uuid in replica.gpus]


def _gpu_now(told: GpuNow) -> Status:
    now = {
        "clockMHz": bounded(told.clock_mhz, 0, 1e5),
        "powerWatts": bounded(told.power_watts, 0, 1e5),
        "temperatureC": bounded(told.temperature_c, 0, 1000),
    }
    return {name: round(value) for name, value in now.items() if value is not None}


def _rate(value: float) -> float:
    return bounded(value, 0, 1e6) or 0.0


def _milliseconds(value: float | None) -> float | None:
    return bounded(value, 0, 3.6e6)


def _tokens(value: float) -> float | None:
    return bounded(value, 1, 2**24)


def _without_none(content: Status) -> Status:
    return {key: value for key, value in content.items() if value is not None}
