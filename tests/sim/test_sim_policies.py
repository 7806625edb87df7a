"""Policies by name, and what the laws of others make of a play."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shoal.domain.service import Objective
from shoal.sim.policies.parse import PolicyError, make_policy
from shoal.sim.profile_files import read_profiles
from shoal.sim.result import Result
from shoal.sim.scenario import PoolSpec, Scenario, ServiceSpec
from shoal.sim.world import run

PROFILES = read_profiles(Path(__file__).parents[2] / "profiles" / "simulated")
POOL = PoolSpec("h100", "NVIDIA-H100-80GB-HBM3", gpus=8)
CHAT = ServiceSpec(
    name="chat",
    model="Qwen/Qwen2.5-7B-Instruct",
    objective=Objective(95, ttft_ms=500, itl_ms=40),
    schedule=((60, 10), (150, 50), (430, 10)),
    declared_rate=10,
)


def play(policy: str, **changes: object) -> Result:
    scenario = Scenario("test", (POOL,), (replace(CHAT, **changes),), startup_seconds=20)  # type: ignore[arg-type]
    return run(scenario, PROFILES, policy=make_policy(policy))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("magic", "'magic' is no policy. There are: shoal; static:N"),
        ("static", "'' is not a positive whole number: write static:N"),
        ("static:0", "'0' is not a positive whole number"),
        ("static:2.5", "'2.5' is not a positive whole number"),
        ("kpa:-3", "'-3' is not a positive number: write kpa:T"),
        ("hpa:nan", "'nan' is not a positive number"),
        ("keda:3", "'keda:3' is no policy"),
        ("shoal,tp=2", "shoal takes no arguments"),
        ("static:2,speed=3", "'speed=3': expected one of tp=..., engines=..., pool=..."),
        ("static:2,tp=", "expected one of"),
        ("static:2,tp=x", "'x' is not a positive whole number: write tp=N"),
    ],
)
def test_what_is_no_policy_is_said(text: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        make_policy(text)
    assert words in str(caught.value)


def test_static_starts_at_its_number_and_never_moves() -> None:
    result = play("static:3")
    assert {sample.ready for sample in result.timeline} == {3}
    assert result.moves == ()
    assert result.gpu_hours == pytest.approx(3 * 640 / 3600)


def test_static_choices_of_tensor_parallelism_and_engines() -> None:
    assert play("static:2,tp=2").most_gpus == 4
    assert play("static:2,engines=2", model="Qwen/Qwen2.5-0.5B-Instruct").most_gpus == 2


def test_a_pool_that_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match="chat may not use pool a100: it may use h100"):
        play("static:2,pool=a100")


@pytest.mark.parametrize("text", ["shoal", "keda", "kpa", "hpa"])
def test_every_autoscaler_grows_with_a_step_and_gives_back(text: str) -> None:
    result = play(text)
    at = {sample.at: sample.desired for sample in result.timeline}
    before, during, after = (max(n for t, n in at.items() if low < t <= high) for low, high in STAGES)
    assert before < during
    assert after < during
    assert result.attainment > play("static:1").attainment


STAGES = ((30, 60), (150, 210), (620, 641))


def test_laws_get_their_targets_from_what_the_planner_knows() -> None:
    """The HPA's target is the planned rate of one replica, so it comes to as many replicas as the planner."""
    constant = {"schedule": ((150, 100),), "declared_rate": 100}
    assert play("hpa", **constant).timeline[-1].desired == pytest.approx(
        play("shoal", **constant).timeline[-1].desired, abs=1
    )


def test_without_a_profile_a_target_must_be_given() -> None:
    with pytest.raises(ValueError, match=r"no capacity of .* is known for chat: give a target"):
        play("hpa,engines=4", objective=Objective(95, itl_ms=0.001))
