"""What holds in every play: conservation, Little's law, the GPUs that exist, limits, and the same seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.domain.service import Limits, Objective, ServiceKey, Tick
from shoal.domain.snapshot import Snapshot
from shoal.sim.incidents import GPULoss, Heat, NodeLoss
from shoal.sim.kernel import Kernel
from shoal.sim.policies.laws import Signals, Static
from shoal.sim.policies.parse import make_policy
from shoal.sim.policies.protocol import Order, Policy
from shoal.sim.policies.scaled import Choice, ScaledPolicy
from shoal.sim.profile_files import read_profiles
from shoal.sim.result import Result
from shoal.sim.scenario import PoolSpec, Routing, Scenario, ServiceSpec
from shoal.sim.world import World, run

ROOT = Path(__file__).parents[2]
PROFILES = read_profiles(ROOT / "profiles" / "simulated")
POOL = PoolSpec("h100", "NVIDIA-H100-80GB-HBM3", gpus=4, per_node=2)
CHAT = ServiceSpec(
    name="chat",
    model="Qwen/Qwen2.5-7B-Instruct",
    objective=Objective(95, ttft_ms=500, itl_ms=40),
    schedule=((60, 20), (60, 90), (60, 10)),
    declared_rate=20,
)


def scenario(*services: ServiceSpec, **changes: object) -> Scenario:
    plain = Scenario("test", (POOL,), services or (CHAT,), startup_seconds=5, shrink_after_seconds=30)
    return replace(plain, **changes)  # type: ignore[arg-type]


class Wandering:
    """Asks for numbers of replicas drawn by a test, each for 15 s: newcomers serve before they may go again."""

    interval_seconds = 5.0

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers
        self.calls = 0

    def desired(self, seen: Signals) -> int:
        self.calls += 1
        return self.numbers[self.calls // 3 % len(self.numbers)]


def wandering(numbers: list[int]) -> Policy:
    return ScaledPolicy("wandering", Choice(), lambda *_: Wandering(numbers), None)


class Stepwise(Kernel):
    """A kernel that looks at the fleet after every single action."""

    world: World
    most = 0

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            super().run(self._queue[0][0])
            self.look()
        super().run(until)

    def look(self) -> None:
        held = [gpu for v in self.world.fleet.variants.values() for r in v.replicas for gpu in r.gpus]
        assert len(held) == len(set(map(id, held))) == sum(gpu.held for gpu in self.world.fleet.gpus)
        assert len(held) <= POOL.gpus
        self.most = max(self.most, len(held))


def watched_play(played: Scenario, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> tuple[Result, int]:
    monkeypatch.setattr("shoal.sim.world.Kernel", Stepwise)
    world = World(played, PROFILES, PROFILES, policy)
    assert isinstance(world.kernel, Stepwise)
    world.kernel.world = world
    return world.play(), world.kernel.most


def assert_conserved(result: Result) -> None:
    for service in result.services:
        assert service.sent > 0
        assert service.sent == service.answered + service.refused + service.lost + service.in_flight


LONG = replace(CHAT, schedule=((40, 5), (40, 15), (40, 3)), output_mean=900)  # longer than a drain takes at least
NUMBERS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None)
@given(NUMBERS, st.integers(0, 1000), st.sampled_from(Routing))
def test_nothing_is_lost_while_replicas_come_and_go(numbers: list[int], seed: int, routing: Routing) -> None:
    """Whatever a policy asks for, drained replicas end what they have."""
    result = run(scenario(LONG, seed=seed, routing=routing), PROFILES, policy=wandering(numbers))
    assert result.lost == 0
    assert result.services[0].in_flight == 0
    assert_conserved(result)


def test_a_drain_that_is_cut_short_loses_some() -> None:
    """So that the test above can fail."""
    assert run(scenario(LONG, drain_seconds=6), PROFILES, policy=wandering([4, 1])).lost > 0


@settings(max_examples=10, deadline=None)
@given(NUMBERS, st.integers(0, 3), st.floats(0, 170), st.booleans())
def test_never_more_gpus_than_there_are_at_any_instant(numbers: list[int], gpu: int, at: float, back: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lost = scenario(
            gpu_loss=(GPULoss(at, "h100", gpu, until=at + 40 if back else None),),
            node_loss=(NodeLoss(at / 2, "h100", gpu // 2, until=at / 2 + 60, noticed_after=20),),
            heat=(Heat(at, "h100", 3 - gpu, 0.5, until=at + 30),),
        )
        result, most = watched_play(lost, wandering(numbers), patch)
    assert_conserved(result)
    assert most <= POOL.gpus


POLICIES = ["shoal", "static:3", "keda", "kpa", "hpa", "kpa:5", "hpa:2", "static:9", "static:2,tp=2", "hpa,tp=2"]


@pytest.mark.parametrize("text", POLICIES)
def test_policies_keep_to_limits(text: str) -> None:
    limited = replace(CHAT, limits=Limits(min_replicas=2 if "tp=2" not in text else 1, max_gpus=3))
    watcher = Watcher(make_policy(text))
    result = run(scenario(limited), PROFILES, policy=watcher)
    assert watcher.most <= 3
    assert watcher.least >= limited.limits.min_replicas
    assert max(sample.gpus for sample in result.timeline) <= 3 + 3  # what drains still holds its GPU
    assert_conserved(result)
    assert result.lost == 0


class Watcher:
    """A policy, and what its orders add up to."""

    def __init__(self, policy: Policy) -> None:
        self.name, self.interval_seconds, self._policy = policy.name, policy.interval_seconds, policy
        self.most, self.least = 0, 99

    def decide(self, snapshot: Snapshot, signals: Mapping[ServiceKey, Signals]) -> Mapping[ServiceKey, Order]:
        orders = self._policy.decide(snapshot, signals)
        for key, order in orders.items():
            named = {step.variant for step in order.steps}
            (service,) = (s for s in snapshot.services if s.key == key)
            others = [v for v in service.running if v.name not in named]
            counts = [(s.replicas, s.placement) for s in order.steps] + [(v.desired, v.placement) for v in others]
            self.most = max(self.most, sum(n * p.configuration.gpus_per_replica for n, p in counts))
            self.least = min(self.least, sum(n for n, _ in counts))
        return orders

    def is_surge(self, service: ServiceKey, tick: Tick, tick_seconds: float) -> bool:
        return self._policy.is_surge(service, tick, tick_seconds)


@pytest.mark.parametrize("text", ["shoal", "static:1", "hpa"])
def test_littles_law(text: str) -> None:
    """What engines hold at an instant is what has been sent and not yet ended: counted apart, and exactly equal.

    Summed over time that is L = lambda * W, which is checked as well.
    """
    world = World(scenario(), PROFILES, PROFILES, make_policy(text))
    result = world.play()
    began = world._began
    assert began is not None
    requests = [request for request in result.requests["chat"] if not request.refused]
    spans = [(r.sequence.arrived_at - began, (r.sequence.finished_at or 0.0) - began) for r in requests if r.sequence]
    assert len(spans) == len(requests)
    for sample in result.timeline:
        assert sample.active == sum(start <= sample.at < end for start, end in spans)
    mean_active = sum(sample.active for sample in result.timeline) / len(result.timeline)
    total = sum(min(end, 180) - start for start, end in spans)
    assert mean_active == pytest.approx(total / 180, rel=0.1)  # 36 samples of it


# the same seed

SCRIPT = """
import json, sys
from pathlib import Path
from shoal.sim.policies.parse import make_policy
from shoal.sim.profile_files import read_profiles
from shoal.sim.scenario_file import read_scenario
from shoal.sim.world import run
given = json.load(sys.stdin)
for policy in given["policies"]:
    played = run(read_scenario(given["scenario"], name="s"), read_profiles(Path("profiles/simulated")),
                 policy=make_policy(policy))
    print(json.dumps(played.as_json()), played.timeline)
