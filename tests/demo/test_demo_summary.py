"""The demo's claims fail when they should: each is shown a run that breaks it."""

from __future__ import annotations

import dataclasses

import pytest

from e2e.demo.summary import Decided, Observations, Request, Summary, make_summary, share
from e2e.demo.timeline import Stream, Timeline
from e2e.demo.watcher import gpus_of, gpus_of_summary, last_ends, make_decided, restarts

TIMELINE = Timeline()


def good_requests() -> list[Request]:
    return [Request("chat", at / 2, answered=True, lost=False, within_slo=True, settling=False) for at in range(300)]


def good_observations() -> Observations:
    grown = Decided("chat", 24.0, "1xTP1", "4xTP1", "8.1 req/s", 1, 4)
    hot = Decided("docs", 65.0, "2xTP1", "3xTP1", "one GPU at 62 %", 2, 3)
    given_back = Decided("chat", 125.0, "4xTP1", "1xTP1", "2.0 req/s", 4, 1)
    return Observations(
        decisions=[grown, hot, given_back],
        gpu_seconds=3600.0,
        derated=[{"uuid": "GPU-1", "derating": 0.62}],
        weight_before_heat=1.0,
        weight_after_heat=0.62,
        full_pool_message="needs 6 l40s; 4 exist: 2 Shoal, 1 ml/train-*",
        first_day_answers=3,
        operator_restarts=1,
        most_gpus={"h100": 4},
        stock={"h100": 4},
    )


def summarise(requests: list[Request], seen: Observations) -> Summary:
    return make_summary(
        requests,
        seen,
        stamp="simulated",
        step_up=TIMELINE.step_up,
        step_down=TIMELINE.step_down,
        heat=TIMELINE.heat,
        settle=TIMELINE.settle,
        stepped="chat",
        heated="docs",
    )


def test_a_good_run_holds_every_claim() -> None:
    summary = summarise(good_requests(), good_observations())
    assert [claim.name for claim in summary.claims if not claim.held] == []
    assert summary.held
    assert summary.as_json()["sent"] == 300
    assert summary.as_json()["gpuHours"] == 1.0


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"decisions": []}, "the step up is met in one jump"),
        ({"decisions": []}, "replicas are given back after the step down"),
        ({"decisions": []}, "the plan follows the heat"),
        ({"weight_after_heat": 1.0}, "the weights follow the heat"),
        ({"weight_after_heat": None}, "the weights follow the heat"),
        ({"full_pool_message": "short of GPUs"}, "a full pool says who holds it"),
        ({"first_day_answers": 0}, "a model without a profile is served"),
        ({"operator_restarts": 0}, "the operator was killed once and came back"),
        ({"operator_restarts": 2}, "the operator was killed once and came back"),
        ({"most_gpus": {"h100": 5}}, "never more GPUs than exist"),
        ({"most_gpus": {}}, "never more GPUs than exist"),
    ],
)
def test_each_claim_can_fail(change: dict[str, object], claim: str) -> None:
    summary = summarise(good_requests(), dataclasses.replace(good_observations(), **change))  # type: ignore[arg-type]
    assert not summary.held
    assert claim in [entry.name for entry in summary.claims if not entry.held]


def test_two_growths_after_the_step_are_not_one_jump() -> None:
    seen = good_observations()
    seen.decisions.append(Decided("chat", 40.0, "4xTP1", "5xTP1", "more", 4, 5))
    assert "the step up is met in one jump" in [c.name for c in summarise(good_requests(), seen).claims if not c.held]


def test_a_lost_request_fails_the_run() -> None:
    requests = [*good_requests(), Request("chat", 1.0, answered=False, lost=True, within_slo=False, settling=True)]
    summary = summarise(requests, good_observations())
    assert summary.lost == 1
    assert not summary.held


def test_no_requests_are_not_a_success() -> None:
    assert share([], lambda _: True) == 0.0
    assert not summarise([], good_observations()).held


def test_only_requests_outside_steps_count_there() -> None:
    stepped, constant = Stream("a", "m", 2, 8, 1, 1, 1, 1, 1), Stream("b", "m", 5, 5, 1, 1, 1, 1, 1)
    instants = (TIMELINE.step_up, TIMELINE.step_up + 44.9, TIMELINE.step_down, TIMELINE.step_down + 44.9)
    assert all(TIMELINE.is_settling(stepped, at) and not TIMELINE.is_settling(constant, at) for at in instants)
    assert not TIMELINE.is_settling(stepped, TIMELINE.step_up - 0.1)
    late = [Request("chat", at, answered=True, lost=False, within_slo=False, settling=True) for at in instants]
    assert summarise([*good_requests(), *late], good_observations()).within_slo_outside_steps == 1.0


@pytest.mark.parametrize(
    ("summary", "gpus"), [("2xTP1", 2), ("1xTP2", 2), ("3x(4/GPU)", 3), ("2xTP1+1xTP4", 6), ("none", 0)]
)
def test_gpus_of_a_plan_in_short(summary: str, gpus: int) -> None:
    assert gpus_of_summary(summary) == gpus


def test_history_entries_become_decisions() -> None:
    entry = {"at": "2026-01-01T00:00:30Z", "from": "1xTP1", "to": "3xTP1", "why": "8 req/s"}
    decided = make_decided("chat", entry, started=1767225600.0)
    assert (decided.at, decided.gpus_before, decided.gpus_after, decided.grows) == (31.0, 1, 3, True)


def test_gpus_of_pods_by_claim_and_by_extended_resource() -> None:
    dra = {"spec": {"resourceClaims": [{}], "containers": [{"args": ["--tensor-parallel-size", "2"]}]}}
    extended = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}
    assert (gpus_of(dra), gpus_of(extended), gpus_of({"spec": {"containers": [{}]}})) == (2, 1, 0)


def test_restarts_are_counted_over_containers() -> None:
    assert restarts([{"status": {"containerStatuses": [{"restartCount": 1}, {"restartCount": 2}]}}, {}]) == 3


def test_how_an_operator_ended_is_told() -> None:
    killed = {"restartCount": 1, "lastState": {"terminated": {"exitCode": 137, "message": "scaling"}}}
    failed = {"restartCount": 1, "lastState": {"terminated": {"exitCode": 1, "message": "Traceback\nKeyError: 'a'\n"}}}
    ends = last_ends([{"status": {"containerStatuses": [killed, failed, {"restartCount": 0}]}}])
    assert ends == ["exit 137", "exit 1: KeyError: 'a'"]
    seen = dataclasses.replace(good_observations(), operator_restarts=2, operator_ends=ends)
    details = [claim.detail for claim in summarise(good_requests(), seen).claims]
    assert "2 restarts; exit 137; exit 1: KeyError: 'a'" in details


def test_the_schedule_covers_the_whole_run() -> None:
    stream = Stream("chat", "m", 2.0, 8.0, 300, 100, 500, 40, seed=1)
    schedule = TIMELINE.schedule(stream)
    assert sum(seconds for seconds, _ in schedule) == TIMELINE.end
    assert [rate for _, rate in schedule] == [2.0, 8.0, 2.0]
