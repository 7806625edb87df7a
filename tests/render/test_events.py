"""Events: once for each thing that changed."""

from __future__ import annotations

import dataclasses

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

from shoal.domain.service import Memory, PlacedReplicas
from shoal.render.events import Event, find_events, make_event
from shoal.render.report import Report
from shoal.render.status import make_status


def summarise(events: tuple[Event, ...]) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in events]


def grown(now: float = NOW + 5) -> Report:
    decision = make_decision(make_plan(5))
    return make_report(decision=decision, now=now, memory=Memory(target=(PlacedReplicas(PLACEMENT, 5),)))


def hot(now: float = NOW + 5) -> Report:
    explanation = make_explanation(derating={f"{NAME}-0": 0.6})
    return make_report(decision=make_decision(make_plan(), explanation), now=now)


def test_first_status_tells_the_plan_and_nothing_that_is_as_it_should_be() -> None:
    starting = make_status(None, make_report(service=make_service(make_running(0, 2))))
    assert summarise(find_events(None, starting)) == [("Normal", "Planned")]


def test_ready_is_told() -> None:
    starting = make_status(None, make_report(service=make_service(make_running(0, 2))))
    ready = make_status(starting, make_report())
    assert summarise(find_events(starting, ready)) == [("Normal", "Serving")]


def test_another_plan_is_told_with_its_reason() -> None:
    before = make_status(None, make_report())
    (event,) = find_events(before, make_status(before, grown()))
    assert event == Event("Normal", "Planned", "2xTP1 -> 5xTP1: 20 req/s need 2 replicas of 12.5 req/s")


def test_heat_comes_and_goes() -> None:
    before = make_status(None, make_report())
    during = make_status(before, hot())
    after = make_status(during, make_report(now=NOW + 10))
    assert summarise(find_events(before, during)) == [("Warning", "Hot")]
    assert summarise(find_events(during, after)) == [("Normal", "AsPlanned")]


def test_nothing_new_is_not_told_again() -> None:
    before = make_status(None, hot(NOW))
    assert find_events(before, make_status(before, hot(NOW + 5))) == ()


def test_another_reason_is_told() -> None:
    before = make_status(None, hot(NOW))
    failing = dataclasses.replace(hot(), failures={f"{NAME}-1": "CUDA out of memory"})
    assert summarise(find_events(before, make_status(before, failing))) == [("Warning", "EnginesFailing")]


def test_the_same_content_is_the_same_object() -> None:
    event = Event("Warning", "Hot", "chat-0a1b2c3d-0 carries 60%")
    first, second = (make_event(make_resource(), event, now) for now in (NOW, NOW + 60))
    assert first["metadata"]["name"] == second["metadata"]["name"]
    assert (first["lastTimestamp"], second["lastTimestamp"]) == ("2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z")
    other = make_event(make_resource(), dataclasses.replace(event, message="more"), NOW)
    assert other["metadata"]["name"] != first["metadata"]["name"]


@pytest.mark.parametrize("size", [10, 5000])
def test_messages_fit(size: int) -> None:
    made = make_event(make_resource(), Event("Normal", "Planned", "x" * size), NOW)
    assert len(made["message"]) == min(size, 1000)