"""
POOLS = [
    {"name": "h100", "accelerator": "NVIDIA-H100-80GB-HBM3", "gpus": 4},
    {"name": "l40s", "accelerator": "NVIDIA-L40S", "gpus": 4, "memory_gib": 48, "link": "PCIe"},
]
SERVICES = [
    {
        "name": name,
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "objective": {"ttft_ms": 1000, "itl_ms": 80},
        "schedule": [[30, rate], [40, 3 * rate]],
        "wander": 0.1,
        "burst_cv": 2,
    }
    for name, rate in (("one", 8), ("two", 4))
]
DETAILS = {
    "startup_seconds": 10,
    "startup_spread": 0.3,
    "gpu_loss": [{"at": 20, "pool": "h100", "gpu": 0, "until": 50}],
    "heat": [{"at": 25, "pool": "h100", "gpu": 1, "ratio": 0.6}],
}


def play_elsewhere(given: Mapping[str, object], hash_seed: str) -> str:
    text = json.dumps({"scenario": given, "policies": ["shoal", "kpa:8"]})
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    ).stdout


def test_a_play_depends_on_its_seed_alone() -> None:
    """Not on the hash seed of the process, and not on the order of keys in the file."""
    given = {"pools": POOLS, "services": SERVICES, **DETAILS}
    turned = {key: given[key] for key in reversed(given)}
    turned["services"] = [{key: service[key] for key in reversed(service)} for service in SERVICES]
    first = play_elsewhere(given, "1")
    assert first == play_elsewhere(turned, "2")
    assert first != play_elsewhere({**given, "seed": 1}, "1")


def test_the_traffic_of_a_service_does_not_depend_on_the_others() -> None:
    other = replace(CHAT, name="other", schedule=((100, 5),))
    alone = [vars_of(a) for a in CHAT.arrivals(3)]
    assert alone == [vars_of(a) for a in scenario(other, CHAT).services[1].arrivals(3)]
    result = run(scenario(other, CHAT), PROFILES, policy=make_policy("static:1"))
    turned = run(scenario(CHAT, other), PROFILES, policy=make_policy("static:1"))
    assert sorted(result.services, key=lambda s: s.name) == sorted(turned.services, key=lambda s: s.name)


def vars_of(arrival: object) -> tuple[object, ...]:
    return tuple(getattr(arrival, name) for name in ("at", "prompt_tokens", "output_tokens"))


def test_static_is_bounded_by_what_exists() -> None:
    result = run(scenario(), PROFILES, policy=ScaledPolicy("many", Choice(), lambda *_: Static(40), None))
    assert result.most_gpus == POOL.gpus
