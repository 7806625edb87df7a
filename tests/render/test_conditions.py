"""One row of the truth table in shoal.render.conditions for each test case."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from render_reports import (
    NAME,
    NOW,
    PLACEMENT,
    make_decision,
    make_explanation,
    make_plan,
    make_report,
    make_resource,
    make_running,
    make_service,
)

from shoal.domain.plan import Hold, Infeasible, NearestFeasible, Step
from shoal.domain.reasons import Binding, HoldReason, ProfileState
from shoal.domain.service import Limits, Load, ManualPlan, Memory, Mode, Objective
from shoal.render.outcome import ObjectOutcome, Outcome, Result
from shoal.render.problems import Problem
from shoal.render.reasons import ProblemReason
from shoal.render.report import Report
from shoal.render.status import make_status

KEY = make_service().key
COMMIT = "a09a35458c702b33eeacc393d103063234e8bc28"


def hold(reason: HoldReason) -> Hold:
    plan = make_plan()
    return Hold(KEY, reason, plan, (Step(PLACEMENT, 2, NAME),), make_explanation(message="held"))


def infeasible(binding: Binding, replicas: int) -> Infeasible:
    plan = make_plan(replicas, binding)
    steps = tuple(Step(v.placement, v.replicas) for v in plan.variants)
    explanation = make_explanation(message=f"{binding} binds: 31 of 40 req/s")
    return Infeasible(KEY, binding, plan, steps, explanation, NearestFeasible(), moved=False)


def problem(reason: ProblemReason, *, needs_spec_change: bool = False) -> tuple[Problem, ...]:
    return (Problem(reason, "do something else", needs_spec_change=needs_spec_change),)


def with_outcome(result: Result) -> Outcome:
    return Outcome((ObjectOutcome("Deployment", NAME, result, "denied by policy"),))


FAILING = {f"{NAME}-1": "CUDA out of memory"}
NOT_FOUND = problem(ProblemReason.ENGINE_CLASS_NOT_FOUND)
REFUSED = problem(ProblemReason.SOURCE_NOT_ALLOWED, needs_spec_change=True)
STOPPED = make_service(make_running(0), mode=Mode.MANUAL, manual=ManualPlan(0))
OUTDATED = make_service(make_running(2, outdated=True), make_running(1, 1, name="chat-new"))


def load(**changes: Any) -> Load:
    return dataclasses.replace(make_service().load, **changes)


ROWS: list[tuple[str, Report, str, str, str]] = [
    # Ready
    ("serves", make_report(), "Ready", "True", "Serving"),
    ("stopped", make_report(service=STOPPED, decision=make_decision(make_plan(0))), "Ready", "True", "Stopped"),
    (
        "observe only",
        make_report(service=make_service(make_running(0), mode=Mode.OBSERVE)),
        "Ready",
        "True",
        "ObserveOnly",
    ),
    ("name taken", make_report(outcome=with_outcome(Result.NAME_TAKEN)), "Ready", "False", "NameTaken"),
    (
        "no engine class",
        make_report(service=None, decision=None, problems=NOT_FOUND),
        "Ready",
        "False",
        "EngineClassNotFound",
    ),
    ("a problem while it serves", make_report(problems=NOT_FOUND), "Ready", "True", "Serving"),
    ("nothing can run", make_report(decision=infeasible(Binding.MEMORY, 0)), "Ready", "False", "Memory"),
    (
        "crash loop",
        make_report(service=make_service(make_running(1, 1)), failures=FAILING),
        "Ready",
        "False",
        "EnginesFailing",
    ),
    ("one crash above the floor", make_report(failures=FAILING), "Ready", "True", "Serving"),
    (
        "write refused",
        make_report(service=make_service(make_running(0)), outcome=with_outcome(Result.FAILED)),
        "Ready",
        "False",
        "ApplyFailed",
    ),
    ("starting", make_report(service=make_service(make_running(1, 1))), "Ready", "False", "Starting"),
    ("during the rollout", make_report(service=OUTDATED), "Ready", "False", "Starting"),
    ("not decided", make_report(decision=None, service=None), "Ready", "Unknown", "NotDecided"),
    ("best effort serves", make_report(decision=infeasible(Binding.STOCK, 2)), "Ready", "True", "Serving"),
    (
        "scaling up above the floor",
        make_report(service=make_service(make_running(2, 3)), decision=make_decision(make_plan(5))),
        "Ready",
        "True",
        "Serving",
    ),
    # Reconciling, without an earlier status
    ("reached", make_report(), "Reconciling", "False", "Reached"),
    ("not reached", make_report(service=make_service(make_running(1, 1))), "Reconciling", "True", "NewGeneration"),
    ("stalled", make_report(decision=infeasible(Binding.LATENCY, 0)), "Reconciling", "False", "LatencyFloor"),
    (
        "waits for a class",
        make_report(service=None, decision=None, problems=NOT_FOUND),
        "Reconciling",
        "True",
        "NewGeneration",
    ),
    # Stalled
    ("source refused", make_report(problems=REFUSED), "Stalled", "True", "SourceNotAllowed"),
    ("class missing", make_report(problems=NOT_FOUND), "Stalled", "False", "NothingWrong"),
    ("too fast a wish", make_report(decision=infeasible(Binding.LATENCY, 2)), "Stalled", "True", "LatencyFloor"),
    ("too large a model", make_report(decision=infeasible(Binding.MEMORY, 0)), "Stalled", "True", "Memory"),
    ("limit below the floor", make_report(decision=infeasible(Binding.LIMIT, 1)), "Stalled", "True", "MaxGPUs"),
    ("limit below the traffic", make_report(decision=infeasible(Binding.LIMIT, 2)), "Stalled", "False", "NothingWrong"),
    ("stock", make_report(decision=infeasible(Binding.STOCK, 0)), "Stalled", "False", "NothingWrong"),
    # Scaling
    ("settled", make_report(), "Scaling", "False", "Settled"),
    ("moving", make_report(service=make_service(make_running(2, 1))), "Scaling", "True", "Moving"),
    ("draining the old", make_report(service=OUTDATED), "Scaling", "True", "Moving"),
    ("paused", make_report(decision=hold(HoldReason.PAUSED)), "Scaling", "False", "Paused"),
    (
        "held behind a move",
        make_report(decision=hold(HoldReason.MOVE_IN_FLIGHT), service=make_service(make_running(1, 1))),
        "Scaling",
        "True",
        "Moving",
    ),
    ("scaling unknown", make_report(decision=None), "Scaling", "Unknown", "NotDecided"),
    # SLOMet
    ("within", make_report(), "SLOMet", "True", "WithinObjective"),
    (
        "TTFT over",
        make_report(service=make_service(load=load(ttft_mean_ms=340.0))),
        "SLOMet",
        "False",
        "TTFTOverObjective",
    ),
    ("ITL over", make_report(service=make_service(load=load(itl_mean_ms=40.5))), "SLOMet", "False", "ITLOverObjective"),
    (
        "a median asks for less",
        make_report(service=make_service(load=load(ttft_mean_ms=340.0), objective=Objective(50, 500, 40))),
        "SLOMet",
        "True",
        "WithinObjective",
    ),
    ("no traffic", make_report(service=make_service(load=Load(fresh_fraction=1.0))), "SLOMet", "Unknown", "NoTraffic"),
    # Degraded
    ("as planned", make_report(), "Degraded", "False", "AsPlanned"),
    ("degraded by stock", make_report(decision=infeasible(Binding.STOCK, 2)), "Degraded", "True", "Stock"),
    ("degraded by a crash", make_report(failures=FAILING), "Degraded", "True", "EnginesFailing"),
    (
        "degraded by heat",
        make_report(decision=make_decision(make_plan(), make_explanation(derating={f"{NAME}-0": 0.6}))),
        "Degraded",
        "True",
        "Hot",
    ),
    (
        "degraded by latency",
        make_report(service=make_service(load=load(itl_mean_ms=41.0))),
        "Degraded",
        "True",
        "ITLOverObjective",
    ),
    ("degraded by a problem", make_report(problems=NOT_FOUND), "Degraded", "True", "EngineClassNotFound"),
    ("degraded by a stranger", make_report(outcome=with_outcome(Result.NAME_TAKEN)), "Degraded", "True", "NameTaken"),
    ("degraded unknown", make_report(decision=None), "Degraded", "Unknown", "NotDecided"),
    # Observed
    ("fresh", make_report(), "Observed", "True", "Fresh"),
    (
        "stale",
        make_report(service=make_service(load=load(fresh_fraction=0.5)), silent=(f"{NAME}-1",)),
        "Observed",
        "False",
        "MetricsStale",
    ),
    (
        "inventory",
        make_report(decision=hold(HoldReason.INVENTORY_UNREADABLE)),
        "Observed",
        "False",
        "InventoryUnreadable",
    ),
    ("nothing runs", make_report(service=make_service(make_running(0))), "Observed", "Unknown", "NothingRuns"),
    # while they are there
    ("taken", make_report(outcome=with_outcome(Result.NAME_TAKEN)), "NameTaken", "True", "NameTaken"),
    ("branch", make_report(), "RevisionNotPinned", "True", "RevisionIsBranch"),
]


def conditions_of(report: Report, previous: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in make_status(previous, report)["conditions"]}


@pytest.mark.parametrize(("report", "kind", "status", "reason"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_truth_table(report: Report, kind: str, status: str, reason: str) -> None:
    found = conditions_of(report)[kind]
    assert (found["status"], found["reason"]) == (status, reason)


@pytest.mark.parametrize("state", list(ProfileState))
def test_profiled(state: ProfileState) -> None:
    decision = make_decision(make_plan(), make_explanation(profile=state))
    found = conditions_of(make_report(decision=decision))["Profiled"]
    known = state in (ProfileState.MEASURED, ProfileState.LEARNED, ProfileState.SIMULATED)
    assert (found["status"], found["reason"]) == ("True" if known else "False", state)
    assert known or "shoal profile" in found["message"]


def test_absent_while_not_true() -> None:
    resource = make_resource()
    model = resource.spec.model.model_copy(update={"revision": COMMIT})
    pinned = resource.model_copy(update={"spec": resource.spec.model_copy(update={"model": model})})
    assert not {"NameTaken", "RevisionNotPinned"} & conditions_of(make_report(resource=pinned)).keys()


def test_first_write_is_unknown_with_a_generation() -> None:
    status = make_status(None, make_report(service=None, decision=None, memory=Memory()))
    assert status["observedGeneration"] == 1
    ready = status["conditions"][0]
    assert (ready["type"], ready["status"], ready["observedGeneration"]) == ("Ready", "Unknown", 1)


def test_autoscaling_never_flips_reconciling() -> None:
    reached = make_status(None, make_report())
    crash = make_report(service=make_service(make_running(0, 2)), failures=FAILING, now=NOW + 60)
    later = conditions_of(crash, reached)
    assert (later["Ready"]["status"], later["Reconciling"]["status"]) == ("False", "False")


def test_a_new_generation_is_reconciled() -> None:
    reached = make_status(None, make_report())
    changed = make_report(resource=make_resource(generation=2), service=OUTDATED, now=NOW + 60)
    during = make_status(reached, changed)
    assert during["observedGeneration"] == 2
    found = {condition["type"]: condition for condition in during["conditions"]}
    assert found["Reconciling"]["status"] == "True"
    after = conditions_of(make_report(resource=make_resource(generation=2)), during)
    assert after["Reconciling"]["status"] == "False"


def test_transition_time_moves_only_with_the_status() -> None:
    first = make_status(None, make_report(service=make_service(make_running(0, 2))))
    second = make_status(first, make_report(service=make_service(make_running(1, 1)), now=NOW + 60))
    third = make_status(second, make_report(now=NOW + 120))
    times = [status["conditions"][0]["lastTransitionTime"] for status in (first, second, third)]
    assert times == ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z", "2027-01-15T08:02:00Z"]


def test_a_missed_objective_needs_some_room_to_count_as_met() -> None:
    def at(itl: float) -> Report:
        return make_report(service=make_service(load=load(itl_mean_ms=itl)))

    missed = make_status(None, at(41.0))
    assert conditions_of(at(38.0), missed)["SLOMet"]["status"] == "False"
    assert conditions_of(at(35.0), missed)["SLOMet"]["status"] == "True"


def test_messages_carry_numbers_and_names() -> None:
    report = make_report(
        service=make_service(load=load(fresh_fraction=0.5), limits=Limits(2)),
        silent=tuple(f"pod-{number}" for number in range(5)),
        decision=make_decision(make_plan(), make_explanation(derating={f"{NAME}-0": 0.6, f"{NAME}-1": 0.8})),
        heat={f"{NAME}-0": "SM clock 1188 MHz, HwThermalSlowdown"},
    )
    found = conditions_of(report)
    assert found["Observed"]["message"].endswith("no answer from pod-0, pod-1, pod-2 and 2 more")
    assert f"{NAME}-0 carries 60% of its capacity: SM clock 1188 MHz" in found["Degraded"]["message"]
    assert found["SLOMet"]["message"] == "mean TTFT 210 ms, 500 ms at p95, mean ITL 24 ms, 40 ms at p95"


def test_scale_down_to_less_than_the_floor_is_no_excuse() -> None:
    """In mode Manual the number asked for is the floor."""
    manual = make_service(make_running(1, 1), mode=Mode.MANUAL, manual=ManualPlan(2), limits=Limits(1))
    assert conditions_of(make_report(service=manual))["Ready"]["status"] == "False"
