"""Buckets of prompt length, and the program that gives them to GPU types."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.buckets import make_buckets, split_by_length
from bench.by_length import MIXES, make_case
from shoal.domain.profile import LengthMix


@given(mean=st.floats(1, 5000), tail=st.floats(1, 6))
def test_buckets_have_the_mean_of_the_mix_and_rise(mean: float, tail: float) -> None:
    buckets = make_buckets(LengthMix(mean, 100, mean * tail, 200))
    assert sum(bucket.share for bucket in buckets) == pytest.approx(1)
    assert sum(bucket.share * bucket.lengths.input_mean for bucket in buckets) == pytest.approx(mean)
    means = [bucket.lengths.input_mean for bucket in buckets]
    assert means == sorted(means)


def test_the_tail_of_the_mix_is_where_the_lognormal_has_it() -> None:
    mix = LengthMix(600, 150, 1800, 300)
    assert make_buckets(mix)[-2].upper == pytest.approx(1800, rel=0.01)


@settings(derandomize=True, max_examples=12, deadline=None)
@given(rate=st.floats(0.5, 40), name=st.sampled_from(["short", "long"]))
def test_every_bucket_is_served_within_what_its_options_carry(rate: float, name: str) -> None:
    assessment, room = make_case(rate, MIXES[name], 200.0)
    options = [fleet.option for fleet in assessment.fleets.values()]
    found = split_by_length(options, rate, make_buckets(MIXES[name]), room)
    assert found is not None
    assert all(sum(weights.values()) == pytest.approx(1) for weights in found.weights)
    assert {placement for weights in found.weights for placement in weights} <= set(found.counts)


def test_without_room_there_is_no_answer() -> None:
    assessment, room = make_case(1000.0, MIXES["long"], 200.0, gpus=8)
    options = [fleet.option for fleet in assessment.fleets.values()]
    assert split_by_length(options, 1000.0, make_buckets(MIXES["long"]), room) is None
