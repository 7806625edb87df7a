"""Capacity of one engine: knees, margins, other mixes, clocks, memory."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import ENGINE, MIX, decide_one, make_point, make_pool, make_profile, make_row, make_service

from shoal.domain.profile import LengthMix, Quantiles, StepModel
from shoal.domain.reasons import ProfileState, Rejection
from shoal.domain.service import Objective, Workload
from shoal.planner.capacity import Basis, clock_ratio, quantile, rate_row
from shoal.planner.curves import KNEE, make_line
from shoal.planner.latency import EngineModel, modelled_curve

STEPS = StepModel(alpha_ms=8.0, beta_ms_per_token=0.02, gamma_ms_per_kv_token=2e-5)
OPEN = Objective(95)
WOBBLE = 1.05  # modelled curves are interpolated on a grid of rates that moves with saturation
LOOSE = Objective(95, ttft_ms=5000, itl_ms=500)


def basis(row, objective=OPEN, state=ProfileState.MEASURED, lengths=MIX, kv=None, **more):
    return Basis(row, state, "ns/p", None, lengths, objective, kv or row.kv_cache_tokens, **more)


def rate(row, **more):
    rated = rate_row(basis(row, **more))
    return rated.capacity.rate if rated else None


@pytest.mark.parametrize(
    ("state", "row", "margin"),
    [
        (ProfileState.MEASURED, make_row(10), 0.9),
        (ProfileState.SIMULATED, make_row(10), 0.9),
        (ProfileState.LEARNED, make_row(10), 0.8),
        (ProfileState.STALE, make_row(10), 0.8),
        (ProfileState.ESTIMATED, make_row(10), 0.5),
        (ProfileState.MEASURED, make_row(0, steps=STEPS), 0.8),
        (ProfileState.ESTIMATED, make_row(0, steps=STEPS), 0.5),
    ],
)
def test_one_margin_by_how_the_knee_is_known(state, row, margin):
    rated = rate_row(basis(row, state=state))
    assert rated.capacity.margin == margin
    assert rated.capacity.rate == pytest.approx(margin * KNEE * rated.curve.saturation)


def test_the_knee_is_093_of_overloaded_throughput_where_only_that_is_known():
    assert rate(make_row(0.93 * 20)) == pytest.approx(0.9 * 0.93 * 20)


def test_a_tight_ttft_without_any_point_below_saturation_counts_as_an_estimate():
    assert rate(make_row(10), objective=Objective(95, ttft_ms=100)) == pytest.approx(5.0)
    assert rate(make_row(10), objective=Objective(95, ttft_ms=250)) == pytest.approx(9.0)


POINTS = (make_point(4, 40, 12), make_point(12, 100, 20), make_point(28, 50_000, 60))


@pytest.mark.parametrize(
    ("objective", "knee", "limit"),
    [
        (Objective(95, itl_ms=16), 8.0, "ITL"),  # half-way between the points at 4 and 12
        (Objective(95, itl_ms=40), 16.0, "ITL"),  # half-way to saturation at 20, where the overloaded point counts
        (Objective(95, ttft_ms=70), 8.0, "TTFT"),
        # above the last steady point TTFT grows as 1/(1 - rate/saturation): 100 * 0.4/(1 - r/20) = 200 at r = 16
        (Objective(95, ttft_ms=200), 16.0, "TTFT"),
        (Objective(95, ttft_ms=5000), 18.6, "measured knee"),
        (Objective(95, ttft_ms=70, itl_ms=14), 6.0, "ITL"),
    ],
)
def test_measured_quantiles_are_interpolated(objective, knee, limit):
    rated = rate_row(basis(make_row(18.6, points=POINTS), objective=objective))
    assert rated.capacity.rate == pytest.approx(0.9 * knee)
    assert rated.capacity.limit == limit


def test_without_saturation_the_highest_measured_rate_that_meets_the_objective_is_the_knee():
    row = make_row(0, points=POINTS[:2])
    assert rate(row, objective=Objective(95, itl_ms=40)) == pytest.approx(0.9 * 12)


def test_an_objective_missed_at_the_lowest_rate_is_a_floor():
    rated = rate_row(basis(make_row(18.6, points=POINTS), objective=Objective(95, itl_ms=11)))
    assert rated.floor is Rejection.ITL_FLOOR
    assert rated.capacity.rate == 0


@pytest.mark.parametrize(
    ("percentile", "value"), [(50, 10), (75, 30), (90, 30), (92, 40), (95, 40), (99, 40 * 0 + 20 * 1.6)]
)
def test_a_percentile_between_measured_ones_takes_the_next_higher(percentile, value):
    values = Quantiles(mean=20, p50=10, p90=30, p95=40)
    assert quantile(values, percentile, ((50, 1.0), (90, 1.2), (95, 1.3), (99, 1.6))) == pytest.approx(value)


class TestOtherMixes:
    row = make_row(18.6, points=POINTS, steps=STEPS)

    def at(self, factor_in, factor_out, objective=LOOSE):
        lengths = LengthMix(512 * factor_in, 128 * factor_out, 1024 * factor_in, 256 * factor_out)
        return rate(self.row, lengths=lengths, objective=objective)

    def test_the_margin_falls_to_that_of_a_model_with_distance(self):
        near, far = (
            rate_row(basis(self.row, lengths=LengthMix(512 * f, 128, 1024 * f, 256))).capacity.margin
            for f in (1.01, 1.5)
        )
        assert (near, far) == (0.9, pytest.approx(0.8))

    def test_longer_requests_carry_less(self):
        assert self.at(1, 2) < 0.7 * self.at(1, 1)
        assert self.at(3, 1) < self.at(1, 1)
        assert self.at(1, 0.5) > 1.02 * self.at(1, 1)

    def test_at_the_rows_own_mix_the_measurement_counts_and_not_the_model(self):
        assert self.at(1, 1) == pytest.approx(rate(make_row(18.6, points=POINTS), objective=LOOSE))

    def test_without_step_times_more_tokens_never_carry_more(self):
        bare = make_row(18.6, points=POINTS)
        long, short = LengthMix(1024, 256, 2048, 512), LengthMix(100, 20, 200, 40)
        assert rate(bare, lengths=long) == pytest.approx(0.8 / 0.9 * rate(bare) / 4)
        assert rate(bare, lengths=short) == pytest.approx(0.8 / 0.9 * rate(bare))


class TestClocks:
    gpu_bound = make_row(0, steps=StepModel(2.0, 0.08, 1e-6))
    cpu_bound = make_row(0, steps=StepModel(2.0, 0.001, 1e-7, 12.0, 12.0, api_tokens_per_second=2000))

    @staticmethod
    def loss(row, ratio):
        return rate_row(basis(row), ratio).capacity.rate / rate_row(basis(row), 1.0).capacity.rate

    def test_a_gpu_bound_engine_loses_about_the_clock_ratio(self):
        assert self.loss(self.gpu_bound, 0.7) == pytest.approx(0.73, abs=0.05)

    def test_an_engine_bound_by_its_server_loses_nothing(self):
        assert self.loss(self.cpu_bound, 0.7) == pytest.approx(1.0)

    def test_decoding_that_waits_for_memory_loses_little(self):
        # 0-7 % of decode throughput at 81 % of the clock was measured: gamma and alpha do not depend on it
        decode = replace(make_row(0, steps=StepModel(6.0, 0.005, 2e-5)), lengths=LengthMix(64, 512, 128, 1024))
        assert rate_row(basis(decode, lengths=decode.lengths), 0.8).capacity.rate > 0.93 * rate(
            decode, lengths=decode.lengths
        )

    def test_a_row_without_step_times_loses_the_ratio(self):
        assert self.loss(make_row(10), 0.7) == pytest.approx(0.7)

    @pytest.mark.parametrize(
        ("clock", "profile", "ratio"),
        [
            (1400, 2000, 0.7),
            (None, 2000, 1.0),
            (1400, None, 1.0),
            (2100, 2000, 1.0),
            (1990, 2000, 1.0),
            (1, 2000, 0.05),
        ],
    )
    def test_the_ratio_is_against_the_profiles_clock_and_unknown_is_not_slow(self, clock, profile, ratio):
        assert clock_ratio(clock, profile) == pytest.approx(ratio)


class TestLimits:
    def curve(self, lengths=MIX, kv=1e9, **more):
        fields = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "kv_cache_tokens": kv}
        return modelled_curve(EngineModel(STEPS, **{**fields, **more}), lengths, 95)

    def test_the_batch_limit_is_the_fixed_point_of_its_step_time(self):
        # prompts of a step are Poisson(N/m): lambda = B/(m*E[T]), E[T] = alpha + (beta + gamma*ctx)*B + beta*n*B/m
        context = 512 + 128 * (1 + 0.25) / 2
        step = 8 + (0.02 + 2e-5 * context) * 128 + 0.02 * 512
        assert self.curve().saturation == pytest.approx(1000 * 128 / (128 * step), rel=0.02)
        assert self.curve().limit == "batch"

    def test_scarce_kv_cache_limits_the_running_sequences(self):
        scarce = self.curve(kv=20_000)
        assert scarce.limit == "KV"
        assert scarce.saturation < 0.5 * self.curve().saturation

    def test_one_api_server_limits_tokens(self):
        engine = EngineModel(replace(STEPS, api_tokens_per_second=1000), 128, 2048, 1e9)
        assert modelled_curve(engine, MIX, 95).limit == "API server"
        assert modelled_curve(engine, MIX, 95).saturation == pytest.approx(1000 / 128)
        twice = modelled_curve(replace(engine, api_servers=2), MIX, 95)
        assert twice.saturation == pytest.approx(2000 / 128)

    def test_no_curve_when_not_one_request_fits(self):
        assert self.curve(kv=100) is None

    def test_a_larger_chunk_brings_first_tokens_sooner_and_never_shorter_gaps(self):
        long = LengthMix(2048, 128, 4096, 256)
        ends = {}
        for chunk in (512, 8192):
            curve = modelled_curve(EngineModel(STEPS, 128, chunk, 1e9), long, 99)
            ends[chunk] = curve.latencies(5.0)
        assert ends[8192][1] > ends[512][1]
        assert ends[8192][0] < ends[512][0]

    def test_shorter_prompts_are_never_harder(self):
        lines = [
            modelled_curve(EngineModel(STEPS, 128, 2048, 1e9), LengthMix(n, 100, 2 * n, 200), 95)
            for n in (500, 1500, 3000)
        ]
        saturations = [curve.saturation for curve in lines]
        assert saturations == sorted(saturations, reverse=True)
        gaps = [curve.latencies(2.0)[1] for curve in lines]
        assert gaps == sorted(gaps)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.1, 1e5)), min_size=1, max_size=8), st.floats(0.1, 1e5))
def test_a_line_never_falls_and_its_highest_rate_is_within_the_bound(points, bound):
    line = make_line(points)
    saturation = max(line.rates) * 1.2
    assert list(line.values) == sorted(line.values)
    highest = line.highest_rate(bound, saturation)
    if 0 < highest < saturation * 0.98:
        assert line.at(highest, saturation) <= bound * (1 + 1e-6)


@settings(derandomize=True, deadline=None)
@given(
    alpha=st.floats(1, 50),
    beta=st.floats(0.0005, 0.2),
    gamma=st.floats(1e-7, 1e-4),
    floor=st.floats(0, 30),
    inputs=st.floats(1, 4000),
    outputs=st.floats(1, 2000),
    kv=st.floats(5000, 1e6),
    ratio=st.floats(0.3, 1.0),
    bounds=st.tuples(st.floats(5, 300), st.floats(5, 300)),
)
def test_physics_of_the_step_model(alpha, beta, gamma, floor, inputs, outputs, kv, ratio, bounds):  # noqa: PLR0917
    """A tighter objective, a slower clock or less KV cache never carries more."""
    lengths = LengthMix(inputs, outputs, 2 * inputs, 2 * outputs)
    row = make_row(0, steps=StepModel(alpha, beta, gamma, floor, 1.5 * floor, 15000), mix=lengths, kv=kv)
    tight, loose = (Objective(95, ttft_ms=10 * b, itl_ms=b) for b in sorted(bounds))

    def of(objective, clock=1.0, cache=kv):
        rated = rate_row(basis(row, objective=objective, lengths=lengths, kv=cache), clock)
        return rated.capacity.rate if rated else 0.0

    base = of(loose)
    assert math.isfinite(base)
    assert of(tight) <= base
    assert of(loose, clock=ratio) <= base * WOBBLE
    assert of(loose, cache=kv / 2) <= base * WOBBLE or base == 0


@settings(derandomize=True, deadline=None)
@given(
    ratios=st.tuples(st.floats(0.3, 1.0), st.floats(0.3, 1.0)),
    caches=st.tuples(st.floats(2000, 4e5), st.floats(2000, 4e5)),
    itls=st.tuples(st.floats(8, 200), st.floats(8, 200)),
    steps=st.sampled_from([None, STEPS, StepModel(2.0, 0.08, 1e-6), StepModel(4, 0.004, 1e-6, 12, 20, 3000)]),
    factor=st.floats(0.3, 3.0),
)
def test_physics_of_measured_rows_at_other_mixes_clocks_and_memories(ratios, caches, itls, steps, factor):
    row = make_row(18.6, points=POINTS, steps=steps)
    lengths = LengthMix(512 * factor, 128 * factor, 1024 * factor, 256 * factor)

    def of(itl, clock, cache):
        rated = rate_row(basis(row, objective=Objective(95, 1000, itl), lengths=lengths, kv=cache), clock)
        return rated.capacity.rate if rated else 0.0

    slow, fast = sorted(ratios)
    little, much = sorted(caches)
    tight, loose = sorted(itls)
    base = of(loose, fast, much)
    assert of(tight, fast, much) <= base
    assert of(loose, slow, much) <= base * WOBBLE or base == 0
    assert of(loose, fast, little) <= base * WOBBLE or base == 0


class TestAlternatives:
    """Chunks and API servers that nobody measured: offered only where the measured ones bind, as the model carries."""

    LONG = LengthMix(2048, 128, 4096, 256)

    def test_the_chunk_trades_ttft_against_itl(self):
        # real runs: at the same mean ITL (12.5 ms), prompts of 2,048 tokens and chunks of 512, 2,048 and 8,192 had a
        # p99 ITL of 17, 44 and 124 ms and a p99 TTFT of 1,775, 790 and 606 ms
        steps = StepModel(7.0, 0.03, 2e-5, 9.0, 12.0)
        found = []
        for chunk in (512, 2048, 8192):
            engine = EngineModel(steps, 256, chunk, 1e9)
            mean = modelled_curve(engine, self.LONG, 0)
            rate = mean.itl.highest_rate(12.5, mean.saturation)
            found.append(modelled_curve(engine, self.LONG, 99).latencies(min(rate, 0.92 * mean.saturation)))
        ttfts, itls = zip(*found, strict=True)
        assert itls == tuple(sorted(itls))
        assert ttfts == tuple(sorted(ttfts, reverse=True))

    @staticmethod
    def options(row, objective, *, lengths=MIX, most=1):
        service = make_service(
            objective=objective,
            workload=Workload(1.0, lengths),
            engine=replace(ENGINE, max_api_servers=most),
        )
        decision = decide_one(service, [make_pool()], [make_profile([row])])
        seen = (
            *(p.placement for p in decision.explanation.frontier),
            *(r.placement for r in decision.explanation.rejected),
        )
        chosen = decision.plan.variants[0].placement.configuration
        return chosen, {(p.configuration.max_num_batched_tokens, p.configuration.api_servers) for p in seen}

    def test_other_chunks_come_in_where_a_latency_binds(self):
        row = replace(make_row(0, steps=StepModel(7.0, 0.03, 2e-5, 9.0, 12.0), mix=self.LONG, chunk=8192))
        chosen, seen = self.options(row, Objective(95, 20_000, 45), lengths=self.LONG)
        assert {chunk for chunk, _ in seen} >= {512, 1024, 2048, 4096, 8192}
        assert chosen.max_num_batched_tokens < 8192  # smaller pieces keep the gaps short

    def test_and_not_where_throughput_does(self):
        row = make_row(0, steps=StepModel(7.0, 0.03, 2e-5), mix=self.LONG)
        assert self.options(row, Objective(95, 600_000, 10_000), lengths=self.LONG)[1] == {(2048, 1)}

    def test_more_api_servers_come_in_where_one_binds_and_the_class_allows_them(self):
        row = make_row(0, steps=StepModel(2.0, 0.001, 1e-7, api_tokens_per_second=2000))
        assert self.options(row, LOOSE, most=1)[1] == {(2048, 1)}
        chosen, seen = self.options(row, LOOSE, most=4)
        assert seen == {(2048, 1), (2048, 2), (2048, 4)}
        assert chosen.api_servers == 4
        gpu_bound = make_row(0, steps=StepModel(20.0, 0.1, 1e-5, api_tokens_per_second=20_000))
        assert self.options(gpu_bound, LOOSE, most=4)[1] == {(2048, 1)}

    def test_capacity_is_at_most_what_the_servers_stream(self):
        row = make_row(0, steps=StepModel(2.0, 0.001, 1e-7, api_tokens_per_second=2000))
        one, two = (rate_row(basis(row, api_servers=n)).capacity for n in (1, 2))
        assert one.overload_rate == pytest.approx(2000 / 128)
        assert two.overload_rate == pytest.approx(4000 / 128)

    def test_a_measured_row_is_carried_with_the_margin_of_a_model(self):
        row = make_row(18.6, points=POINTS, steps=replace(STEPS, api_tokens_per_second=2000))
        carried = rate_row(basis(row, api_servers=2)).capacity
        assert carried.margin == pytest.approx(0.8)
        assert any("carried" in note for note in carried.notes)
        measured = rate_row(basis(replace(row, api_servers=2), api_servers=2)).capacity
        assert (measured.margin, measured.notes) == (0.9, ())
