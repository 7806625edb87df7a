"""The pure parts of the head-to-head: what Shoal is told of the simulator, and the bound. No peer is needed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.headtohead import scaling
from bench.headtohead.clairvoyant import least_gpu_hours, reactive_ceiling
from bench.headtohead.engines import Engine
from bench.headtohead.judge import Outcome, dominates, interval, paired, pick_tuned
from bench.headtohead.policies import Schedule, fewest_for, signals
from bench.headtohead.profiling import concurrency_at
from bench.headtohead.shoal_policy import ShoalPolicy, first_replicas, make_profile, planned_capacity, pooled_capacity
from bench.headtohead.simulator import Setting
from bench.headtohead.traffic import Lengths, Shape, make_shape, make_trace
from shoal.domain.plan import Scale

PLAN = yaml.safe_load((Path(scaling.__file__).parent / "plan.yaml").read_text())
ENGINE = Engine("engine", 6000, Lengths(512, 128))
SETTING = Setting(ENGINE, startup_seconds=90, ttft_ms=500, itl_ms=20)
LATENCIES = {f"{name}{of}Ms": 8.0 for of in ("Ttft", "Itl") for name in ("mean", "p50", "p90", "p95", "p99")}
TABLE = {"overloadRate": 20.0, "points": [{"rate": 18.0, "meanE2eMs": 1000.0, **LATENCIES}]}
CAPACITY = 0.9 * 0.93 * 20.0  # of the measured knee, as nothing else binds


def worker(number, *, running=5, waiting=0):
    return {
        "worker_id": number,
        "num_prefill_requests": 1,
        "num_decode_requests": running,
        "num_queued_prefill": waiting,
        "num_queued_decode": 0,
    }


def tick(seconds, rate, *, active=1, starting=0, draining=0, waiting=0):
    """What the simulator tells at the end of half a planning interval: 2.5 s."""
    ids = iter(range(active + starting + draining))
    named = {name: [next(ids) for _ in range(n)] for name, n in
             (("active", active), ("starting", starting), ("draining", draining))}  # fmt: skip
    return {
        "now_ms": seconds * 1000.0,
        "decode_fpm_snapshots": [worker(number, waiting=waiting) for number in named["active"]],
        "non_draining_decode_count": active + starting,
        "active_decode_count": active,
        **{f"{name}_decode_ids": numbers for name, numbers in named.items()},
        "traffic": {
            "duration_s": 2.5,
            "num_req": rate * 2.5,
            "avg_isl": 512.0,
            "avg_osl": 128.0,
            "avg_ttft_ms": 40.0,
            "avg_itl_ms": 12.0,
            "shape_count": rate * 2.5,
            "ttft_count": rate * 2.5,
            "itl_count": rate * 2.5,
        },
    }


def targets(ticks):
    policy = ShoalPolicy(SETTING, make_profile(ENGINE, TABLE))
    assert policy.initial_tick_ms() == 2500
    return [policy.on_tick(seen)["target_decode"] for seen in ticks], policy


def test_the_profile_carries_the_measured_knee():
    profile = make_profile(ENGINE, TABLE)
    assert planned_capacity(SETTING, profile) == pytest.approx(CAPACITY)
    assert first_replicas(SETTING, profile, 60.0) == fewest_for(60.0, CAPACITY) == 4


def test_a_whole_share_of_constant_load_is_where_the_answer_changes():
    profile = make_profile(ENGINE, TABLE)
    for replicas in range(1, 7):
        each = pooled_capacity(SETTING, profile, replicas)
        rates = (replicas * each * 0.995, replicas * each * 1.005)
        assert [first_replicas(SETTING, profile, rate) for rate in rates] == [replicas, replicas + 1]


def test_the_profile_is_of_the_engines_own_degree():
    wide = dataclasses.replace(ENGINE, tensor_parallel=2)
    assert make_profile(wide, TABLE).rows[0].tensor_parallel == 2


def test_shoal_grows_at_once_when_the_rate_steps_and_holds_while_replicas_start():
    calm = [tick(2.5 * k, 10) for k in range(1, 79)]
    high = [tick(195 + 2.5 * k, 60) for k in (1, 2, 3)] + [tick(195 + 2.5 * k, 60, starting=4) for k in range(4, 24)]
    found, policy = targets([*calm, *high])
    assert found[:78] == [None, 1] * 39, "in the middle of an interval it only counts"
    assert found[78:80] == [1, 1], "the tick that may hold both rates is left out"
    assert found[80:] == [5] + [5, None] * 10, "seen in the middle of an interval; newcomers alone carry it for a while"
    assert all(isinstance(decision, Scale) for decision in policy.decisions)


def test_a_queue_counts_when_it_is_there_twice():
    found, policy = targets([tick(2.5 * k, 10, waiting=400) for k in range(1, 7)])
    stuck = [decision.explanation.demand.stuck_replicas for decision in policy.decisions]
    assert stuck == [0, 1, 1]
    assert found[1] == 1


def test_draining_workers_are_not_what_is_wanted():
    found, _ = targets([tick(2.5 * k, 10, draining=2) for k in range(1, 7)])
    assert found == [None, 1] * 3


def test_signals_are_of_all_workers():
    seen = signals(tick(5, 10, active=2, starting=1, waiting=3), 0.5, None)
    assert (seen.desired, seen.ready, seen.rate, seen.active, seen.ttft_share) == (3, 2, 10.0, 18.0, 0.5)


def test_a_schedule_answers_with_the_last_move_that_is_due():
    schedule = Schedule([(10, 2), (20, 5)], 5)
    assert [schedule.on_tick({"now_ms": ms})["target_decode"] for ms in (5000, 10000, 15000, 20000)] == [None, 2, 2, 5]


def test_the_bound_of_a_constant_rate_is_its_share_of_replicas():
    bound = least_gpu_hours(np.full(60, 30.0), tick_seconds=5, capacity=10, misses=0, startup_seconds=0, workers=3)
    assert bound.gpu_hours == pytest.approx(3 * 300 / 3600)


def test_misses_are_spent_where_they_save_most():
    rates = np.concatenate([np.full(20, 10.0), np.full(2, 40.0), np.full(20, 10.0)])
    strict, lax = (
        least_gpu_hours(rates, tick_seconds=5, capacity=10, misses=m, startup_seconds=50, workers=1).gpu_hours
        for m in (0.0, 300.0)
    )
    assert strict == pytest.approx((42 * 5 + 3 * 10 + 3 * 50) / 3600)
    assert lax == pytest.approx(42 * 5 / 3600)


def test_before_the_first_start_up_has_passed_misses_cannot_be_helped():
    bound = least_gpu_hours(np.full(40, 20.0), tick_seconds=5, capacity=10, misses=0, startup_seconds=90, workers=1)
    assert set(bound.serving[:18]) == {1}
    assert set(bound.serving[18:]) == {2}
    with pytest.raises(ValueError, match="capacity"):
        least_gpu_hours([1.0], tick_seconds=5, capacity=0, misses=0, startup_seconds=0, workers=1)


@given(
    rates=st.lists(st.floats(0, 50), min_size=1, max_size=5),
    capacity=st.floats(12, 40),
    misses=st.floats(0, 500),
    startup=st.sampled_from([0.0, 5.0, 10.0]),
)
@settings(max_examples=25, deadline=None)
def test_no_schedule_is_below_the_bound(rates, capacity, misses, startup):
    """Against every schedule of up to five replicas: those with at most so many misses cost at least the bound."""
    bound = least_gpu_hours(rates, tick_seconds=5, capacity=capacity, misses=misses, startup_seconds=startup, workers=1)
    ahead = round(startup / 5)
    forced = sum(5 * max(0.0, rate - capacity) for rate in rates[:ahead])
    for schedule in itertools.product(range(1, 6), repeat=max(len(rates) - ahead, 0)):
        serving = (1,) * min(ahead, len(rates)) + schedule
        missed = sum(5 * max(0.0, r - n * capacity) for r, n in zip(rates, serving, strict=True))
        if missed <= max(misses, forced):
            grown = sum(max(0, b - a) for a, b in itertools.pairwise((serving[0] if not ahead else 1, *serving)))
            assert (sum(serving) * 5 + grown * startup) / 3600 >= bound.gpu_hours - 1e-7


def test_the_ceiling_of_the_step():
    assert reactive_ceiling(45_000, 60.0, 90.0, 5.0) == pytest.approx(0.8733, abs=1e-4)


def test_paired_differences_and_their_interval():
    found = paired({1: 0.9, 2: 0.8, 3: 0.7}, {1: 0.8, 2: 0.7, 3: 0.6, 4: 0.0})
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    wide = interval([0.0, 1.0])
    assert (wide.mean, wide.high) == pytest.approx((0.5, 0.5 + 12.706 * math.sqrt(0.5) / math.sqrt(2)))
    with pytest.raises(ValueError, match="no seed"):
        paired({1: 0.9}, {2: 0.9})


def test_domination_needs_both_axes():
    ours = Outcome(0.9, 1.0)
    assert dominates(Outcome(0.91, 0.9), ours)
    assert not dominates(Outcome(0.95, 1.0), ours)
    assert not dominates(Outcome(0.9, 0.5), ours)


def test_tuning_prefers_attainment_within_the_budget():
    ours = Outcome(0.8, 1.0)
    assert pick_tuned([Outcome(0.99, 2.0), Outcome(0.7, 1.0), Outcome(0.85, 1.1)], ours, 1.1) == 2
    assert pick_tuned([Outcome(0.99, 2.0), Outcome(0.9, 1.5)], ours, 1.1) == 1


def test_concurrency_by_littles_law():
    assert concurrency_at(TABLE, 9.0) == pytest.approx(9.0)
    assert concurrency_at(TABLE, 50.0) == pytest.approx(18.0)


def test_shapes_and_traces_are_what_they_say():
    shape = make_shape({"pieces": [[10, 10, 10], [10, 0, 20]]})
    assert shape.rates().sum() == pytest.approx(200.0)
    assert make_shape({"sine": {"seconds": 100, "mean": 5, "amplitude": 4, "period": 100}}).rates().min() < 1.01
    one, same, other = (make_trace(Shape(((600, 20, 20),), noise=0.03), ENGINE.lengths, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.at_ms, same.at_ms)
    assert not np.array_equal(one.at_ms[:100], other.at_ms[:100])
    assert one.at_ms[0] == 0.0
    assert len(one) == pytest.approx(12_000, rel=0.05)
    assert one.prompts.mean() == pytest.approx(512, rel=0.05)


def test_the_plan_names_jobs_that_can_be_made():
    bench = scaling.Bench(PLAN, Path(), Path())
    jobs = scaling.evaluation_jobs(bench, {"step/polynomial/hpa": {"share": 0.8, "down": 120}})
    assert len({job.key for job in jobs}) == len(jobs)
    assert sum(job.policy == "shoal" and job.scenario == "step" for job in jobs) == 40
    evaluated = {seed for scenario in PLAN["scenarios"].values() for seed in scenario["seeds"]}
    assert not evaluated & set(PLAN["tuning"]["seeds"])
    assert not {job.seed for job in scaling.fresh_jobs(bench, {})} & (evaluated | set(PLAN["tuning"]["seeds"]))
    grid = scaling.grid_of(PLAN["policies"]["kpa"])
    assert grid[0] == PLAN["policies"]["kpa"]["default"]
    assert len(grid) == 6


def test_half_a_row_of_a_killed_run_is_cut_off_and_the_next_one_stands_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    scaling.append(path, {"key": "a"})
    with path.open("a") as file:
        file.write('{"key": "b", "atta')
    assert list(scaling.read_rows(path)) == ["a"]
    scaling.append(path, {"key": "c"})
    assert list(scaling.read_rows(path)) == ["a", "c"]
    assert scaling.read_rows(tmp_path / "none.jsonl") == {}
