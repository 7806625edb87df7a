"""Estimated becomes Learned: what one window says, what many say, and what a plan may do with it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import (
    ENGINE,
    MIX,
    NOW,
    QWEN,
    decide_one,
    make_load,
    make_pool,
    make_profile,
    make_row,
    make_service,
    make_variant,
    place,
    snapshot,
)

from shoal.domain.codec import decode, encode
from shoal.domain.live import Evidence, Learned, Lesson, LiveSample, Residual, Tally, Target
from shoal.domain.profile import Source, StepModel
from shoal.domain.reasons import ProfileState
from shoal.domain.service import ManualPlan, Memory, Mode, Objective, PlacedReplicas
from shoal.domain.snapshot import Snapshot
from shoal.planner.assess import assess, make_world
from shoal.planner.capacity import Basis, mean_curve, rate_row
from shoal.planner.credit import (
    MARGIN_ESTIMATED,
    MOST_CREDIT,
    PRIOR,
    credited_rate,
    is_learned,
    margin,
    planned_rate,
    uncertainty,
)
from shoal.planner.decide import decide
from shoal.planner.learning import DRIFT_SECONDS, learn, scale_row, take_in
from shoal.planner.residual import compare

STEPS = StepModel(8.0, 0.03, 2e-5)
ROW = make_row(0, steps=STEPS, kv=800_000)
ESTIMATE = make_profile([ROW], source=Source.ESTIMATED)
MEASURED = make_profile([ROW], source=Source.MEASURED)
TP1 = place()
SLO = Objective(95, 1000, 40)
TARGET = Target(95, 1000, 40)
COUNTS = st.floats(0, 1e7)
RATES = st.floats(0.01, 1e4)


def make_sample(rate, itl, *, ttft=60.0, requests=None, age=0.0, seconds=60.0, **more):
    told = rate * seconds * 2 if requests is None else requests
    lengths = {"input_mean": MIX.input_mean, "output_mean": MIX.output_mean}
    return LiveSample(age, seconds, 2, rate, told, rate, ttft, itl, **{**lengths, **more})


def means(row=ROW):
    return mean_curve(Basis(row, ProfileState.ESTIMATED, None, None, MIX, SLO, row.kv_cache_tokens))


def observed_itl(rate, factor=1.0):
    """Mean ITL of an engine that takes `factor` times as long for everything."""
    return means(scale_row(ROW, factor)).latencies(rate)[1]


def service_at(rate, *, replicas=2, itl=None, profile_learned=(), **more):
    """A service whose engines share `rate` and show this mean ITL."""
    sample = None if itl is None else make_sample(rate / replicas, itl)
    fields = {
        "objective": SLO,
        "running": (make_variant(TP1, replicas, observed=sample),),
        "load": make_load(rate),
        "memory": Memory(target=(PlacedReplicas(TP1, replicas),), last_move_at=NOW - 3600, traffic_seen=True),
        "learned": tuple(profile_learned),
    }
    return make_service(**{**fields, **more})


def learned_of(evidence, row=ROW):
    return Learned(QWEN, ENGINE.version, TARGET, Lesson(TP1.configuration, evidence, row))


def option_of(service, profile):
    world = make_world(snapshot([service], [make_pool()], [profile]))
    return assess(service, world).fleets[TP1].option


class TestCredit:
    """The margin and the rate that evidence earns."""

    @given(knee=RATES, requests=COUNTS, highest=RATES, gain=st.floats(0.1, 10))
    def test_bounds(self, knee, requests, highest, gain):
        evidence = Evidence(requests, highest)
        credited = credited_rate(knee, evidence, gain)
        assert credited <= MOST_CREDIT * highest * gain
        assert credited <= 0.8 * knee
        planned = planned_rate(knee, evidence, gain)
        assert planned >= MARGIN_ESTIMATED * knee
        assert planned <= max(MARGIN_ESTIMATED * knee, MOST_CREDIT * highest * gain)

    @given(knee=RATES, requests=st.tuples(COUNTS, COUNTS), highest=st.tuples(RATES, RATES))
    def test_more_evidence_never_earns_less(self, knee, requests, highest):
        less, more = (Evidence(r, h) for r, h in zip(sorted(requests), sorted(highest), strict=True))
        assert planned_rate(knee, less) <= planned_rate(knee, more)
        assert credited_rate(knee, less) <= credited_rate(knee, more)
        assert is_learned(less) <= is_learned(more)

    def test_the_worked_example(self):
        assert uncertainty(0) == pytest.approx(PRIOR)
        assert margin(0) == pytest.approx(0.5)
        assert [round(margin(n), 2) for n in (140, 1000, 10_000)] == [0.72, 0.77, 0.79]

    def test_without_a_rate_within_the_objective_nothing_is_learned(self):
        assert not is_learned(Evidence(1e6, 0.0))
        assert not is_learned(Evidence(100, 5.0))
        assert is_learned(Evidence(200, 5.0))

    def test_the_rating_of_a_learned_row(self):
        base = Basis(ROW, ProfileState.ESTIMATED, None, None, MIX, SLO, ROW.kv_cache_tokens)
        knee = rate_row(base).capacity.rate / MARGIN_ESTIMATED
        seen = 0.55 * knee
        capacity = rate_row(replace(base, state=ProfileState.LEARNED, evidence=Evidence(1e5, seen))).capacity
        assert capacity.rate == capacity.credited == pytest.approx(1.25 * seen)
        assert capacity.margin == pytest.approx(1.25 * 0.55)
        little = rate_row(replace(base, evidence=Evidence(1e5, 0.1 * knee))).capacity
        assert little.rate == pytest.approx(0.5 * knee)
        assert little.credited == pytest.approx(0.125 * knee)

    def test_a_longer_ttft_than_predicted_counts_and_a_shorter_one_does_not(self):
        base = Basis(ROW, ProfileState.LEARNED, None, None, MIX, Objective(95, 150), ROW.kv_cache_tokens)
        usual, slow, fast = (
            rate_row(replace(base, evidence=Evidence(1e5, 1e3, ratio))).capacity.rate for ratio in (1.0, 1.6, 0.5)
        )
        assert slow < usual == fast


class TestOneWindow:
    """Predicted beside observed."""

    @given(factor=st.floats(0.4, 2.5), share=st.floats(0.05, 0.85))
    @settings(max_examples=40, deadline=None)
    def test_the_time_ratio_is_that_of_the_engine(self, factor, share):
        rate = share * means().saturation / max(1.0, factor)
        option = option_of(service_at(2 * rate, itl=20.0), ESTIMATE)
        residual = compare(option, make_sample(rate, observed_itl(rate, factor)), SLO)
        assert residual.time_ratio == pytest.approx(factor, rel=0.03)

    @pytest.mark.parametrize(
        "sample",
        [
            make_sample(0.0, None, ttft=None),
            make_sample(4.0, None),
            make_sample(4.0, 20.0, requests=4.0),
            make_sample(4.0, 20.0, output_mean=500.0),
        ],
        ids=["no requests", "no ITL told", "too few", "other lengths"],
    )
    def test_what_is_not_told_is_unknown(self, sample):
        residual = compare(option_of(service_at(8.0), ESTIMATE), sample, SLO)
        assert residual.time_ratio is None
        assert residual.within is not True or sample.itl_mean_ms is not None

    def test_an_objective_without_its_latency_is_neither_met_nor_missed(self):
        option = option_of(service_at(8.0), ESTIMATE)
        assert compare(option, make_sample(4.0, 10.0, ttft=None), SLO).within is None
        assert compare(option, make_sample(4.0, 10.0), SLO).within is True
        assert compare(option, make_sample(4.0, 39.9), SLO).within is False

    def test_a_variant_that_tells_nothing_has_no_residual(self):
        decision = decide_one(service_at(8.0), [make_pool()], [ESTIMATE])
        assert decision.explanation.residuals == ()

    def test_a_hot_gpu_says_nothing_of_the_profile(self):
        cold = replace(MEASURED, clock_mhz=1980.0)
        variant = make_variant(TP1, 2, observed=make_sample(4.0, 30.0))
        hot = replace(variant, replicas=tuple(replace(r, clock_mhz=1200.0) for r in variant.replicas))
        for running, count in ((variant, 1), (hot, 0)):
            decision = decide_one(service_at(8.0, running=(running,)), [make_pool()], [cold])
            assert len(decision.explanation.residuals) == count


def play_windows(ratio, minutes, *, profile=ESTIMATE, rate=4.0, learned=(), start=0):
    """Tell a service once a minute what an engine `ratio` times as slow shows; what it learns."""
    states = []
    for minute in range(minutes):
        service = service_at(2 * rate, itl=observed_itl(rate, ratio), profile_learned=learned)
        now = NOW + 60.0 * (start + minute)
        decision = decide_one(service, [make_pool()], [profile], now=now)
        states.append(decision.explanation.profile)
        learned = learn(service, decision, now)
    return learned, states


class TestManyWindows:
    """What accumulates."""

    @pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0, 1.5, 2.0])
    def test_the_step_times_become_the_engines(self, ratio):
        (learned,), states = play_windows(ratio, 12)
        assert learned.lesson.row.steps.alpha_ms / STEPS.alpha_ms == pytest.approx(ratio, rel=0.08)
        assert states[0] is ProfileState.ESTIMATED
        assert states[-1] is ProfileState.LEARNED
        assert learned.tally.requests == pytest.approx(12 * 480)

    def test_a_window_counts_once(self):
        residual = Residual(TP1, make_sample(4.0, 20.0), ROW, True, 4.0, time_ratio=1.5, within=True)
        new = Learned(QWEN, ENGINE.version, TARGET, Lesson(TP1.configuration, Evidence(0, 0)))
        once = take_in(new, residual, NOW)
        assert take_in(once, residual, NOW + 5) is once
        assert take_in(once, residual, NOW + 60).tally.requests == 2 * once.tally.requests

    def test_small_changes_are_not_told(self):
        """A capacity that followed every window would make replicas go back and forth."""
        (learned,), _ = play_windows(1.0, 30)
        lessons = set()
        for minute in range(30, 60):
            residual = Residual(
                TP1,
                make_sample(4.0, 20.0),
                learned.lesson.row,
                True,
                4.0,
                time_ratio=1 + 0.03 * (-1) ** minute,
                within=True,
            )
            learned = take_in(learned, residual, NOW + 60.0 * minute)
            lessons.add(learned.lesson)
        assert len(lessons) <= 2

    def test_another_model_or_engine_version_is_learned_anew(self):
        learned, _ = play_windows(2.0, 5)
        service = service_at(8.0, itl=20.0, profile_learned=learned)
        for changed in (
            replace(service, model="acme/other"),
            replace(service, engine=replace(ENGINE, version="0.31.0")),
        ):
            profile = replace(ESTIMATE, model=changed.model, engine_version=changed.engine.version)
            decision = decide_one(changed, [make_pool()], [profile])
            assert decision.explanation.profile is ProfileState.ESTIMATED

    def test_under_another_slo_no_rate_was_seen_within_it(self):
        """What is known of the speed stays; what was fast enough is another question."""
        learned, states = play_windows(1.0, 5)
        assert states[-1] is ProfileState.LEARNED
        tighter = service_at(8.0, itl=observed_itl(4.0), profile_learned=learned, objective=Objective(95, 1000, 20))
        decision = decide_one(tighter, [make_pool()], [ESTIMATE], now=NOW + 300)
        assert decision.explanation.profile is ProfileState.ESTIMATED
        (again,) = learn(tighter, decision, NOW + 300)
        assert again.target == Target(95, 1000, 20)
        assert again.lesson.row == learned[0].lesson.row
        assert again.tally.requests > learned[0].tally.requests

    def test_by_hand_the_owners_objective_still_judges(self):
        """In mode Manual nothing bounds the plan; a rate beyond the SLO is not credited for that."""
        manual = {"mode": Mode.MANUAL, "manual": ManualPlan(2)}
        for itl, within in ((20.0, True), (60.0, False)):
            decision = decide_one(service_at(8.0, itl=itl, **manual), [make_pool()], [ESTIMATE])
            (residual,) = decision.explanation.residuals
            assert residual.within is within

    def test_a_snapshot_with_lessons_can_be_written_and_decided_again(self):
        learned, _ = play_windows(1.5, 6)
        taken = snapshot([service_at(8.0, itl=15.0, profile_learned=learned)], [make_pool()], [ESTIMATE])
        again = decode(Snapshot, encode(Snapshot, taken))
        assert again == taken
        assert decide(again) == decide(taken)

    def test_a_step_of_the_rate_teaches_nothing(self):
        service = service_at(8.0, itl=20.0)
        decision = decide_one(service, [make_pool()], [ESTIMATE])
        assert learn(service, decision, NOW)
        demand = replace(decision.explanation.demand, window_seconds=30.0)
        fresh = replace(decision, explanation=replace(decision.explanation, demand=demand))
        assert learn(service, fresh, NOW) == ()

    @given(
        windows=st.lists(
            st.tuples(st.floats(0.26, 3.9), st.floats(5, 1e4), st.floats(0.01, 50), st.booleans()), max_size=40
        )
    )
    @settings(max_examples=60, deadline=None)
    def test_never_more_than_what_was_seen(self, windows):
        """Whatever is told: the evidence holds no rate that was not seen within the objective, and stays finite."""
        learned = Learned(QWEN, ENGINE.version, TARGET, Lesson(TP1.configuration, Evidence(0, 0)))
        for number, (ratio, requests, rate, within) in enumerate(windows):
            sample = make_sample(rate, 20.0, requests=requests)
            residual = Residual(TP1, sample, ROW, True, rate, time_ratio=ratio, within=within)
            learned = take_in(learned, residual, NOW + 60 * number)
            seen = [r for _, _, r, ok in windows[: number + 1] if ok]
            assert learned.lesson.evidence.highest_rate <= max(seen, default=0.0)
            assert math.isfinite(learned.tally.log_time)


class TestDrift:
    """A trusted profile that is not true any more."""

    @pytest.mark.parametrize(("ratio", "drifts"), [(1.5, True), (0.6, True), (1.1, False), (0.9, False)])
    def test_it_must_last_and_works_both_ways(self, ratio, drifts):
        minutes = int(DRIFT_SECONDS / 60)
        (early,), states = play_windows(ratio, minutes - 1, profile=MEASURED)
        assert early.lesson.evidence.drift is None
        assert set(states) == {ProfileState.MEASURED}
        (learned,), states = play_windows(ratio, minutes + 3, profile=MEASURED)
        assert (states[-1] is ProfileState.STALE) is drifts
        if drifts:
            assert learned.lesson.evidence.drift == pytest.approx(ratio, rel=0.1)

    def test_it_ends(self):
        learned, states = play_windows(1.5, 15, profile=MEASURED)
        assert states[-1] is ProfileState.STALE
        _, states = play_windows(1.0, 15, profile=MEASURED, learned=learned, start=15)
        assert states[-1] is ProfileState.MEASURED

    def test_a_slower_engine_has_less_capacity_and_a_faster_one_not_more(self):
        rates = {}
        for drift in (None, 1.5, 0.6):
            lesson = learned_of(Evidence(1e4, 4.0, drift=drift), row=None)
            option = option_of(service_at(8.0, profile_learned=[lesson]), MEASURED)
            rates[drift] = option.rate
        assert rates[1.5] < rates[None] / 1.5 * 1.01
        assert rates[0.6] <= rates[None]

    def test_measured_wins_over_learned(self):
        lesson = learned_of(Evidence(1e6, 100.0), row=scale_row(ROW, 0.3))
        assert option_of(service_at(8.0, profile_learned=[lesson]), MEASURED).basis.row == ROW


class TestPlans:
    """What a plan may do with it."""

    def replicas(self, rate, *, replicas, learned=(), itl=None, profile=ESTIMATE):
        service = service_at(rate, replicas=replicas, itl=itl, profile_learned=learned)
        return decide_one(service, [make_pool(gpus=64, per_node=8)], [profile]).plan.replicas

    def test_an_estimate_gives_nothing_back_and_a_learned_one_does(self):
        assert self.replicas(10.0, replicas=8) == 8
        assert self.replicas(10.0, replicas=8, learned=[learned_of(Evidence(1e5, 5.0))]) < 8

    @given(
        rate=st.floats(0.5, 60),
        replicas=st.integers(1, 20),
        highest=st.floats(0.05, 20),
        requests=st.floats(0, 1e6),
        time=st.floats(0.5, 2),
    )
    @settings(max_examples=80, deadline=None)
    def test_what_remains_carries_the_load_at_the_credited_rate(self, rate, replicas, highest, requests, time):
        learned = learned_of(Evidence(requests, highest), scale_row(ROW, time))
        after = self.replicas(rate, replicas=replicas, learned=[learned])
        if after < replicas:
            assert after * MOST_CREDIT * highest >= rate * 0.999

    @given(rate=st.floats(0.5, 60), highest=st.floats(0.5, 20), time=st.floats(0.4, 2.5), minutes=st.integers(1, 20))
    @settings(max_examples=40, deadline=None)
    def test_losing_what_was_learned_never_shrinks(self, rate, highest, time, minutes):
        learned = learned_of(Evidence(480.0 * minutes, highest), scale_row(ROW, time))
        with_it = self.replicas(rate, replicas=4, learned=[learned])
        assert self.replicas(rate, replicas=with_it) >= with_it

    def test_losing_a_drift_gives_nothing_back_while_engines_are_slow(self):
        slow = observed_itl(10.0 / 8, 2.0)
        assert self.replicas(10.0, replicas=8, profile=MEASURED) < 8
        assert self.replicas(10.0, replicas=8, profile=MEASURED, itl=slow) == 8

    def test_what_another_learned_is_an_estimate(self):
        """A learned profile that lies in the namespace was learned by another service, or by hand: it adds only."""
        foreign = make_profile([ROW, make_row(0, k=2, steps=STEPS, kv=300_000)], source=Source.LEARNED)
        decision = decide_one(service_at(10.0, replicas=8), [make_pool()], [foreign])
        assert decision.explanation.profile is ProfileState.ESTIMATED
        assert decision.plan.replicas == 8
        assert {point.placement for point in decision.explanation.frontier} == {TP1}

    def test_a_learned_configuration_goes_to_no_untried_one(self):
        """Nothing but its own configuration is on offer where nothing else was measured."""
        learned = learned_of(Evidence(1e6, 5.0))
        decision = decide_one(service_at(8.0, profile_learned=[learned]), [make_pool()])
        assert {v.placement for v in decision.plan.variants} == {TP1}
        assert {point.placement for point in decision.explanation.frontier} == {TP1}

    def test_without_any_profile_the_roofline_is_learned_too(self):
        service = service_at(8.0, itl=12.0)
        decision = decide_one(service, [make_pool()])
        (learned,) = learn(service, decision, NOW)
        assert learned.lesson.row.steps is not None
        assert learned.tally == replace(learned.tally, requests=480.0, taken_until=NOW)
        assert Tally() != learned.tally
