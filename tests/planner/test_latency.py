"""The formulas of latency.py: their worked examples, and queueing theory where that is exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
from planner_world import MIX

from shoal.domain.profile import LengthMix, StepModel
from shoal.planner import latency
from shoal.planner.latency import EngineModel, mean_context

RATES = np.array([0.5, 2.0, 5.0, 8.0, 9.5])


def test_worked_example_of_the_length_biased_context():
    assert mean_context(MIX) == pytest.approx(592)
    equal = LengthMix(512, 128, 512, 128)
    assert mean_context(equal) == pytest.approx(512 + 64)
    exponential = LengthMix(512, 128, 1536, 384)  # E[o^2]/(2*E[o]) of an exponential is its mean
    assert mean_context(exponential) == pytest.approx(512 + 128)


def test_worked_example_of_the_pieces_of_a_prompt():
    budget = np.array([2000.0])
    assert latency._pieces(LengthMix(2048, 128, 2048, 128), budget) == pytest.approx(2)
    assert latency._pieces(LengthMix(2048, 128, 3 * 2048, 384), budget) == pytest.approx(1.604, abs=1e-3)
    drawn = np.random.default_rng(1).exponential(2048, 200_000)
    assert np.ceil(drawn / 2000).mean() == pytest.approx(1.604, rel=0.01)


def test_one_place_is_the_queue_m_m_1():
    chances, queue, ratio = latency._state_chances(RATES, np.array([10.0]))
    rho = RATES / 10
    assert chances[:, 0] == pytest.approx(1 - rho)
    assert chances[:, 1] + queue == pytest.approx(rho)
    assert ratio == pytest.approx(rho)
    # mean wait rho/(mu - lambda); P(wait > t) = rho*exp(-(mu - lambda)*t)
    assert queue / (1 - ratio) / RATES == pytest.approx(rho / (10 - RATES))


@pytest.mark.parametrize("places", [2, 5, 40])
def test_equal_places_are_the_queue_m_m_c(places):
    rates = RATES * places / 10 * 0.99
    chances, queue, ratio = latency._state_chances(rates, np.arange(1.0, places + 1))
    for rate, chance, waiting in zip(rates, chances[:, -1] + queue, queue / (1 - ratio), strict=True):
        terms = [rate**k / math.factorial(k) for k in range(places)]
        last = rate**places / math.factorial(places) * places / (places - rate)
        erlang_c = last / (sum(terms) + last)
        assert chance == pytest.approx(erlang_c, rel=1e-6)
        assert waiting / rate == pytest.approx(erlang_c / (places - rate), rel=1e-6)


def test_processor_sharing_has_a_geometric_number_of_requests():
    chances, _, _ = latency._state_chances(RATES, np.full(400, 10.0))
    mean = latency._mean_running(RATES, np.full(400, 10.0))
    rho = RATES / 10
    assert chances[:, 3] == pytest.approx((1 - rho) * rho**3, rel=1e-6)
    assert mean == pytest.approx(rho / (1 - rho), rel=1e-6)


@pytest.mark.parametrize(("share", "rho", "seconds"), [(0.95, 0.5, 0.0625 * math.log(10)), (0.5, 0.4, 0.0)])
def test_worked_example_of_the_wait_for_prompts_before(share, rho, seconds):
    # full steps of 50 ms for a mean prompt of 1000 tokens, cv 0.5: alpha + beta*1000 = 50
    engine = EngineModel(StepModel(10.0, 0.04, 0.0), 256, 1001, 1e9)
    lengths = LengthMix(1000, 100, 2000, 100)
    wait = latency._prompts_before(engine, lengths, np.array([1.0]), np.array([rho / 0.05004]), np.array([1.0]), share)
    mean = 0.05004 * 1.25 / 2 / (1 - rho)
    assert wait.mean == pytest.approx(1000 * rho * mean, rel=1e-3)
    assert wait.at == pytest.approx(1000 * max(0.0, mean * math.log(rho / (1 - share))), rel=1e-3)
    assert wait.at == pytest.approx(1000 * seconds, rel=0.01)


def test_the_wait_for_prompts_is_exact_for_exponential_work():
    # M/M/1: P(wait > t) = rho*exp(-t*(1 - rho)/s), mean rho*s/(1 - rho)
    engine = EngineModel(StepModel(0.0, 0.05, 0.0), 256, 1001, 1e9)
    lengths = LengthMix(1000, 100, 3000, 300)
    rates = np.array([4.0, 10.0, 16.0])
    wait = latency._prompts_before(engine, lengths, np.ones(3), rates, np.ones(3), 0.95)
    service = 0.05 * 1001 / 1000
    rho = rates * service
    assert wait.mean / 1000 == pytest.approx(rho * service / (1 - rho), rel=1e-3)
    assert rho * np.exp(-wait.at / 1000 * (1 - rho) / service) == pytest.approx(0.05, rel=1e-2)


def test_worked_example_of_the_sum_of_waits():
    waits = [latency._Wait(np.array([mean]), np.array([at])) for mean, at in ((10.0, 20.0), (31.0, 144.0))]
    assert latency._add_up(waits) == pytest.approx(154, abs=0.6)
    rng = np.random.default_rng(1)  # two exponentials: the exact p95 is close by
    drawn = rng.exponential(10, 400_000) + rng.exponential(31, 400_000)
    waits = [latency._Wait(np.array([m]), np.array([m * math.log(20)])) for m in (10.0, 31.0)]
    assert latency._add_up(waits) == pytest.approx(np.quantile(drawn, 0.95), rel=0.05)


def test_worked_example_of_the_kv_limit():
    # without a cost per token every step takes alpha: 25 ms
    engine = EngineModel(StepModel(25.0, 0.0, 0.0), 256, 8192, 20_000.0)
    curve = latency.modelled_curve(engine, MIX, 95)
    assert int(20_000 / mean_context(MIX)) == 33
    assert (curve.limit, curve.saturation) == ("KV", pytest.approx(33 / (128 * 0.025)))
    # the other form: E[o*(i + o/2)] with independent lengths, o of standard deviation 64
    product = 128 * 512 + (128**2 + 64**2) / 2
    assert curve.saturation == pytest.approx(20_000 / (0.025 * product), rel=0.03)  # whole sequences
