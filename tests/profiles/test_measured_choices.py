"""Which shape is chosen from what real H200s were measured to do (profiles/measured): TP, replicas or sharing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shoal.domain.configuration import Placement
from shoal.domain.plan import Decision, Scale
from shoal.domain.pool import ClaimKind, NodeStock, Pool, Stock
from shoal.domain.profile import Link, Profile
from shoal.domain.reasons import ProfileState, Rejection
from shoal.domain.service import EngineFacts, Objective, Service, ServiceKey, Workload
from shoal.domain.snapshot import Snapshot
from shoal.planner.capacity import Basis, mean_curve, rate_row
from shoal.planner.decide import decide
from shoal.sim.profile_files import read_profiles

PROFILES = {profile.name: profile for profile in read_profiles(Path(__file__).parents[2] / "profiles" / "measured")}
OPT_13B = PROFILES["measured-opt-13b-nvidia-h200"]
OPT_125M = PROFILES["measured-opt-125m-nvidia-h200"]
GIB = 2.0**30
ALPHA_13B = 8.07  # ms, the measured step time of TP1 with one request


def choose(profile: Profile, rate: float, objective: Objective, *, memory: float = 141, link=Link.NVLINK) -> Decision:
    pool = Pool(
        "h200",
        profile.accelerator,
        memory * GIB,
        2 * GIB,
        ClaimKind.DRA,
        10.0,
        Stock(tuple(NodeStock(f"n{n}", 8, 8) for n in range(128))),
        link=link,
    )
    service = Service(
        key=ServiceKey("ml", "chat"),
        uid="chat",
        generation=1,
        created_at=0.0,
        model=profile.model,
        facts=profile.facts,
        max_context_tokens=2048,
        objective=objective,
        workload=Workload(rate, profile.rows[0].lengths),
        engine=EngineFacts(profile.engine, profile.engine_version),
        pools=("h200",),
    )
    profile = replace(profile, namespace="ml")
    return decide(Snapshot(0.0, (service,), (pool,), (profile,))).decisions[service.key]


def main_shape(decision: Decision) -> tuple[int, int]:
    """Tensor parallelism and engines per GPU of most GPUs: one replica may complete a plan by a fraction."""
    gpus: dict[tuple[int, int], int] = {}
    for variant in decision.plan.variants:
        own = variant.placement.configuration
        key = own.tensor_parallel, own.engines_per_gpu
        gpus[key] = gpus.get(key, 0) + variant.gpus
    return max(gpus, key=lambda key: gpus[key])


class TestKvStarvation:
    @pytest.mark.parametrize(("memory", "tensor"), [(36, 2), (40, 2), (44, 2), (60, 2), (80, 1), (141, 1)])
    def test_13b_on_little_memory_is_given_pairs_and_on_much_replicas(self, memory, tensor):
        decision = choose(OPT_13B, 500, Objective(95, 3000, 200), memory=memory)
        assert isinstance(decision, Scale)
        assert main_shape(decision) == (tensor, 1)

    def test_the_starved_throughput_is_near_the_measured_one(self):
        """With 10,480 tokens of KV cache the real engine put through 10.2 requests/s, with 52,416 19.5."""
        row = next(row for row in OPT_13B.rows if row.tensor_parallel == 1)
        basis = Basis(row, ProfileState.MEASURED, None, None, row.lengths, Objective(95, 3000, 200), 10_480)
        assert rate_row(basis).capacity.overload_rate == pytest.approx(10.2, rel=0.1)


class TestItl:
    """Real p95 ITL of 13B: two GPUs as a pair beat two replicas below 16.5 ms, twice the step time of TP1."""

    @pytest.mark.parametrize("itl", [9, 10, 12, 1.5 * ALPHA_13B, 2.0 * ALPHA_13B])
    def test_pairs_below(self, itl):
        decision = choose(OPT_13B, 2000, Objective(95, 3000, itl))
        assert isinstance(decision, Scale)
        assert main_shape(decision) == (2, 1)

    @pytest.mark.parametrize("itl", [25, 30, 60])
    def test_replicas_above(self, itl):
        assert main_shape(choose(OPT_13B, 2000, Objective(95, 3000, itl))) == (1, 1)

    def test_it_turns_once(self):
        turns = [main_shape(choose(OPT_13B, 2000, Objective(95, 3000, itl)))[0] for itl in range(9, 40)]
        assert turns == sorted(turns, reverse=True)

    @pytest.mark.parametrize("link", [Link.NONE, Link.PCIE])
    def test_without_a_fast_link_pairs_are_refused(self, link):
        decision = choose(OPT_13B, 500, Objective(95, 3000, 12), link=link)
        refused = {r.placement.configuration.shape: r.reason for r in decision.explanation.rejected}
        assert refused["TP2"] is Rejection.LINK_TOO_SLOW
        assert {variant.placement.configuration.tensor_parallel for variant in decision.plan.variants} == {1}

    @pytest.mark.parametrize(("tensor", "rate", "idle"), [(1, 1.2, 8.34), (2, 1.6, 5.48)])
    def test_the_curve_ends_near_what_an_idle_engine_does(self, tensor, rate, idle):
        """p95 ITL of one connection, which is no point of the profile (journals of bench/gpu_session)."""
        row = next(row for row in OPT_13B.rows if row.tensor_parallel == tensor)
        basis = Basis(row, ProfileState.MEASURED, None, None, row.lengths, Objective(95), row.kv_cache_tokens)
        assert 0.95 * idle <= rate_row(basis).curve.latencies(rate)[1] <= 1.2 * idle
        assert mean_curve(basis).latencies(rate)[1] <= rate_row(basis).curve.latencies(rate)[1]


class TestSharing:
    """Four engines of 125M on one GPU: 334 requests/s in all, one alone 110."""

    @pytest.mark.parametrize("objective", [Objective(95, 500, 20), Objective(95, 1000, 50), Objective(95, 1000)])
    def test_a_small_model_with_a_loose_objective_shares(self, objective):
        decision = choose(OPT_125M, 900, objective)
        assert isinstance(decision, Scale)
        assert main_shape(decision) == (1, 4)
        alone = next(r for r in decision.explanation.rejected if r.placement == Placement("h200", one_of(OPT_125M)))
        assert alone.reason is Rejection.COSTLIER

    def test_not_at_an_objective_that_only_an_engine_alone_meets(self):
        assert main_shape(choose(OPT_125M, 900, Objective(95, 500, 3))) == (1, 1)

    def test_the_plan_needs_less_than_half_of_the_gpus(self):
        shared = choose(OPT_125M, 2000, Objective(95, 1000, 50)).plan.gpus
        alone = replace(OPT_125M, rows=tuple(row for row in OPT_125M.rows if row.engines_per_gpu == 1))
        assert 2 * shared < choose(alone, 2000, Objective(95, 1000, 50)).plan.gpus


def one_of(profile: Profile):
    """The configuration of one engine that has a GPU to itself."""
    decision = choose(
        replace(profile, rows=tuple(row for row in profile.rows if row.engines_per_gpu == 1)), 1, Objective(95, 1000)
    )
    return decision.plan.variants[0].placement.configuration
