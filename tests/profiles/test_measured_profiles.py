"""profiles/measured says what was measured: made from the results of the run, and planned with as measured."""

from __future__ import annotations

import pytest

from bench.gpu_session.make_profiles import make_profiles as session_profiles
from bench.real_engine.make_profiles import OUT, make_profiles
from shoal.api.convert import profile_to_domain
from shoal.api.load import load_text
from shoal.api.model_profile import ModelProfile
from shoal.domain.profile import Profile, Source

FILES = dict(make_profiles())


def profile_of(name: str) -> Profile:
    (resource,) = load_text(FILES[name], where=name)
    assert isinstance(resource, ModelProfile)
    return profile_to_domain(resource)


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_shipped_file_is_made_from_the_results(name: str) -> None:
    assert (OUT / name).read_text() == FILES[name]


@pytest.mark.parametrize("name", sorted(FILES))
def test_it_is_labelled_measured_and_latency_rises_with_the_rate(name: str) -> None:
    profile = profile_of(name)
    assert profile.source is Source.MEASURED
    (row,) = profile.rows
    assert row.overload_rate is not None
    assert all(point.rate < row.overload_rate for point in row.points)
    assert row.points[0].itl.mean < row.points[-1].itl.mean


def test_nothing_else_is_shipped_there() -> None:
    assert {path.name for path in OUT.glob("*.yaml")} == set(FILES) | {name for name, _ in session_profiles()}
