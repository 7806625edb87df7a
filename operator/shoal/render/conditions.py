"""The conditions of a ModelService: each an ordered list of small questions, the first that holds answers.

| condition | status | reasons |
|---|---|---|
| Ready | True | Serving, Stopped, ObserveOnly |
| | False | NameTaken; while too little serves: a problem, what binds, EnginesFailing, ApplyFailed, Starting |
| | Unknown | NotDecided |
| Reconciling | True | NewGeneration |
| | False | Reached, the reason of Stalled |
| Stalled | True | a problem, or what binds, that only a change of spec can help |
| | False | NothingWrong |
| Scaling | True | Moving |
| | False | Settled, why a target is held |
| | Unknown | NotDecided |
| SLOMet | True | WithinObjective |
| | False | TTFTOverObjective, ITLOverObjective |
| | Unknown | NoTraffic |
| Degraded | True | NameTaken, a problem, what binds, EnginesFailing, Hot, over the objective |
| | False | AsPlanned |
| | Unknown | NotDecided |
| Profiled | True | Measured, Learned, Simulated |
| | False | Estimated, Missing, Stale |
| | Unknown | NotDecided |
| Observed | True | Fresh |
| | False | MetricsStale, InventoryUnreadable |
| | Unknown | NothingRuns |
| NameTaken | True | NameTaken (absent otherwise) |
| RevisionNotPinned | True | RevisionIsBranch (absent otherwise) |

Traffic never changes Reconciling or Stalled, so autoscaling does not flip a GitOps application.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from shoal.domain.plan import Hold, Infeasible
from shoal.domain.reasons import Binding, HoldReason, ProfileState
from shoal.domain.service import Mode
from shoal.domain.words import count
from shoal.render.profiled import describe_profile
from shoal.render.reasons import ConditionReason, ConditionType
from shoal.render.recipe import revision, source_kind
from shoal.render.report import Report
from shoal.render.slo import judge_slo

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a condition says now."""

    status: Status
    reason: str
    message: str


Verdicts = dict[ConditionType, Verdict]
Question = Callable[[Report], Verdict | None]

FRESH_FRACTION: Final = 0.9
HOT_BELOW: Final = 0.95  # capacity left of a replica
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_NEEDS_SPEC: Final = (Binding.LATENCY, Binding.MEMORY)
_NOT_DECIDED: Final = Verdict("Unknown", ConditionReason.NOT_DECIDED, "the first plan is being made")


def judge(report: Report, previous: Mapping[str, Mapping[str, Any]]) -> Verdicts:
    """What every condition says. `previous` are the conditions of the last status, by type."""
    stalled = _stalled(report)
    verdicts = {
        ConditionType.READY: _first(_READY, report),
        ConditionType.RECONCILING: _reconciling(report, stalled, previous.get(ConditionType.RECONCILING)),
        ConditionType.STALLED: stalled,
        ConditionType.SCALING: _scaling(report),
        ConditionType.SLO_MET: _slo_met(report, previous.get(ConditionType.SLO_MET)),
        ConditionType.DEGRADED: _first(_DEGRADED, report),
        ConditionType.PROFILED: _profiled(report),
        ConditionType.OBSERVED: _observed(report),
    }
    if verdicts[ConditionType.DEGRADED].status == "False" and verdicts[ConditionType.SLO_MET].status == "False":
        missed = verdicts[ConditionType.SLO_MET]
        verdicts[ConditionType.DEGRADED] = Verdict("True", missed.reason, missed.message)
    for kind, question in ((ConditionType.NAME_TAKEN, _name_taken), (ConditionType.REVISION_NOT_PINNED, _unpinned)):
        if (found := question(report)) is not None:
            verdicts[kind] = found
    return verdicts


def _first(questions: Iterable[Question], report: Report) -> Verdict:
    return next(verdict for question in questions if (verdict := question(report)) is not None)


# -- Ready ---------------------------------------------------------------------------------------------------------


def _other_owner(report: Report) -> Verdict | None:
    taken = _name_taken(report)
    return Verdict("False", taken.reason, taken.message) if taken else None


def _problem(report: Report) -> Verdict | None:
    if not report.problems:
        return None
    return Verdict("False", report.problems[0].reason, "; ".join(problem.message for problem in report.problems))


def _problem_stops(report: Report) -> Verdict | None:
    serves = report.plan is not None and report.plan.replicas > 0 and report.ready_as_wished >= report.required
    return None if serves else _problem(report)


def _not_decided(report: Report) -> Verdict | None:
    return _NOT_DECIDED if report.decision is None else None


