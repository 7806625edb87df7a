"""What was learned, as ModelProfiles and back; and the words for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from render_reports import CAPACITY, CONFIGURATION, MIX, PLACEMENT, make_report

from shoal.api.load import parse_object
from shoal.api.model_profile import ModelProfile
from shoal.domain.live import Evidence, Learned, Lesson, LiveSample, Residual, Tally, Target
from shoal.domain.profile import LengthMix, ProfileRow, StepModel
from shoal.domain.reasons import ProfileState
from shoal.render.conditions import judge
from shoal.render.learned import make_learned_profiles, read_learned
from shoal.render.reasons import ConditionType
from shoal.render.report import Report
from shoal.render.status import make_status

ROW = ProfileRow(1, 1, 256, 2048, 400_000.0, MIX, steps=StepModel(8.123456, 0.03, 2e-5))
TARGET = Target(95, 500.0, None)
SAMPLE = LiveSample(0.0, 60.0, 2, 3.1, 372.0, 3.1, 180.0, 23.0)


def learned(**evidence: Any) -> Learned:
    fields = {"requests": 12_432.0, "highest_rate": 3.12, "ttft_ratio": 1.2, **evidence}
    row = None if fields.get("drift") else ROW
    told = Evidence(**fields)
    tally = Tally(told.requests, highest_rate=told.highest_rate)
    return Learned("Qwen/Qwen2.5-7B-Instruct", "0.33.0", TARGET, Lesson(CONFIGURATION, told, row), tally)


def report_of(state: ProfileState, lesson: Learned | None, *, credited: float | None = 3.9, **more: Any) -> Report:
    report = make_report(**more)
    assert report.decision is not None
    assert report.service is not None
    capacity = replace(CAPACITY, source=state, credited=credited)
    plan = report.decision.plan
    variants = tuple(replace(variant, capacity=capacity) for variant in plan.variants)
    residual = Residual(PLACEMENT, SAMPLE, ROW, True, 3.1, 150.0, 21.0, 1.1, True)
    explanation = replace(report.decision.explanation, profile=state, residuals=(residual,))
    decision = replace(report.decision, plan=replace(plan, variants=variants), explanation=explanation)
    known = () if lesson is None else (lesson,)
    engine = replace(report.service.engine, version="0.33.0")
    service = replace(report.service, model="Qwen/Qwen2.5-7B-Instruct", engine=engine, learned=known)
    return replace(report, decision=decision, service=service)


def profiles_of(*lessons: Learned) -> list[dict[str, Any]]:
    report = make_report()
    assert report.service is not None
    service = replace(report.service, model=lessons[0].model) if lessons else report.service
    service = replace(service, engine=replace(service.engine, version="0.33.0"))
    return make_learned_profiles(report.resource, service, lessons)


def test_a_profile_belongs_to_its_service_and_reads_back() -> None:
    (body,) = profiles_of(learned())
    metadata = body["metadata"]
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "shoal"
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("ModelService", True)
    assert body["spec"]["source"] == "Learned"
    (back,) = read_learned(parse_object(ModelProfile, body))
    assert back.lesson.configuration == CONFIGURATION
    assert back.target == TARGET
    assert back.lesson.evidence == Evidence(12_430.0, 3.12, 1.2)
    assert back.lesson.row is not None
    assert back.lesson.row.steps is not None
    assert back.lesson.row.steps.alpha_ms == 8.123
    assert back.tally.requests == 12_430.0


def test_what_is_nothing_yet_or_of_trusted_profiles_is_not_kept() -> None:
    assert profiles_of(learned(requests=0.0)) == []
    assert profiles_of(learned(drift=1.5)) == []
    assert profiles_of(replace(learned(), engine_version="0.1.0")) == []


def test_lengths_as_buckets_tell_them_can_be_written() -> None:
    """Seen live: prompts of 2 tokens on average whose 95th percentile, from buckets, was 1.95."""
    one = learned()
    assert one.lesson.row is not None
    row = replace(one.lesson.row, lengths=LengthMix(2.0, 0.5, 1.95, 0.4))
    (body,) = profiles_of(replace(one, lesson=replace(one.lesson, row=row)))
    (back,) = read_learned(parse_object(ModelProfile, body))
    assert back.lesson.row is not None
    assert back.lesson.row.lengths == LengthMix(2.0, 1.0, 2.0, 1.0)


def test_a_model_of_unknown_size_keeps_nothing() -> None:
    report = make_report()
    assert report.service is not None
    engine = replace(report.service.engine, version="0.33.0")
    service = replace(report.service, model=learned().model, engine=engine, facts=None)
    assert make_learned_profiles(report.resource, service, [learned()]) == []


def test_one_object_for_each_gpu_type() -> None:
    other = replace(CONFIGURATION, accelerator="NVIDIA-L40S")
    one = learned()
    bodies = profiles_of(one, replace(one, lesson=replace(one.lesson, configuration=other)))
    assert len({body["metadata"]["name"] for body in bodies}) == 2


@pytest.mark.parametrize(
    ("state", "lesson", "status", "words"),
    [
        (
            ProfileState.LEARNED,
            learned(),
            "True",
            "learned from 12,000 requests at up to 3.12 req/s per engine; credited 3.9; predicted ITL 21 ms, observed "
            "23 ms",
        ),
        (
            ProfileState.STALE,
            learned(drift=1.5),
            "False",
            "1.5 times slower than team-a/qwen says; predicted ITL 21 ms",
        ),
        (ProfileState.STALE, learned(drift=0.5), "False", "2 times faster"),
        (ProfileState.STALE, learned(drift=1.5), "False", "measure again with `shoal profile "),
        (ProfileState.STALE, None, "False", "another engine version"),
        (ProfileState.ESTIMATED, learned(requests=80.0), "False", "estimated; 80 requests compared so far; predicted"),
        (ProfileState.ESTIMATED, None, "False", "Measure it with `shoal profile`"),
        (ProfileState.LEARNED, None, "True", "planned from what the service's own traffic showed"),
    ],
)
def test_the_condition_tells_numbers(state: ProfileState, lesson: Learned | None, status: str, words: str) -> None:
    verdict = judge(report_of(state, lesson), {})[ConditionType.PROFILED]
    assert (verdict.status, verdict.reason) == (status, state)
    assert words in verdict.message


def test_what_cannot_be_kept_is_told() -> None:
    report = replace(report_of(ProfileState.LEARNED, learned()), unkept="ModelProfile x exists and is not Shoal's")
    assert judge(report, {})[ConditionType.PROFILED].message.endswith("not Shoal's")


def test_the_status_has_predicted_beside_observed() -> None:
    (entry,) = make_status(None, report_of(ProfileState.LEARNED, learned()))["learning"]
    assert entry == {
        "configuration": "h100 TP1",
        "requests": 12_432,
        "creditedRate": 3.9,
        "timeRatio": 1.1,
        "ttftPredicted": 150.0,
        "ttftObserved": 180.0,
        "itlPredicted": 21.0,
        "itlObserved": 23.0,
    }
    assert "learning" not in make_status(None, make_report())
