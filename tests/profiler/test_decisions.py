"""What is measured next, what is skipped, what a point says, what a journal keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from profiler_world import made_point

from shoal.profiler.agenda import next_step
from shoal.profiler.errors import ProfilerError
from shoal.profiler.jobs import Ended, Records, make_trace
from shoal.profiler.journal import Journal, read_journal
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.measured import Measured, Shape
from shoal.profiler.plan import load_plan, make_jobs
from shoal.profiler.points import Point, make_statistic, summarise
from shoal.profiler.skips import Candidate, Known, why_skip
from shoal.profiler.specs import Kind, Objective, Settings, Spec

SETTINGS = Settings("gamma:512,128", Objective(ttft_ms=500.0), batch=64, repeats=2, burst=True)


def answer(spec: Spec) -> Point:
    """A server whose knee is just below 10 requests per second."""
    rate = spec.rate or 0.0
    late = rate > 9.4
    point = made_point(spec.name, rate=rate or None, connections=spec.connections, seed=spec.seed)
    return replace(
        point,
        spec=spec,
        late_first=round(0.1 * rate * 60) if late else 0,
        growth=0.2 if spec.name == "overload" else 0.0,
        finished_rate=min(rate, 10.0) or 10.0,
    )


def test_the_agenda_goes_by_worth_and_ends() -> None:
    points: list[Point] = []
    while (spec := next_step(SETTINGS, points)) is not None:
        points.append(answer(spec))
        assert len(points) < 40
    names = list(dict.fromkeys(point.spec.name for point in points))
    assert names == ["idle", "full", "overload", "search", "share", "prefill", "decode", "context", "burst", "repeat"]
    rates = sorted(point.spec.rate for point in points if point.spec.rate)
    assert rates[0] == pytest.approx(0.2 * 9.3, rel=0.1)  # 20 % of the knee
    assert rates[-1] >= 1.3 * 9.4  # beyond it
    assert {point.spec.seed for point in points if point.spec.name == "repeat"} == {1001}


def test_one_trace_is_rescaled_for_all_rates() -> None:
    trace = make_trace(parse_lengths("gamma:512,128"), seed=7, longest=2048, requests=2000)
    slow, fast = trace.up_to(2.0, 100.0), trace.up_to(4.0, 100.0)
    shared = len(slow.arrivals)
    assert shared == pytest.approx(200, abs=45)
    np.testing.assert_allclose(slow.arrivals, fast.arrivals[:shared] * 2)
    np.testing.assert_array_equal(slow.prompts, fast.prompts[:shared])
    longer = make_trace(parse_lengths("gamma:512,128"), seed=7, longest=2048, requests=3000)
    np.testing.assert_array_equal(longer.outputs[:2000], trace.outputs)


@pytest.mark.parametrize("text", ["gamma:512,128", "lognormal:512,128,0.5", "fixed:512,128"])
def test_lengths_have_the_means_asked_for(text: str) -> None:
    mix = parse_lengths(text).mix(100_000)
    assert mix.input_mean == pytest.approx(512, rel=0.02)
    assert mix.output_mean == pytest.approx(128, rel=0.02)


def records(first_ms: list[float], outputs: list[int]) -> Records:
    """One request per second from 0 on; a NaN never had a first token."""
    count = len(first_ms)
    sent = np.arange(count, dtype=np.float64)
    first = sent + np.array(first_ms) / 1000
    answers = np.array(outputs)
    last = first + (answers - 1) * 0.01
    return Records(
        due=sent,
        sent=sent,
        first=first,
        last=last,
        prompts=np.full(count, 100),
        outputs=answers,
        ended=np.where(np.isnan(last), Ended.UNDER_WAY, Ended.ANSWERED),
        cpu=np.array([0.2]),
    )


def test_late_requests_are_those_without_an_answer_too_but_one_token_has_no_gap() -> None:
    spec = Spec("search", Kind.OPEN, 10.0, 2.0, 1, "fixed:100,10", rate=1.0)
    seen = records([50.0] * 10 + [600.0, float("nan")], [1, 10] * 6)
    point = summarise(spec, seen, Objective(ttft_ms=500.0, itl_ms=20.0), began=0.0, took=13.0)
    assert point.planned == 10  # due from 2 to 12 s
    assert point.late_first == 2
    assert point.late_gap == 0
    assert not point.meets(Objective(ttft_ms=500.0))
    assert point.meets(Objective(ttft_ms=500.0, percentile=80))


def test_a_queue_that_grows_does_not_keep_up() -> None:
    spec = Spec("search", Kind.OPEN, 100.0, 0.0, 1, "fixed:100,10", rate=1.0)
    steady = summarise(spec, records([300.0] * 100, [10] * 100), Objective(), began=0.0, took=101.0)
    growing = summarise(spec, records([100.0 * i for i in range(100)], [10] * 100), Objective(), began=0.0, took=101.0)
    assert steady.keeps_up
    assert steady.meets(Objective())
    assert growing.growth == pytest.approx(0.09, abs=0.02)
    assert not growing.meets(Objective())


def test_confidence_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(40):
        found = make_statistic(rng.exponential(100.0, 800))
        assert found is not None
        low, high = found.p95_interval
        hits += low <= 100.0 * np.log(20) <= high
    assert hits >= 32  # 95 % nominal; a bootstrap of a tail is a little short


def test_a_journal_survives_a_cut_and_refuses_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path, SETTINGS.key)
    journal.add(made_point("idle", connections=1))
    journal.note(version="0.26.0")
    with path.open("a") as file:
        file.write('{"type": "point", "po')
    again = Journal(path, SETTINGS.key)
    assert again.points == journal.points
    assert again.facts == {"version": "0.26.0"}
    again.add(made_point("full", connections=64))
    assert [point.spec.name for point in read_journal(path).points] == ["idle", "full"]
    with pytest.raises(ProfilerError, match="seed differ"):
        Journal(path, replace(SETTINGS, seed=9).key)


def known(knee: float, *, running: float = 60.0, kv: float = 0.9, idle: float = 5.0, **shape: int) -> Known:
    """A measured configuration; its knee is of all its engines."""
    points = (
        replace(made_point("idle", connections=1, gap_ms=idle), engine={"runningMost": running, "kvUsageMost": kv}),
        made_point("overload", rate=1.3 * knee, growth=0.3, finished_rate=knee),
        made_point("search", rate=knee),
    )
    made = Shape(**{"max_num_seqs": 64, **shape})  # type: ignore[arg-type]
    return Known(Candidate(made, 8 << 30), Measured(made, SETTINGS, points, True, {}))


@pytest.mark.parametrize(
    ("candidate", "before", "reason"),
    [
        (Shape(max_num_seqs=256), [known(10, running=20)], "a larger batch limit changes nothing"),
        (Shape(max_num_seqs=256), [known(10, running=64)], None),
        (Shape(1, 4, 64), [known(10), known(9.9, engines_per_gpu=2)], "engines on a GPU carried"),
        (Shape(1, 4, 64), [known(10), known(15, engines_per_gpu=2)], None),
        (Shape(1, 4, 64), [known(10)], None),
        (Shape(4, 1, 64), [known(10), known(18, tensor_parallel=2, idle=5.0)], "GPUs per engine carried"),
        (Shape(4, 1, 64), [known(10), known(18, tensor_parallel=2, idle=3.0)], None),
    ],
)
def test_what_earlier_points_make_needless(candidate: Shape, before: list[Known], reason: str | None) -> None:
    found = why_skip(Candidate(candidate, 8 << 30), before)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_more_kv_cache_than_was_ever_used_is_needless() -> None:
    one = known(10, kv=0.3)
    assert "KV cache" in (why_skip(Candidate(one.candidate.shape, 16 << 30), [one]) or "")
    assert why_skip(Candidate(one.candidate.shape, 16 << 30), [known(10, kv=0.99)]) is None


def test_a_plan_makes_every_combination_once(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "models:\n- name: facebook/opt-125m\n  configurations:\n"
        "  - {engines: [1, 2], mps: [false, true], max_num_seqs: [64, 256], kv: 4GiB}\n"
        "lanes: [{gpus: [0], client_cpus: '8-10,12'}]\n"
    )
    plan = load_plan(path)
    assert plan.lanes[0].client_cpus == [8, 9, 10, 12]
    jobs = make_jobs(plan)
    assert [(j.shape.engines_per_gpu, j.shape.mps, j.shape.max_num_seqs) for j in jobs] == [
        (1, False, 64), (1, False, 256), (2, False, 64), (2, False, 256), (2, True, 64), (2, True, 256),
    ]  # fmt: skip
    assert {job.kv_bytes for job in jobs} == {4 << 30}
    path.write_text("models:\n- name: a\n  configurations: [{tp: 0}]\n")
    with pytest.raises(ProfilerError, match=r"plan.yaml: models.0.configurations.0.tp"):
        load_plan(path)