def _only_observed(report: Report) -> Verdict | None:
    if report.service is None or report.service.mode is not Mode.OBSERVE:
        return None
    return Verdict("True", ConditionReason.OBSERVE_ONLY, f"mode Observe: would run {_summary(report)}, changes nothing")


def _stopped(report: Report) -> Verdict | None:
    if not report.is_stopped:
        return None
    return Verdict("True", ConditionReason.STOPPED, "stopped: manual.replicas is 0")


def _empty_plan(report: Report) -> Verdict | None:
    if report.plan is None or report.plan.replicas > 0:
        return None
    return Verdict("False", report.plan.binding, _explanation(report))


def _engines_fail(report: Report) -> Verdict | None:
    return _failures(report, "False") if report.failures and report.ready_as_wished < report.required else None


def _apply_failed(report: Report) -> Verdict | None:
    failed = report.outcome.failed
    if not failed or report.ready_as_wished >= report.required:
        return None
    refusals = "; ".join(f"{item}: {item.message}" for item in failed)
    return Verdict("False", ConditionReason.APPLY_FAILED, f"the API server refused: {refusals}")


def _starting(report: Report) -> Verdict | None:
    if report.ready_as_wished >= report.required:
        return None
    old = report.ready - report.ready_as_wished
    still = f"; {old} of the earlier version still serve" if old else ""
    wished = count(report.required, "replica")
    message = f"{report.ready_as_wished} of at least {wished} ready, plan {_summary(report)}{still}"
    return Verdict("False", ConditionReason.STARTING, message)


def _serving(report: Report) -> Verdict:
    planned = report.plan.replicas if report.plan else 0
    message = f"{count(report.ready, 'replica')} ready, plan {_summary(report)} ({planned})"
    return Verdict("True", ConditionReason.SERVING, message)


_READY: Final[tuple[Question, ...]] = (
    _other_owner,
    _problem_stops,
    _not_decided,
    _only_observed,
    _stopped,
    _empty_plan,
    _engines_fail,
    _apply_failed,
    _starting,
    _serving,
)


# -- Degraded ------------------------------------------------------------------------------------------------------


def _problem_degrades(report: Report) -> Verdict | None:
    verdict = _other_owner(report) or _problem(report)
    return Verdict("True", verdict.reason, verdict.message) if verdict else None


def _short(report: Report) -> Verdict | None:
    if not isinstance(report.decision, Infeasible):
        return None
    return Verdict("True", report.decision.binding, _explanation(report))


def _failing(report: Report) -> Verdict | None:
    return _failures(report, "True") if report.failures else None


def _hot(report: Report) -> Verdict | None:
    derating = report.decision.explanation.derating if report.decision else {}
    hot = {pod: left for pod, left in derating.items() if left < HOT_BELOW}
    if not hot:
        return None
    coolest = max(hot.values())
    worst = min(hot, key=lambda pod: (hot[pod], pod))
    why = f": {report.heat[worst]}" if worst in report.heat else ""
    several = f", {len(hot)} replicas lose at least {1 - coolest:.0%}" if len(hot) > 1 else ""
    message = f"{worst} carries {hot[worst]:.0%} of its capacity{why}{several}; the others get its share of the traffic"
    return Verdict("True", ConditionReason.HOT, message)


def _as_planned(report: Report) -> Verdict:
    return Verdict("False", ConditionReason.AS_PLANNED, f"plan {_summary(report)}: nothing is short, slow or failing")


_DEGRADED: Final[tuple[Question, ...]] = (_problem_degrades, _not_decided, _short, _failing, _hot, _as_planned)


# -- the others ----------------------------------------------------------------------------------------------------


def _stalled(report: Report) -> Verdict:
    for problem in report.problems:
        if problem.needs_spec_change:
            return Verdict("True", problem.reason, problem.message)
    decision = report.decision
    if isinstance(decision, Infeasible) and _only_spec_helps(report, decision):
        return Verdict("True", decision.binding, _explanation(report))
    needed = "not only a change of spec can help" if report.problems or isinstance(decision, Infeasible) else ""
    return Verdict("False", ConditionReason.NOTHING_WRONG, needed or "no change of spec is needed")


def _only_spec_helps(report: Report, decision: Infeasible) -> bool:
    """A limit counts only where it forbids the floor: above that, it is the traffic that is too much for it."""
    if decision.binding is Binding.LIMIT:
        return report.service is not None and decision.plan.replicas < report.service.limits.min_replicas
    return decision.binding in _NEEDS_SPEC


