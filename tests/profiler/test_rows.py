"""A row of a profile says how it came about and how well its numbers are known; repeats are pooled."""

from __future__ import annotations

from dataclasses import replace

import pytest
from profiler_world import made_point, statistic

from shoal.api.model_profile import ProfileRowSpec
from shoal.domain.profile import Link
from shoal.profiler.errors import ProfilerError
from shoal.profiler.measured import Measured, Shape, Subject
from shoal.profiler.points import Point
from shoal.profiler.profiles import make_provenance, make_resource
from shoal.profiler.rows import make_row
from shoal.profiler.specs import Objective, Settings

SHAPE = Shape(1, 1, 64, 2048, kv_cache_tokens=40_000.0)
SETTINGS = Settings("gamma:512,128", Objective(ttft_ms=500.0), batch=64)
SUBJECT = Subject("facebook/opt-1.3b", "NVIDIA-H200", "0.26.0", link=Link.NVLINK)


def play(gap: float, running: float, name: str, **changes: object) -> Point:
    """A point of an engine whose steps take 5 ms and `gap` ms for each running request."""
    step = 5.0 + gap * running
    values = {"gap_ms": step, "decoding": running, "itl": statistic(step), **changes}
    return made_point(name, **values)  # type: ignore[arg-type]


def run(top: float = 20.0, *, gap: float = 0.1, seed: int = 1, kv: float = 40_000.0, **facts: object) -> Measured:
    points = (
        play(gap, 1.0, "idle", connections=1, seed=seed),
        play(gap, 64.0, "full", connections=64, seed=seed),
        play(gap, 64.0, "overload", rate=1.3 * top, seed=seed, growth=0.3, finished_rate=top, engine={}),
        play(gap, 20.0, "search", rate=0.6 * top, seed=seed, gpu={"watts": 400.0, "clock_mhz": 1980.0}),
        play(gap, 40.0, "search", rate=0.9 * top, seed=seed, gpu={"watts": 600.0, "clock_mhz": 1700.0}),
    )
    known = {"gpu": {"name": "NVIDIA H200", "driver": "580.1"}, "kvCacheTokens": kv, "tool": "shoal profile 1+abc"}
    return Measured(replace(SHAPE, kv_cache_tokens=kv), SETTINGS, points, complete=True, facts=known | facts)


def row_of(*runs: Measured) -> ProfileRowSpec:
    row = make_row(runs, SUBJECT)
    assert row is not None
    return row


def test_a_row_says_how_it_came_about() -> None:
    how = row_of(run()).provenance
    assert how is not None
    assert (how.tool, how.engine) == ("shoal profile 1+abc", "vllm 0.26.0")
    assert (how.gpu_name, how.driver, how.clock_mhz, how.link) == ("NVIDIA H200", "580.1", 1700.0, Link.NVLINK)
    assert (how.lengths, how.date) == ("gamma:512,128", "2023-11-14T22:13:20Z")
    assert (how.windows, how.runs, how.partial) == (5, None, None)
    assert how.requests == sum(point.answered for point in run().points)


def test_invalid_points_do_not_count() -> None:
    one = run()
    bad = replace(one, points=(*one.points[:-1], replace(one.points[-1], invalid="the client was slow")))
    how = row_of(bad).provenance
    assert how is not None
    assert how.windows == 4
    assert "1 invalid points left out" in (how.notes or "")


def test_a_saturation_is_known_as_well_as_its_requests_tell() -> None:
    errors = row_of(run(20.0)).errors
    assert errors is not None
    # 20/s for 60 s: 1,200 requests whose answers have a coefficient of variation of 0.7.
    assert errors.overload_rate == pytest.approx(20 * (1.5 / 1200) ** 0.5, rel=0.03)
    assert errors.kv_cache_tokens == 0.0


def test_repeats_become_one_row_whose_errors_have_their_spread() -> None:
    row = row_of(run(18.0), run(22.0, seed=2, kv=40_100.0))
    assert row.overload_rate == pytest.approx(20.0)
    assert row.kv_cache_tokens == 40_050.0
    assert row.errors is not None
    assert row.errors.overload_rate == pytest.approx(2.0)  # 2.83 / sqrt(2): more than the sample's 0.5
    assert row.errors.kv_cache_tokens == pytest.approx(50.0)
    assert row.provenance is not None
    assert (row.provenance.runs, row.provenance.windows) == (2, 10)
    rates = [point.requests_per_second for point in row.points or ()]
    assert rates == sorted(rates)


def test_step_times_of_repeats_are_off_by_what_they_disagree() -> None:
    alone, slower = run(gap=0.1), run(gap=0.2, seed=2)
    one, both = row_of(alone), row_of(alone, slower)
    assert one.step_errors is not None
    assert both.step_errors is not None
    betas = [row_of(single).steps for single in (alone, slower)]
    assert all(betas)
    spread = abs(betas[1].beta_ms_per_token - betas[0].beta_ms_per_token) / 2  # type: ignore[union-attr]
    assert (both.step_errors.beta_ms_per_token or 0.0) >= 0.99 * spread
    assert (both.step_errors.beta_ms_per_token or 0.0) > (one.step_errors.beta_ms_per_token or 0.0)


def test_rates_that_hardly_differ_are_one_point() -> None:
    one, two = run(20.0), run(20.1, seed=2)
    assert len(row_of(one, two).points or ()) == len(row_of(one).points or ())


def test_a_configuration_does_not_come_twice() -> None:
    groups = [[run(18.0)], [run(22.0)]]
    with pytest.raises(ProfilerError, match="two rows of one configuration"):
        make_resource(SUBJECT, groups, make_provenance([run()], "a test"))


def test_with_and_without_mps_are_two_configurations() -> None:
    shape = replace(SHAPE, engines_per_gpu=2)
    shared = [replace(run(9.0), shape=replace(shape, mps=True)), replace(run(11.0), shape=shape)]
    resource = make_resource(SUBJECT, [[one] for one in shared], make_provenance(shared, "a test"))
    assert resource is not None
    assert [(row.mps, row.overload_rate) for row in resource.spec.rows] == [(None, 11.0), (True, 9.0)]
