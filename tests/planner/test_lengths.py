"""Which request lengths are planned for: noise is not a new capacity, a real change is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.domain.profile import LengthMix
from shoal.domain.service import Load
from shoal.planner.lengths import USUAL_LENGTHS, lengths_for, planned_lengths

PLANNED = LengthMix(3000, 100, 7110, 237)


@pytest.mark.parametrize(
    ("observed", "kept"),
    [
        (LengthMix(3000, 100, 7110, 237), True),
        (LengthMix(3290, 91.5, 8900, 200), True),
        (LengthMix(3310, 100, 7110, 237), False),
        (LengthMix(3000, 90, 7110, 237), False),
        (LengthMix(3000, 100, 9100, 237), False),
    ],
)
def test_the_planned_mix_is_kept_until_the_observed_one_is_far(observed, kept):
    assert planned_lengths(observed, PLANNED) == (PLANNED if kept else observed)


@pytest.mark.parametrize(("requests", "kept"), [(20, True), (400, True), (500, False), (math.inf, False)])
def test_a_mean_of_few_requests_must_differ_by_more(requests, kept):
    observed = LengthMix(3000 * 1.15, 100, 7110, 237)
    assert planned_lengths(observed, PLANNED, requests) == (PLANNED if kept else observed)


def test_nothing_observed_changes_nothing():
    assert planned_lengths(None, PLANNED) == PLANNED
    assert planned_lengths(None, None) is None
    assert lengths_for(Load(), None, PLANNED) == PLANNED


def test_what_was_seen_counts_before_what_was_declared():
    seen = LengthMix(200, 400, 500, 900)
    assert lengths_for(Load(lengths=seen), None, PLANNED) == seen
    assert lengths_for(Load(), seen, PLANNED) == seen


def test_lengths_that_are_no_lengths_are_left_out():
    broken = LengthMix(math.nan, 1, 1, 1)
    assert lengths_for(Load(lengths=broken), None, PLANNED) == PLANNED
    assert lengths_for(Load(lengths=broken), broken, broken) == USUAL_LENGTHS


@given(st.lists(st.floats(0.955, 1.045), min_size=1, max_size=50))
def test_a_mean_that_wanders_within_the_error_never_changes_the_plan(factors):
    planned = PLANNED
    changes = 0
    for factor in factors:
        now = lengths_for(Load(lengths=LengthMix(3000 * factor, 100, 7110, 237)), planned, USUAL_LENGTHS)
        changes += now != planned
        planned = now
    assert changes == 0
