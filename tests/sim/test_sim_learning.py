"""The closed loop in virtual time: the planner is told a lie about the engines, and learns from their traffic.

Simulated: the engines obey a profile that the planner does not know; it plans with an estimate that is wrong by a
factor of two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from shoal.domain.live import Learned
from shoal.domain.profile import Profile, Source
from shoal.domain.service import Objective
from shoal.planner.learning import scale_row
from shoal.sim.policies.shoal import ShoalPolicy
from shoal.sim.profile_files import read_profiles
from shoal.sim.result import Result
from shoal.sim.scenario import PoolSpec, Scenario, ServiceSpec
from shoal.sim.world import run

DIRECTORY = Path(__file__).parents[2] / "profiles" / "simulated"
SLOW = 4.0  # engines four times slower than the shipped profile's: few requests fill them, so that plays are short
H100 = "NVIDIA-H100-80GB-HBM3"


def make_truth() -> Profile:
    """Step times of a 7 B model on one GPU, without measured points: the model alone."""
    profile = next(p for p in read_profiles(DIRECTORY) if p.name == "sim-qwen2-5-7b-h100")
    row = next(r for r in profile.rows if (r.tensor_parallel, r.engines_per_gpu) == (1, 1))
    return replace(profile, rows=(scale_row(replace(row, points=(), overload_rate=None), SLOW),))


TRUTH = make_truth()
OBJECTIVE = Objective(95, ttft_ms=3000, itl_ms=160)


@dataclass(frozen=True)
class Play:
    """How it went."""

    result: Result
    learned: Learned | None

    @property
    def time_ratio(self) -> float:
        """Learned step times over the engines' own."""
        assert self.learned is not None
        assert self.learned.lesson.row is not None
        learned, true = self.learned.lesson.row.steps, TRUTH.rows[0].steps
        assert learned is not None
        assert true is not None
        return learned.alpha_ms / true.alpha_ms

    @property
    def replicas(self) -> int:
        """At the end."""
        return self.result.timeline[-1].desired

    @property
    def most(self) -> int:
        return max(sample.desired for sample in self.result.timeline)


def play(lie: float, *schedule: tuple[float, float], source: Source = Source.ESTIMATED, seed: int = 0) -> Play:
    """`lie`: step times that the planner is told over the engines' own."""
    told = replace(TRUTH, rows=(scale_row(TRUTH.rows[0], lie),), source=source)
    service = ServiceSpec("chat", TRUTH.model, OBJECTIVE, schedule, declared_rate=schedule[0][1])
    scenario = Scenario("lie", (PoolSpec("h100", H100, gpus=16),), (service,), startup_seconds=60, seed=seed)
    policy = ShoalPolicy()
    result = run(scenario, (told,), (TRUTH,), policy)
    found = next(iter(policy.learned.values()), ())
    return Play(result, found[0] if found else None)


UPS_AND_DOWNS = tuple((200.0, float(rate)) for rate in (7, 4, 2, 4, 7, 10, 14, 10, 7, 4, 2, 4))


@pytest.mark.parametrize("lie", [0.5, 2.0])
def test_a_lie_of_two_is_seen_through(lie: float) -> None:
    """Constant load: the learned step times are the engines' within 10 %, and requests stay within the SLO."""
    found = play(lie, (900.0, 8.0))
    assert found.time_ratio == pytest.approx(1.0, abs=0.1)
    assert found.result.attainment >= 0.99


def test_too_low_an_estimate_gives_replicas_back_in_the_end() -> None:
    """Engines carry twice what was told: it begins with too many, and ends with as many as the truth needs."""
    lied, truth = (play(lie, (400.0, 10.0), *UPS_AND_DOWNS, (300.0, 6.0)) for lie in (2.0, 1.0))
    assert lied.result.timeline[0].desired >= 2 * truth.result.timeline[0].desired
    assert lied.replicas == truth.replicas
    assert min(lied.result.attainment, truth.result.attainment) >= 0.99


def test_under_constant_load_all_but_one_replica_is_given_back() -> None:
    """Each engine's share grows by a quarter at most at a time, and no replica that was given back comes again."""
    found, right = play(2.0, (1800.0, 10.0)), play(1.0, (600.0, 10.0), source=Source.MEASURED)
    desired = [sample.desired for sample in found.result.timeline]
    assert desired[0] >= 2 * right.replicas
    assert right.replicas <= desired[-1] <= right.replicas + 1
    assert all(after <= before for before, after in pairwise(desired))
    assert found.result.attainment >= 0.99


def test_too_high_an_estimate_never_stays_over_the_slo() -> None:
    """Engines carry half of what was told: outside the minute after each step the SLO is met, at the end as well."""
    found = play(0.5, (300.0, 3.0), (900.0, 12.0))
    (service,) = found.result.services
    assert service.attainment_outside_steps >= 0.95
    requests = found.result.requests["chat"]
    last = [request for request in requests if request.at > 700]
    assert sum(request.is_within(OBJECTIVE) for request in last) >= 0.99 * len(last)


def test_credit_never_passes_what_was_seen() -> None:
    """At any end of a play: no more than 1.25 times the highest rate that an engine showed within the SLO."""
    found = play(2.0, (600.0, 6.0))
    assert found.learned is not None
    evidence = found.learned.lesson.evidence
    busiest = max(sample.arrived / max(sample.at, 1.0) for sample in found.result.timeline if sample.at > 120)
    assert 0 < evidence.highest_rate <= 1.3 * busiest


@pytest.mark.parametrize(("slower", "moves"), [(1.0, False), (1.6, True)])
def test_a_measured_profile_that_is_not_true_gets_more_replicas(slower: float, moves: bool) -> None:
    """Engines slower than measured: after ten minutes the profile is stale and replicas are added; else nothing."""
    found = play(1 / slower, (1200.0, 11.0), source=Source.MEASURED)
    assert (found.learned is not None and found.learned.lesson.evidence.drift is not None) is moves
    assert (found.most > found.result.timeline[0].desired) is moves