def _reconciling(report: Report, stalled: Verdict, before: Mapping[str, Any] | None) -> Verdict:
    if stalled.status == "True":
        return Verdict("False", stalled.reason, stalled.message)
    generation = report.resource.metadata.generation
    was_reached = before is not None and before["status"] == "False" and before["reason"] == ConditionReason.REACHED
    if was_reached and before is not None and before.get("observedGeneration") == generation:
        return Verdict("False", ConditionReason.REACHED, before["message"])
    ready = _first(_READY, report)
    if ready.status == "True":
        return Verdict("False", ConditionReason.REACHED, f"generation {generation} was reached")
    return Verdict("True", ConditionReason.NEW_GENERATION, f"generation {generation} is not reached: {ready.message}")


def _scaling(report: Report) -> Verdict:
    decision = report.decision
    if decision is None:
        return _NOT_DECIDED
    if isinstance(decision, Hold) and decision.reason is not HoldReason.MOVE_IN_FLIGHT:
        return Verdict("False", decision.reason, f"the plan is held: {_explanation(report)}")
    if report.is_settled or (report.service is not None and report.service.mode is Mode.OBSERVE):
        return Verdict("False", ConditionReason.SETTLED, f"{_summary(report)} runs")
    going = report.live - report.ready
    message = f"to {_summary(report)}: {count(report.ready, 'replica')} ready, {going} starting or draining"
    return Verdict("True", ConditionReason.MOVING, message)


def _slo_met(report: Report, before: Mapping[str, Any] | None) -> Verdict:
    if report.service is None:
        return Verdict("Unknown", ConditionReason.NO_TRAFFIC, "nothing was measured yet")
    judgement = judge_slo(report.service, missed_before=before is not None and before["status"] == "False")
    if judgement.missed is None:
        return Verdict("Unknown", ConditionReason.NO_TRAFFIC, judgement.message)
    return {
        "": Verdict("True", ConditionReason.WITHIN_OBJECTIVE, judgement.message),
        "TTFT": Verdict("False", ConditionReason.TTFT_OVER_OBJECTIVE, judgement.message),
        "ITL": Verdict("False", ConditionReason.ITL_OVER_OBJECTIVE, judgement.message),
    }[judgement.missed]


_KNOWN: Final = (ProfileState.MEASURED, ProfileState.LEARNED, ProfileState.SIMULATED)


def _profiled(report: Report) -> Verdict:
    if report.decision is None:
        return _NOT_DECIDED
    state = report.decision.explanation.profile
    return Verdict("True" if state in _KNOWN else "False", state, describe_profile(report))


def _observed(report: Report) -> Verdict:
    decision = report.decision
    if isinstance(decision, Hold) and decision.reason is HoldReason.INVENTORY_UNREADABLE:
        return Verdict("False", decision.reason, _explanation(report))
    engines = sum(replica.ready_engines for variant in report.running for replica in variant.replicas)
    if report.service is None or not engines:
        return Verdict("Unknown", ConditionReason.NOTHING_RUNS, "no engine serves yet")
    fresh = report.service.load.fresh_fraction
    if fresh < FRESH_FRACTION:
        missing = f": no answer from {_some(report.silent)}" if report.silent else ""
        message = f"{fresh:.0%} of {engines} engines and their routers answered lately{missing}"
        return Verdict("False", HoldReason.METRICS_STALE, message)
    are_read = "1 engine is read" if engines == 1 else f"{engines} engines are read"
    return Verdict("True", ConditionReason.FRESH, are_read)


def _name_taken(report: Report) -> Verdict | None:
    taken = report.outcome.taken
    if not taken:
        return None
    names = ", ".join(str(item) for item in taken)
    message = f"exists and belongs to somebody else: {names}. Remove it, or rename this ModelService"
    return Verdict("True", ConditionReason.NAME_TAKEN, message)


def _unpinned(report: Report) -> Verdict | None:
    wanted = revision(report.resource)
    if source_kind(report.resource) != "HuggingFace" or _COMMIT.fullmatch(wanted):
        return None
    message = f"revision {wanted} may move, and a restarted engine load other weights: set model.revision to a commit"
    return Verdict("True", ConditionReason.REVISION_IS_BRANCH, message)


# -- words ---------------------------------------------------------------------------------------------------------


def _failures(report: Report, status: Status) -> Verdict:
    pod = min(report.failures)
    others = f" (and {len(report.failures) - 1} more pods)" if len(report.failures) > 1 else ""
    return Verdict(status, ConditionReason.ENGINES_FAILING, f"{pod}: {report.failures[pod]}{others}")


def _summary(report: Report) -> str:
    return report.plan.summary if report.plan else "none"


def _explanation(report: Report) -> str:
    return report.decision.explanation.message if report.decision else ""


def _some(names: tuple[str, ...], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
