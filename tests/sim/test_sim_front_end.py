"""What a first token takes besides the engine, and a step that is scheduled before the one under way ends."""

from __future__ import annotations

import math

import pytest

from shoal.domain.profile import StepModel
from shoal.sim.engine import Engine, EngineLimits
from shoal.sim.front_end import FrontEnd

TEN_MS = StepModel(alpha_ms=10.0, beta_ms_per_token=0.0, gamma_ms_per_kv_token=0.0)
LIMITS = EngineLimits(max_num_seqs=8, max_num_batched_tokens=64, kv_blocks=1000)
FRONT = FrontEnd(fixed_ms=10.0, wait_ms=50.0)


def first_token(engine: Engine, at: float) -> float:
    """Seconds until the first token of a request that comes at an instant."""
    engine.advance(at)
    request = engine.submit(8, 4, at)
    while request.first_token_at is None:
        assert engine.wake_at is not None
        engine.advance(engine.wake_at)
    return request.first_token_at - at


@pytest.mark.parametrize(("ahead", "seconds"), [(False, 0.016), (True, 0.026)])
def test_a_newcomer_misses_the_step_that_is_already_scheduled(ahead: bool, seconds: float) -> None:
    engine = Engine(TEN_MS, LIMITS, schedules_ahead=ahead)
    engine.submit(8, 100, 0.0)
    assert first_token(engine, 0.104) == pytest.approx(seconds)  # 6 ms are left of the step, its own takes 10


@pytest.mark.parametrize("ahead", [False, True])
def test_an_idle_engine_begins_at_once(ahead: bool) -> None:
    engine = Engine(TEN_MS, LIMITS, schedules_ahead=ahead)
    assert first_token(engine, 1.0) == pytest.approx(0.010)
    while engine.wake_at is not None:
        engine.advance(engine.wake_at)
    assert first_token(engine, 5.0) == pytest.approx(0.010)


def test_scheduling_ahead_loses_no_request_and_no_token() -> None:
    engine = Engine(TEN_MS, EngineLimits(4, 64, kv_blocks=8), schedules_ahead=True)
    requests, tokens = [], 0
    for number in range(200):
        now = 0.003 * number
        tokens += sum(report.output_tokens for report in engine.advance(now))
        requests.append(engine.submit(20 + number % 9, 1 + number % 13, now))
    while engine.wake_at is not None:
        tokens += sum(report.output_tokens for report in engine.advance(engine.wake_at))
    assert engine.is_idle
    assert all(request.generated == request.output_tokens for request in requests)
    assert tokens == sum(request.output_tokens for request in requests)


def test_worked_example() -> None:
    mean_share = 1 - math.exp(-1)  # an exponential has its mean there
    assert FRONT.delay_ms(100, 0.010, mean_share) == pytest.approx(60.0)
    assert FRONT.delay_ms(100, 0.010, 0.95) == pytest.approx(10 + 50 * math.log(20))


@pytest.mark.parametrize(("running", "step"), [(0, 0.01), (100, 0.0)])
def test_an_idle_server_has_only_its_fixed_part(running: int, step: float) -> None:
    assert FRONT.delay_ms(running, step, 0.99) == 10.0


def test_more_sequences_or_shorter_steps_wait_longer() -> None:
    assert FRONT.delay_ms(100, 0.01, 0.5) < FRONT.delay_ms(200, 0.01, 0.5) < FRONT.delay_ms(200, 0.005, 0.5)
