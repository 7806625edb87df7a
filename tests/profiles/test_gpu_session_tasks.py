"""What a session on GPUs does beside profiles: where it begins, which cores it takes, what the clock's law says."""

from __future__ import annotations

import dataclasses

import pytest

from bench.gpu_session.__main__ import parse_cores
from bench.gpu_session.checks import read_points, swept_knee
from bench.gpu_session.clock import Setting, fit_clock
from bench.gpu_session.plans import PHASES, Job, Task
from bench.gpu_session.results import RESULTS
from bench.gpu_session.tasks import likely_saturation
from shoal.profiler.points import Point
from shoal.profiler.specs import Kind

JOBS = [job for lanes in PHASES.values() for lane in lanes for stage in lane for job in stage.jobs]


def test_cores_are_named_as_taskset_names_them() -> None:
    assert parse_cores("0-3,8") == [0, 1, 2, 3, 8]


@pytest.mark.parametrize("job", [job for job in JOBS if job.task in (Task.MIX, Task.SWEEP)], ids=lambda job: job.name)
def test_a_job_that_builds_on_another_comes_after_it(job: Job) -> None:
    if job.known is None:
        lane = next(lane for lanes in PHASES.values() for lane in lanes for stage in lane if job in stage.jobs)
        names = [other.name for stage in lane for other in stage.jobs]
        assert job.after in names[: names.index(job.name)]


def test_longer_requests_are_likely_to_be_fewer() -> None:
    assert likely_saturation(60.0, "gamma:512,128", "gamma:1024,256") == pytest.approx(30.0)


def _setting(clock: int, time_ms: float) -> Setting:
    return Setting(1900, 0, (time_ms,) * 3, (clock,) * 5, 700.0, 60.0)


def test_the_share_that_follows_the_clock_is_found_again() -> None:
    law = fit_clock([_setting(clock, 10.0 + 30.0 * 1980 / clock) for clock in (1980, 1750, 1500)])
    assert law is not None
    assert (law.fixed_ms, law.follows_ms) == pytest.approx((10.0, 30.0))
    assert law.share == pytest.approx(0.75)


def test_a_clock_that_never_moved_tells_nothing() -> None:
    assert fit_clock([_setting(1980, 40.0), _setting(1965, 41.0)]) is None


def test_a_sweeps_knee_lies_where_too_many_come_late() -> None:
    points = [_swept(rate, late) for rate, late in ((60.0, 90), (54.0, 4), (57.0, 40))]
    assert swept_knee(points, 0.05) == (54.0, 57.0)
    assert swept_knee(points[1:2], 0.05) is None


def _swept(rate: float, late: int) -> Point:
    points = read_points(RESULTS / "h200-2026-11-28" / "qwen2.5-7b.jsonl")
    one = next(point for point in points if point.spec.kind is Kind.OPEN and not point.stopped)
    spec = dataclasses.replace(one.spec, rate=rate, name="sweep")
    return dataclasses.replace(one, spec=spec, planned=600, late_first=late, late_gap=0)
