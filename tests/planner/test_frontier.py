"""Which configurations there are, and why the others may not be used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_world import (
    L40S,
    MIX,
    decide_one,
    make_point,
    make_pool,
    make_profile,
    make_row,
    make_service,
    make_variant,
    place,
    shape,
)

from shoal.domain.pool import ClaimKind
from shoal.domain.profile import Link, ModelFacts, Source, StepModel
from shoal.domain.reasons import Binding, ProfileState, Rejection
from shoal.domain.service import EngineFacts, Objective, Parallelism, RequiredProfile
from shoal.planner.frontier import frontier_of

STEPS = StepModel(8.0, 0.02, 2e-5)
SHARED = [make_row(10), make_row(4, k=4), make_row(15, tp=2)]


def reasons(decision):
    return {r.placement.configuration.shape: r.reason for r in decision.explanation.rejected}


def of(rows=SHARED, pool=None, profile=None, **service):
    return decide_one(make_service(**service), [pool or make_pool()], [make_profile(rows, **(profile or {}))])


@pytest.mark.parametrize(
    ("configuration", "reason", "why"),
    [
        ("TP2", Rejection.NARROWED, {"parallelism": Parallelism((1,), (1, 2, 4))}),
        ("(4/GPU)", Rejection.NARROWED, {"parallelism": Parallelism((1, 2), (1,))}),
        ("(4/GPU)", Rejection.NEEDS_ENVOY, {"routed_per_engine": False}),
        ("(4/GPU)", Rejection.CANNOT_SHARE_DEVICE, {"pool": make_pool(claim=ClaimKind.EXTENDED)}),
        ("TP2", Rejection.LINK_TOO_SLOW, {"pool": make_pool(link=Link.NONE)}),
        ("TP2", Rejection.LINK_TOO_SLOW, {"pool": make_pool(link=Link.PCIE)}),
        ("TP2", Rejection.ISLAND_TOO_SMALL, {"pool": make_pool(per_node=1)}),
        ("TP2", Rejection.ISLAND_TOO_SMALL, {"pool": make_pool(island_size=1)}),
        ("(4/GPU)", Rejection.DOES_NOT_FIT, {"pool": make_pool(memory=40)}),
        ("TP4", Rejection.NOT_MEASURED, {}),
        ("(2/GPU)", Rejection.ESTIMATE_MAY_NOT_SHARE, {}),
        ("(4/GPU)", Rejection.ESTIMATE_MAY_NOT_SHARE, {"profile": {"source": Source.ESTIMATED}}),
    ],
)
def test_every_refusal_has_its_reason(configuration, reason, why):
    assert reasons(of(**why))[configuration] is reason


def test_pcie_is_enough_where_it_was_measured():
    measured = of(pool=make_pool(link=Link.PCIE), profile={"link": Link.PCIE}, objective=Objective(95, 500))
    assert "TP2" not in {c for c, r in reasons(measured).items() if r is Rejection.LINK_TOO_SLOW}


def test_an_objective_no_engine_reaches_is_a_floor_with_its_number():
    slow = make_row(18, points=(make_point(4, 40, 30), make_point(12, 100, 50)))
    fast = make_row(20, tp=2, points=(make_point(4, 40, 12), make_point(12, 100, 20)))
    decision = of([slow, fast], objective=Objective(95, 500, 25))
    rejected = next(r for r in decision.explanation.rejected if r.placement.configuration.shape == "TP1")
    assert rejected.reason is Rejection.ITL_FLOOR
    assert "30 ms" in rejected.message
    assert "25 ms" in rejected.message
    assert shape(decision) == {("h100", 2, 1): 1}


def test_dominated_configurations_are_dropped_and_costlier_ones_named():
    decision = of([make_row(10), make_row(15, tp=2), make_row(8, tp=4)], rate=5)
    found = reasons(decision)
    assert found["TP2"] is Rejection.DOMINATED
    assert found["TP4"] is Rejection.DOMINATED
    assert [p.placement.configuration.shape for p in decision.explanation.frontier] == ["TP1"]


def test_the_best_engine_limits_of_a_shape_are_taken():
    decision = of([make_row(10, seqs=64), make_row(30, seqs=256), make_row(20, seqs=512)], rate=20)
    assert [v.placement.configuration.max_num_seqs for v in decision.plan.variants] == [256]


class TestSharing:
    """Several engines on one GPU help small models, and only where that was measured."""

    small = ModelFacts(0.5e9, 1.0e9, 12_288, 32768)

    def plan(self, shared):
        profile = make_profile([make_row(10), make_row(shared, k=4)], facts=self.small)
        return decide_one(
            make_service(rate=40, facts=self.small, objective=Objective(95, 1000)), [make_pool()], [profile]
        )

    def test_measured_engines_share_a_gpu_when_they_carry_more_together(self):
        decision = self.plan(6)
        assert shape(decision) == {("h100", 1, 4): 2}
        assert decision.plan.variants[0].replica_rate == pytest.approx(0.9 * 24)

    @pytest.mark.parametrize(
        ("measured", "pool", "engines"), [(True, True, 4), (False, False, 4), (True, False, 1), (False, True, 1)]
    )
    def test_rows_count_where_mps_is_as_it_was_measured(self, measured, pool, engines):
        shared = replace(make_row(6, k=4), mps=measured)
        profile = make_profile([make_row(10), shared], facts=self.small)
        service = make_service(rate=40, facts=self.small, objective=Objective(95, 1000))
        decision = decide_one(service, [make_pool(mps=pool)], [profile])
        assert {k for _, _, k in shape(decision)} == {engines}
        if engines == 1:
            assert reasons(decision)["(4/GPU)"] is Rejection.ESTIMATE_MAY_NOT_SHARE

    def test_with_and_without_mps_beside_each_other(self):
        rows = [make_row(10), replace(make_row(6, k=4), mps=True), make_row(7, k=2)]
        profile = make_profile(rows, facts=self.small)
        service = make_service(rate=40, facts=self.small, objective=Objective(95, 1000))
        chosen = {mps: shape(decide_one(service, [make_pool(mps=mps)], [profile])) for mps in (True, False)}
        assert {k for _, _, k in chosen[True]} == {4}
        assert {k for _, _, k in chosen[False]} == {2}

    def test_not_when_one_engine_alone_does_as_well(self):
        assert shape(self.plan(2.4)) == {("h100", 1, 1): 5}


class TestKvStarvation:
    """capacity.md section 2: a 13 B model wants TP2 at 40 GB per GPU, and replicas of TP1 at 80 GB."""

    facts = ModelFacts(13.0e9, 26.0e9, 819_200, 4096)
    # H100-64GB class numbers: alpha from the weights; two GPUs do 1.4 times the work of one
    one = StepModel(14.0, 0.06, 4e-4)
    two = StepModel(10.5, 0.042, 2.6e-4)

    def plan(self, memory, kv1, kv2):
        rows = [make_row(0, steps=self.one, kv=kv1), make_row(0, tp=2, steps=self.two, kv=kv2)]
        profile = make_profile(rows, facts=self.facts)
        service = make_service(facts=self.facts, max_context_tokens=4096, rate=30, objective=Objective(95, 2000, 200))
        return decide_one(service, [make_pool(memory=memory, gpus=32)], [profile])

    def test_measured_at_80_gb(self):
        assert set(shape(self.plan(80, 52_000, 145_000))) == {("h100", 1, 1)}

    def test_the_same_profile_on_40_gb_gpus(self):
        assert set(shape(self.plan(40, 52_000, 145_000))) == {("h100", 2, 1)}


class TestTensorParallelAgainstLatency:
    """capacity.md section 4: TP pays when the ITL objective comes near the floor of TP1, else replicate."""

    rows = (make_row(0, steps=StepModel(6.5, 0.02, 3e-5)), make_row(0, tp=2, steps=StepModel(4.5, 0.014, 2.1e-5)))

    @pytest.mark.parametrize(("itl", "tensor"), [(6, 2), (40, 1), (100, 1)])
    def test_crossover(self, itl, tensor):
        decision = of(self.rows, pool=make_pool(gpus=64), rate=60, objective=Objective(95, 2000, itl))
        assert {v.placement.configuration.tensor_parallel for v in decision.plan.variants} == {tensor}


class TestProfiles:
    def test_own_namespace_first_then_the_operators_and_nobody_elses(self):
        mine, library, foreign = (
            make_profile([make_row(knee)], name=f"p{knee}", namespace=ns)
            for knee, ns in ((10, "ml"), (20, "shoal-system"), (30, "others"))
        )
        used = lambda profiles: decide_one(make_service(), [make_pool()], profiles).plan.variants[0].capacity.profile  # noqa: E731
        assert used([foreign, library, mine]) == "ml/p10"
        assert used([foreign, library]) == "shoal-system/p20"
        assert used([foreign]) is None

    def test_measured_before_estimated(self):
        both = [make_profile([make_row(99)], name="e", source=Source.ESTIMATED), make_profile([make_row(10)], name="m")]
        assert decide_one(make_service(), [make_pool()], both).plan.variants[0].capacity.profile == "shoal-system/m"

    @pytest.mark.parametrize(
        ("version", "state"),
        [("0.30.1", ProfileState.MEASURED), ("0.30.9", ProfileState.MEASURED), ("0.29.1", ProfileState.STALE)],
    )
    def test_another_engine_version_is_stale(self, version, state):
        decision = of(engine=EngineFacts("vllm", version))
        assert decision.explanation.profile is state

    def test_another_engine_is_no_profile(self):
        assert of(engine=EngineFacts("other", "0.30.1")).explanation.profile is ProfileState.ESTIMATED

    def test_the_row_of_the_nearest_mix_counts(self):
        near = make_row(10)
        far = make_row(99, mix=replace(MIX, input_mean=10.0, output_mean=10.0))
        assert of([far, near]).plan.variants[0].capacity.rate == pytest.approx(9.0)

    @pytest.mark.parametrize(
        "row",
        [
            make_row(float("nan")),
            make_row(-3),
            make_row(0),
            make_row(10, kv=float("nan")),
            make_row(10, mix=replace(MIX, output_mean=0.0)),
            make_row(0, steps=StepModel(float("nan"), 1, 1)),
            make_row(0, points=(make_point(-1, 10, 10), make_point(float("nan"), 10, 10), make_point(3, -1, 5))),
        ],
    )
    def test_impossible_numbers_are_as_no_profile(self, row):
        assert of([row]).explanation.profile is ProfileState.ESTIMATED

    def test_unsorted_and_bad_points_do_not_hide_the_good_ones(self):
        good = (make_point(4, 40, 12), make_point(12, 100, 20))
        mixed = (good[1], make_point(float("inf"), 1, 1), good[0])
        assert of([make_row(18, points=mixed)]).plan == of([make_row(18, points=good)]).plan

    def test_a_required_measurement_that_is_missing_is_infeasible_and_says_how_to_get_it(self):
        decision = decide_one(make_service(required_profile=RequiredProfile.MEASURED), [make_pool()])
        assert decision.binding is Binding.PROFILE
        assert "shoal profile" in decision.explanation.message
        assert decision.steps == ()


class TestNoProfile:
    def test_conservative_first_day(self):
        decision = decide_one(make_service(rate=5), [make_pool()])
        assert shape(decision) == {("h100", 1, 1): 1}
        assert decision.explanation.profile is ProfileState.ESTIMATED
        assert decision.plan.variants[0].capacity.margin == 0.5
        assert "shoal profile" in decision.explanation.message

    def test_the_smallest_tensor_parallelism_that_fits(self):
        decision = decide_one(make_service(rate=1, objective=Objective(95, 5000, 200)), [make_pool(memory=16)])
        assert set(shape(decision)) == {("h100", 2, 1)}

    def test_one_pool(self):
        pools = [make_pool(gpus=40), make_pool("l40s", L40S, gpus=40, price=1.0, memory=48)]
        decision = decide_one(make_service(rate=60, pools=("h100", "l40s"), objective=Objective(95, 2000, 100)), pools)
        assert len(decision.plan.variants) == 1

    def test_an_unknown_size_is_infeasible_and_says_what_to_give(self):
        decision = decide_one(make_service(model="acme/frog", facts=None), [make_pool()])
        assert decision.binding is Binding.PROFILE
        assert "model.parameters" in decision.explanation.message

    def test_what_fits_nowhere_says_how_much_is_missing(self):
        big = ModelFacts(200e9, 400e9, 500_000, 8192)
        decision = decide_one(make_service(facts=big), [make_pool(memory=24, link=Link.NONE)])
        assert decision.binding is Binding.MEMORY
        assert "GiB" in decision.explanation.message

    def test_what_runs_goes_on_when_its_profile_is_deleted(self):
        """An estimate never changes type: engines that share a GPU keep sharing it."""
        running = (make_variant(place(k=4), 2),)
        decision = decide_one(make_service(rate=1, running=running), [make_pool()])
        assert shape(decision) == {("h100", 1, 4): 2}


def test_the_frontier_has_only_what_no_other_one_beats():
    pools = [make_pool(), make_pool("l40s", L40S, price=1.0, memory=48)]
    profiles = [make_profile([make_row(10)]), make_profile([make_row(5)], L40S, name="q")]
    decision = decide_one(make_service(pools=("h100", "l40s")), pools, profiles)
    points = {p.placement.pool: p for p in decision.explanation.frontier}
    assert points["h100"].rate_per_gpu == pytest.approx(9.0)
    assert points["l40s"].cost_per_million_requests == pytest.approx(1e6 / 3600 / 4.5)
    assert frontier_of(()) == ()
