"""The whole status: its content, its size, what it keeps, when it is written."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from render_cases import GOLDEN
from render_reports import (
    CAPACITY,
    CONFIGURATION,
    MIX,
    NAME,
    NOW,
    OTHER,
    PLACEMENT,
    make_decision,
    make_explanation,
    make_plan,
    make_replica,
    make_report,
    make_resource,
    make_running,
    make_service,
)

from shoal.api.model_service_status import ModelServiceStatus
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import FrontierPoint, Plan, PlannedVariant, Prediction, RejectedOption
from shoal.domain.reasons import Binding, ProfileState, Rejection
from shoal.domain.service import Load, Memory, PlacedReplicas, ReplicaPhase, RunningVariant
from shoal.render.budgeted import BUDGET_BYTES, fit_to_budget, size_of
from shoal.render.changes import is_close, should_write
from shoal.render.effective import format_parameters
from shoal.render.outcome import ObjectOutcome, Outcome, Result
from shoal.render.problems import Problem
from shoal.render.reasons import ProblemReason
from shoal.render.remembered import dump_memory, memory_of
from shoal.render.report import GpuNow, Report
from shoal.render.status import HISTORY, make_status
from shoal.render.times import parse_time


def check(status: dict[str, Any]) -> dict[str, Any]:
    """The status passes its own schema and budget."""
    ModelServiceStatus.model_validate_json(json.dumps(status, allow_nan=False))
    assert size_of(status) <= BUDGET_BYTES
    return status


def test_golden() -> None:
    status = check(make_status(None, make_report()))
    assert status == yaml.safe_load((GOLDEN / "status.yaml").read_text())


def test_same_report_same_status() -> None:
    status = make_status(None, make_report())
    assert make_status(status, make_report()) == status


# -- history ------------------------------------------------------------------------------------------------------


def decided(replicas: int, now: float, placement: Placement = PLACEMENT) -> Report:
    decision = make_decision(make_plan(replicas, placement=placement))
    return make_report(decision=decision, now=now, memory=Memory(target=(PlacedReplicas(placement, replicas),)))


def test_history_grows_with_another_target_only() -> None:
    status = make_status(None, decided(2, NOW))
    status = make_status(status, decided(2, NOW + 5))
    status = make_status(status, decided(5, NOW + 10))
    assert [(entry["from"], entry["to"]) for entry in status["history"]] == [("2xTP1", "5xTP1"), ("none", "2xTP1")]
    assert status["history"][0] == {
        "at": "2027-01-15T08:00:10Z",
        "from": "2xTP1",
        "to": "5xTP1",
        "why": "20 req/s need 2 replicas of 12.5 req/s",
    }


def test_history_names_pools_when_the_shapes_are_the_same() -> None:
    status = make_status(None, decided(2, NOW))
    status = make_status(status, decided(2, NOW + 5, Placement("h200", CONFIGURATION)))
    assert (status["history"][0]["from"], status["history"][0]["to"]) == ("2xh100 TP1", "2xh200 TP1")


def test_history_ends() -> None:
    status: dict[str, Any] = {}
    for number in range(1, 15):
        status = make_status(status, decided(number, NOW + number))
    assert len(status["history"]) == HISTORY
    assert status["history"][0]["to"] == "14xTP1"


# -- what is seen -------------------------------------------------------------------------------------------------


def test_gpus_most_derated_first() -> None:
    explanation = make_explanation(derating={f"{NAME}-1": 0.61})
    report = make_report(decision=make_decision(make_plan(), explanation), heat={f"{NAME}-1": "HwThermalSlowdown"})
    assert check(make_status(None, report))["gpus"] == [
        {
            "pod": f"{NAME}-1",
            "node": "node-1",
            "derating": 0.61,
            "uuid": "GPU-00000001",
            "reason": "HwThermalSlowdown",
        },
        {"pod": f"{NAME}-0", "node": "node-0", "derating": 1.0, "uuid": "GPU-00000000"},
    ]


def test_what_a_gpu_does_now_is_shown_but_no_news() -> None:
    def seen(now: GpuNow, at: float) -> Report:
        return make_report(decision=make_decision(make_plan()), gpus={"GPU-00000001": now}, now=at)

    old = check(make_status(None, seen(GpuNow(1515.4, 691.7, 66.0), NOW)))
    shown = next(gpu for gpu in old["gpus"] if gpu["uuid"] == "GPU-00000001")
    assert (shown["clockMHz"], shown["powerWatts"], shown["temperatureC"]) == (1515, 692, 66)
    later = make_status(old, seen(GpuNow(1980.0, 120.0, None), NOW + 3600))
    assert "temperatureC" not in later["gpus"][1]
    assert not should_write(old, later, NOW + 3600)


def test_what_is_not_known_of_a_gpu_is_said() -> None:
    blind = make_replica(0, gpus=(), clock_mhz=None)
    unread = make_replica(1, clock_mhz=None)
    unbound = make_replica(2, ReplicaPhase.PENDING, node=None)
    running = RunningVariant(NAME, PLACEMENT, 3, (blind, unread, unbound))
    first, second = check(make_status(None, make_report(service=make_service(running))))["gpus"]
    assert first == {
        "pod": f"{NAME}-0",
        "node": "node-0",
        "reason": "1 of pool h100; a device plugin does not tell which",
    }
    assert (second["uuid"], second["reason"]) == ("GPU-00000001", "its clock under load is not known")


def test_a_placement_without_a_name_is_not_invented() -> None:
    assert make_status(None, make_report(names={}))["plan"]["variants"] == []


def test_unreadable_wish_keeps_what_was_decided() -> None:
    before = make_status(None, make_report())
    problems = (Problem(ProblemReason.ENGINE_CLASS_NOT_FOUND, "EngineClass default does not exist: create it"),)
    after = check(make_status(before, make_report(service=None, decision=None, problems=problems, now=NOW + 9)))
    kept = ("plan", "memory", "history", "effective", "replicas")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}


def test_counts_for_kubectl_and_autoscalers() -> None:
    status = make_status(None, make_report(service=make_service(make_running(2, 1))))
    assert (status["replicas"], status["readyReplicas"]) == (3, 2)
    assert status["selector"] == "app.kubernetes.io/component=engine,shoal.dev/model-service=chat"


@pytest.mark.parametrize(
    ("count", "text"),
    [(7.62e9, "7.62B"), (125e6, "125M"), (13e9, "13B"), (0.5e9, "500M"), (1e4, "0.01M"), (0.0, None), (math.inf, None)],
)
def test_parameters(count: float, text: str | None) -> None:
    assert format_parameters(count) == text


# -- memory -------------------------------------------------------------------------------------------------------

instants = st.none() | st.floats(0, 4e9)
placements = st.builds(
    Placement,
    st.sampled_from(["h100", "l40s"]),
    st.builds(
        Configuration,
        st.just("NVIDIA-L40S"),
        tensor_parallel=st.sampled_from([1, 2, 4]),
        max_num_seqs=st.integers(1, 1024),
    ),
)
memories = st.builds(
    Memory,
    target=st.none() | st.lists(st.builds(PlacedReplicas, placements, st.integers(0, 1000)), max_size=4).map(tuple),
    last_move_at=instants,
    last_mix_change_at=instants,
    startup_p90_seconds=st.none() | st.integers(0, 86_400).map(float),
    mix_wanted_since=instants,
    traffic_seen=st.booleans(),
)


@given(memories)
def test_memory_round_trip(memory: Memory) -> None:
    back = memory_of({"memory": dump_memory(memory)})
    for field in ("last_move_at", "last_mix_change_at", "mix_wanted_since"):
        before, after = getattr(memory, field), getattr(back, field)
        assert (before is None) == (after is None)
        assert before is None or 0 <= before - after < 1
    assert (back.startup_p90_seconds, back.traffic_seen) == (memory.startup_p90_seconds, memory.traffic_seen)
    assert (None if memory.target is None else sorted(memory.target, key=repr)) == (
        None if back.target is None else sorted(back.target, key=repr)
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("a:-0", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["target", "replicas"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["target", "lastMoveAt", "trafficSeen", "startupSecondsP90"]), json_values))
def test_unreadable_memory_is_forgotten(found: dict[str, Any]) -> None:
    assert isinstance(memory_of({"memory": found}), Memory)


@pytest.mark.parametrize("status", [None, {}, {"memory": "x"}, {"memory": {"target": [{"pool": "h100"}]}}])
def test_no_memory(status: dict[str, Any] | None) -> None:
    assert memory_of(status).target is None


# -- budget -------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=700)


@st.composite
def large_reports(draw: st.DrawFn) -> Report:
    """As large as the schema allows, in any script."""
    count = draw(st.integers(1, 20))
    places = [
        Placement(f"{'p' * 60}-{number:02d}", Configuration("A" * 60, max_num_seqs=100_000 + number))
        for number in range(count)
    ]
    text = draw(texts)
    capacity = dataclasses.replace(
        CAPACITY, rate=math.inf, ttft_ms=math.nan, source=draw(st.sampled_from(ProfileState))
    )
    plan = Plan(
        tuple(PlannedVariant(place, draw(st.integers(1, 1000)), CAPACITY) for place in places),
        Prediction(math.inf, 1e-9, draw(st.sampled_from([math.inf, math.nan, 0.5]))),
        math.inf,
        Binding.DEMAND,
    )
    explanation = make_explanation(
        message=text,
        frontier=tuple(FrontierPoint(place, capacity, math.inf, 1.0) for place in places),
        rejected=tuple(RejectedOption(place, Rejection.DOES_NOT_FIT, text) for place in places),
    )
    replicas = tuple(make_replica(number, clock_mhz=None) for number in range(draw(st.integers(0, 200))))
    running = RunningVariant(NAME, places[0], 3, replicas)
    return make_report(
        service=make_service(running, pools=tuple(place.pool for place in places)),
        decision=make_decision(plan, explanation),
        memory=Memory(target=tuple(PlacedReplicas(place, 1000) for place in places)),
        names={place: f"{'n' * 40}-{number:08d}" for number, place in enumerate(places)},
        outcome=Outcome((ObjectOutcome("Deployment", "n" * 49, Result.NAME_TAKEN, text),)),
        problems=(Problem(ProblemReason.POOL_NOT_FOUND, text),),
        failures={"pod": text},
        silent=tuple(f"{'s' * 60}-{number}" for number in range(count)),
    )


@settings(max_examples=40, deadline=None)
@given(large_reports(), st.integers(1, 12))
def test_never_over_the_budget(report: Report, rounds: int) -> None:
    status: dict[str, Any] = {}
    for number in range(rounds):
        changed = dataclasses.replace(report, now=NOW + number, memory=Memory(target=(PlacedReplicas(OTHER, number),)))
        status = make_status(status, changed)
    check(status)
    assert len(status["conditions"]) >= 8


def test_trimming_starts_with_what_is_missed_least() -> None:
    status = make_status(None, make_report())
    bulky = {**status, "gpus": [{"pod": f"pod-{n}", "node": "n", "reason": "x" * 100} for n in range(64)]}
    fitted = fit_to_budget(bulky)
    assert len(fitted["gpus"]) == 16
    assert {key: fitted[key] for key in ("plan", "memory", "effective")} == {
        key: status[key] for key in ("plan", "memory", "effective")
    }


# -- when it is written -------------------------------------------------------------------------------------------


def measured(itl: float, now: float, **changes: Any) -> Report:
    load = Load(fresh_fraction=1.0, lengths=MIX, ttft_mean_ms=210.0, itl_mean_ms=itl)
    return make_report(service=make_service(load=load), now=now, **changes)


@pytest.mark.parametrize(
    ("itl", "after", "writes"),
    [
        pytest.param(24.0, 3600, False, id="nothing new, however old"),
        pytest.param(25.0, 3600, False, id="within 10 %"),
        pytest.param(30.0, 59, False, id="too early"),
        pytest.param(30.0, 60, True, id="more than 10 % after a minute"),
        pytest.param(41.0, 5, True, id="a condition at once"),
    ],
)
def test_measurements_are_throttled(itl: float, after: float, writes: bool) -> None:
    old = make_status(None, measured(24.0, NOW))
    new = make_status(old, measured(itl, NOW + after))
    assert should_write(old, new, NOW + after) is writes


def test_decisions_are_written_at_once() -> None:
    old = make_status(None, decided(2, NOW))
    assert should_write(old, make_status(old, decided(3, NOW + 1)), NOW + 1)
    assert should_write(None, old, NOW)
    assert should_write({}, old, NOW)
    newer = make_report(resource=make_resource(generation=2), now=NOW + 1)
    assert should_write(old, make_status(old, newer), NOW + 1)


@pytest.mark.parametrize(
    ("before", "after", "writes"),
    [
        (1.0, 0.6, True),
        (0.6, 1.0, True),
        (1.0, 0.92, True),
        (0.61, 0.65, False),
        (1.0, 0.95, False),
        (None, 0.6, True),
        (None, 0.95, False),
    ],
)
def test_heat_is_written_at_once(before: float | None, after: float, writes: bool) -> None:
    def seen(left: float | None, now: float) -> Report:
        explanation = make_explanation(derating={} if left is None else {f"{NAME}-1": left})
        clocks = (2000.0, None) if left is None else (2000.0, 2000.0)
        replicas = tuple(make_replica(number, clock_mhz=clock) for number, clock in enumerate(clocks))
        service = make_service(RunningVariant(NAME, PLACEMENT, 2, replicas))
        # Hot throughout, so that no condition is another one.
        hot = {**explanation.derating, f"{NAME}-0": 0.5}
        decision = make_decision(make_plan(), dataclasses.replace(explanation, derating=hot))
        return make_report(service=service, decision=decision, now=now)

    old = make_status(None, seen(before, NOW))
    assert should_write(old, make_status(old, seen(after, NOW + 5)), NOW + 5) is writes


def test_a_longer_window_alone_is_no_news() -> None:
    old = make_status(None, make_report())
    reasons = (f"1xTP1 in h100 for 3.82 req/s over {window}; carries 58" for window in ("45 s", "105 s"))
    older, newer = ({**old, "plan": {**old["plan"], "reason": reason}} for reason in reasons)
    assert not should_write(older, newer, NOW + 3600)


def test_start_up_times_can_wait() -> None:
    old = make_status(None, make_report())
    learnt = dataclasses.replace(make_report().memory, startup_p90_seconds=81.0)
    new = make_status(old, make_report(memory=learnt, now=NOW + 10))
    assert not should_write(old, new, NOW + 10)
    assert should_write(old, new, NOW + 60)


@pytest.mark.parametrize(
    ("old", "new", "close"),
    [
        ("credited 3.9 of 12,400 req/s", "credited 3.9 of 12,600 req/s", True),
        ("credited 3.9 of 12,400 req/s", "credited 3.9 of 14,400 req/s", False),
        ("learned from 900 requests at 3.1", "learned from 12,400 requests at 3.2", True),
        ("learned from 900 requests at 3.1", "learned from 900 requests at 4.1", False),
    ],
)
def test_numbers_in_words_count_as_they_are_read(old: str, new: str, close: bool) -> None:
    assert is_close(old, new) is close


def test_more_requests_alone_are_no_reason_to_write() -> None:
    old = {"observed": {"at": "2026-11-22T10:00:00Z"}, "learning": [{"requests": 100, "factor": 1.0}]}
    more = {**old, "learning": [{"requests": 900, "factor": 1.0}]}
    other = {**old, "learning": [{"requests": 900, "factor": 1.4}]}
    later = parse_time("2026-11-22T11:00:00Z")
    assert not should_write(old, more, later)
    assert should_write(old, other, later)
