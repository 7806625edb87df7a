"""The engine core: exact cases, bounds under any load, and strides that equal single steps."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.domain.profile import StepModel
from shoal.sim.batch import Sequence
from shoal.sim.engine import Engine, EngineLimits, QueueFullError, Report
from shoal.sim.steps import Speed

STEPS = StepModel(alpha_ms=10, beta_ms_per_token=0.1, gamma_ms_per_kv_token=0.001, floor_small_ms=15, floor_large_ms=60)
ROOMY = EngineLimits(max_num_seqs=8, max_num_batched_tokens=512, kv_blocks=1000)


@dataclass(frozen=True)
class Arrival:
    after: float
    prompt_tokens: int
    output_tokens: int


ARRIVALS = st.lists(
    st.builds(Arrival, st.sampled_from([0.0, 0.004, 0.03, 0.2, 2.0]), st.integers(1, 300), st.integers(1, 120)),
    min_size=1,
    max_size=25,
)
LIMITS = st.builds(
    lambda seqs, spare, blocks: EngineLimits(seqs, seqs + spare, blocks),
    st.integers(1, 8),
    st.integers(0, 200),
    st.integers(27, 90),  # 27 blocks of 16 hold the longest request
)


def run_to_the_end(engine: Engine) -> list[Report]:
    reports = []
    while engine.wake_at is not None:
        reports += engine.advance(engine.wake_at)
    return reports


def replay(engine: Engine, arrivals: list[Arrival]) -> tuple[list[Sequence], list[Report]]:
    now, sequences, reports = 0.0, [], []
    for arrival in arrivals:
        now += arrival.after
        reports += engine.advance(now)
        sequences.append(engine.submit(arrival.prompt_tokens, arrival.output_tokens, now))
    return sequences, reports + run_to_the_end(engine)


def test_one_request_takes_its_prompt_step_and_its_decode_steps() -> None:
    engine = Engine(STEPS, ROOMY)
    (sequence,), _ = replay(engine, [Arrival(1.0, 100, 4)])
    prompt = 10 + 0.1 * 100  # above the floor of 15
    decode = sum(10 + 0.1 + 0.001 * context for context in (101, 102, 103))
    assert sequence.first_token_at == pytest.approx(1 + prompt / 1000)
    assert sequence.finished_at == pytest.approx(1 + (prompt + decode) / 1000)


@pytest.mark.parametrize(("prompt", "milliseconds"), [(20, 15.0), (400, 50.0), (513, 61.3)])
def test_steps_that_read_prompts_have_floors(prompt: int, milliseconds: float) -> None:
    engine = Engine(STEPS, EngineLimits(8, 2048, 1000))
    (sequence,), _ = replay(engine, [Arrival(0.0, prompt, 1)])
    assert sequence.finished_at == pytest.approx(milliseconds / 1000)


def test_long_prompts_are_read_in_chunks_while_others_decode() -> None:
    engine = Engine(STEPS, EngineLimits(2, 100, 1000))
    (short, long), _ = replay(engine, [Arrival(0.0, 10, 50), Arrival(0.001, 250, 1)])
    assert short.scheduled_at == 0.0
    # The long prompt joins after the short one's, then needs three steps of 99 tokens beside one decoding sequence.
    steps = [10 + 0.1 * 100 + 0.001 * (11 + i) for i in range(2)] + [10 + 0.1 * (1 + 250 - 198) + 0.001 * 13]
    assert long.finished_at == pytest.approx((15 + sum(steps)) / 1000)


def test_requests_wait_for_a_seat_in_order() -> None:
    engine = Engine(STEPS, EngineLimits(1, 512, 1000))
    sequences, _ = replay(engine, [Arrival(0.0, 10, 5)] * 3)
    ends = [sequence.finished_at for sequence in sequences]
    assert ends == sorted(ends)
    assert [s.scheduled_at for s in sequences[1:]] == pytest.approx(ends[:-1])


def test_a_full_queue_refuses() -> None:
    engine = Engine(STEPS, EngineLimits(1, 512, 1000, max_waiting=2))
    for _ in range(3):
        engine.submit(10, 5, 0.0)
    with pytest.raises(QueueFullError):
        engine.submit(10, 5, 0.0)


def test_a_burst_may_use_free_seats_even_without_a_queue() -> None:
    engine = Engine(STEPS, EngineLimits(4, 512, 1000, max_waiting=1))
    for _ in range(5):
        engine.submit(10, 5, 0.0)
    assert len(engine.running) + len(engine.waiting) == 5


def test_a_request_beyond_the_kv_cache_is_an_error() -> None:
    with pytest.raises(ValueError, match="KV cache"):
        Engine(STEPS, EngineLimits(1, 512, 10)).submit(100, 61, 0.0)


def test_the_youngest_is_preempted_when_the_kv_cache_is_full_and_still_ends() -> None:
    engine = Engine(STEPS, EngineLimits(4, 512, 12))
    (old, young), reports = replay(engine, [Arrival(0.0, 60, 100), Arrival(0.0, 60, 100)])
    assert old.preemptions == 0
    assert young.preemptions >= 1
    assert old.finished_at < young.finished_at
    assert sum(report.output_tokens for report in reports) == 200
    longest_gap = max(gap for report in reports for gap, _ in report.gaps)
    assert longest_gap > 0.5  # the preempted one stood still until the other had ended


def test_an_aborted_request_leaves_at_the_end_of_the_step() -> None:
    engine = Engine(STEPS, ROOMY)
    sequence = engine.submit(10, 1000, 0.0)
    engine.advance(1.0)
    engine.abort(sequence, 1.0)
    (report,) = run_to_the_end(engine)
    assert report.ended == [sequence]
    assert sequence.aborted
    assert report.at - 1.0 < 0.02
    assert engine.is_idle


def test_an_aborted_request_leaves_the_queue_at_once() -> None:
    engine = Engine(STEPS, EngineLimits(1, 512, 1000))
    engine.submit(10, 5, 0.0)
    waiting = engine.submit(10, 5, 0.0)
    engine.abort(waiting, 0.0)
    assert not engine.waiting
    assert waiting.finished_at == 0.0


def seconds_for(steps: StepModel, speed: Speed, arrivals: list[Arrival]) -> float:
    engine = Engine(steps, ROOMY)
    engine.set_speed(speed, 0.0)
    return max(sequence.finished_at or 0.0 for sequence in replay(engine, arrivals)[0])


BATCH = [Arrival(0.0, 50, 100)] * 8


def test_a_slow_clock_slows_an_engine_that_waits_for_its_gpu() -> None:
    gpu_bound = StepModel(alpha_ms=2, beta_ms_per_token=2, gamma_ms_per_kv_token=0)
    slowed = seconds_for(gpu_bound, Speed(clock_ratio=1 / 0.7), BATCH)
    assert slowed / seconds_for(gpu_bound, Speed(), BATCH) == pytest.approx(1 / 0.7, rel=0.1)


def test_a_slow_clock_changes_nothing_for_an_engine_that_waits_for_its_cpu() -> None:
    cpu_bound = StepModel(
        alpha_ms=1, beta_ms_per_token=0.1, gamma_ms_per_kv_token=0, floor_small_ms=100, api_tokens_per_second=500
    )
    assert seconds_for(cpu_bound, Speed(clock_ratio=1 / 0.7), BATCH) == seconds_for(cpu_bound, Speed(), BATCH)


def test_the_api_server_limits_tokens_per_second() -> None:
    limited = StepModel(alpha_ms=1, beta_ms_per_token=0.1, gamma_ms_per_kv_token=0.001, api_tokens_per_second=1000)
    assert seconds_for(limited, Speed(), BATCH) == pytest.approx(8 * 100 / 1000, rel=0.05)


def test_speed_changes_with_the_next_step() -> None:
    engine = Engine(STEPS, ROOMY)
    engine.submit(10, 100, 0.0)
    engine.advance(0.5)
    before = engine.wake_at
    engine.set_speed(Speed(stretch=10.0), 0.5)
    assert engine.wake_at is not None
    assert before is not None
    assert 0.5 <= engine.wake_at < min(before, 0.52)
    (report,) = engine.advance(engine.wake_at)
    assert engine.wake_at - report.at > 5 * (before - 0.5)


def test_md1_waiting_time() -> None:
    """One seat and equal requests: M/D/1, whose mean wait is rho*S/(2*(1-rho))."""
    engine = Engine(STEPS, EngineLimits(1, 512, 1000))
    service = seconds_for(STEPS, Speed(), [Arrival(0.0, 10, 20)])
    rng, rho, count = random.Random(7), 0.7, 20_000
    arrivals = [Arrival(rng.expovariate(rho / service), 10, 20) for _ in range(count)]
    sequences, _ = replay(engine, arrivals)
    waits = [(s.scheduled_at or 0.0) - s.arrived_at for s in sequences]
    assert sum(waits) / count == pytest.approx(rho * service / (2 * (1 - rho)), rel=0.05)


@settings(max_examples=60, deadline=None)
@given(ARRIVALS, LIMITS)
def test_every_request_gets_its_tokens_and_no_limit_is_passed(arrivals: list[Arrival], limits: EngineLimits) -> None:
    engine = Engine(STEPS, limits, longest_stride=7)
    now, reports = 0.0, []
    for arrival in arrivals:
        now += arrival.after
        while engine.wake_at is not None and engine.wake_at <= now:
            reports += engine.advance(engine.wake_at)
            assert_within_limits(engine)
        engine.submit(arrival.prompt_tokens, arrival.output_tokens, now)
        assert_within_limits(engine)
    while engine.wake_at is not None:
        reports += engine.advance(engine.wake_at)
        assert_within_limits(engine)
    ended = [sequence for report in reports for sequence in report.ended]
    assert len(ended) == len(arrivals) == len(set(map(id, ended)))
    assert all(s.generated == s.output_tokens for s in ended)
    assert sum(report.output_tokens for report in reports) == sum(a.output_tokens for a in arrivals)
    assert sum(report.prompt_tokens for report in reports) >= sum(a.prompt_tokens for a in arrivals)
    assert sum(times for r in reports for _, times in r.gaps) == sum(a.output_tokens - 1 for a in arrivals)
    per_step = max(r.prompt_tokens + r.output_tokens for r in reports if r.prompt_tokens or r.steps == 1)
    assert per_step <= limits.max_num_batched_tokens + limits.max_num_seqs  # last chunks also give first tokens
    assert engine.is_idle
    assert engine.kv_usage_at(now) == 0


@settings(max_examples=40, deadline=None)
@given(ARRIVALS, LIMITS, st.data())
def test_aborts_leave_nothing_behind(arrivals: list[Arrival], limits: EngineLimits, data: st.DataObject) -> None:
    engine = Engine(STEPS, limits)
    now, sequences, ended = 0.0, [], []
    for arrival in arrivals:
        now += arrival.after
        ended += [sequence for report in engine.advance(now) for sequence in report.ended]
        sequences.append(engine.submit(arrival.prompt_tokens, arrival.output_tokens, now))
        if data.draw(st.booleans()):
            engine.abort(data.draw(st.sampled_from(sequences)), now)
    ended += [sequence for report in run_to_the_end(engine) for sequence in report.ended]
    assert all(sequence.finished_at is not None for sequence in sequences)
    assert all(sequence.aborted == (sequence.generated < sequence.output_tokens) for sequence in sequences)
    assert len(ended) == len(set(map(id, ended)))
    assert {id(s) for s in sequences if not s.aborted} <= set(map(id, ended))
    assert engine.is_idle
    assert engine.kv_usage_at(now) == 0


def assert_within_limits(engine: Engine) -> None:
    assert len(engine.running) <= engine.limits.max_num_seqs
    ends = engine.wake_at
    assert ends is None or 0 < engine.kv_usage_at(ends) <= 1


@settings(max_examples=60, deadline=None)
@given(ARRIVALS, LIMITS)
def test_strides_equal_single_steps(arrivals: list[Arrival], limits: EngineLimits) -> None:
    in_strides, _ = replay(Engine(STEPS, limits), arrivals)
    one_by_one, _ = replay(Engine(STEPS, limits, longest_stride=1), arrivals)
    for fast, slow in zip(in_strides, one_by_one, strict=True):
        assert fast.first_token_at == pytest.approx(slow.first_token_at, abs=1e-9)
        assert fast.finished_at == pytest.approx(slow.finished_at, abs=1e-9)
        assert fast.preemptions == slow.preemptions
