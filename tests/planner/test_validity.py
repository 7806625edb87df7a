"""Where a capacity leaves what was measured or checked, it says so, and is planned with less of the knee."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from planner_world import MIX, decide_one, make_point, make_pool, make_profile, make_row, make_service

from shoal.domain.profile import LengthMix, StepModel
from shoal.domain.service import Objective, Workload
from shoal.planner.validity import Use, find_notes, outside

STEPS = StepModel(8.0, 0.02, 2e-5)
POINTS = (make_point(4, 40, 12), make_point(12, 100, 20))
ROW = make_row(18.6, points=POINTS, steps=STEPS)


ASKED = Objective(95, 500, 40)


def use(row=ROW, lengths=MIX, objective=ASKED, kv=None, carried=False):
    return Use(row, lengths, objective, kv or row.kv_cache_tokens, carried)


def times(inputs, outputs=1.0):
    return LengthMix(512 * inputs, 128 * outputs, 1024 * inputs, 256 * outputs)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (use(), None),
        (use(lengths=times(3.9)), None),
        (use(lengths=times(1, 5)), "lengths differ 5.0-fold"),
        (use(lengths=times(0.2)), "lengths differ 5.0-fold"),
        (use(lengths=times(6)), "prompts of 3072 tokens"),
        (use(replace(ROW, steps=None), times(1.5)), "scaled by size"),
        (use(replace(ROW, steps=None), times(1.1)), None),
        (use(kv=ROW.kv_cache_tokens / 3), "3.0 times less KV cache"),
        (use(carried=True), "carried there by the step model"),
        (use(make_row(10), objective=Objective(95, 100)), "100 ms without any latency measured"),
        (use(objective=Objective(99, 500)), "p99 of TTFT not measured"),
        (use(objective=Objective(99, None, 40)), "p99 of ITL not measured"),
        (use(objective=Objective(90, 500, 40)), None),
    ],
)
def test_notes(case, says):
    notes = find_notes(case)
    assert (not notes) if says is None else any(says in note for note in notes)


@pytest.mark.parametrize(("factor", "share"), [(1, 0), (4, 0), (5.657, 0.5), (8, 1), (20, 1)])
def test_the_margin_that_is_given_up_outside(factor, share):
    assert outside(use(lengths=times(factor))) == pytest.approx(share, abs=1e-3)


def test_the_margin_falls_without_a_cliff_from_measured_to_modelled_to_outside():
    margins = []
    for step in range(31):
        service = make_service(objective=Objective(95), workload=Workload(1.0, times(10 ** (step / 30))))
        decision = decide_one(service, [make_pool()], [make_profile([ROW])])
        margins.append(decision.plan.variants[0].capacity.margin)
    assert margins[0] == 0.9
    assert margins[-1] == pytest.approx(0.7)
    assert all(0 <= a - b < 0.04 for a, b in pairwise(margins))


def test_it_reaches_the_message_of_the_decision():
    service = make_service(workload=Workload(1.0, times(5)))
    decision = decide_one(service, [make_pool()], [make_profile([ROW])])
    assert "Beyond what was measured: lengths differ 5.0-fold" in decision.explanation.message
    near = decide_one(make_service(), [make_pool()], [make_profile([ROW])])
    assert "Beyond" not in near.explanation.message


@pytest.mark.parametrize(("less", "share"), [(1, 0), (2, 0), (2.828, 0.5), (4, 1)])
def test_less_kv_cache_gives_margin_up_as_well(less, share):
    assert outside(use(kv=ROW.kv_cache_tokens / less)) == pytest.approx(share, abs=1e-3)
