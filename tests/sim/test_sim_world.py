"""Virtual time: the kernel, the fleet, the router, and whole plays with the real planner."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cli import simulate
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import Step
from shoal.domain.service import Objective, ReplicaPhase, ServiceKey
from shoal.sim.engine import Engine, EngineLimits, Report
from shoal.sim.fleet import Fleet, Startup
from shoal.sim.fleet_parts import SimEngine, SimGPU
from shoal.sim.kernel import Kernel
from shoal.sim.profile_files import read_profiles
from shoal.sim.result import Result, is_settling, reactive_ceiling
from shoal.sim.router import LeastRequest, RoundRobin
from shoal.sim.scenario import PoolSpec, Scenario, ScenarioError, ServiceSpec
from shoal.sim.scenario_file import load_scenario, read_scenario, shipped_scenarios
from shoal.sim.truth import Truth
from shoal.sim.world import run

PROFILES = read_profiles(Path(__file__).parents[2] / "profiles" / "simulated")
KEY = ServiceKey("sim", "documents")
H100 = PoolSpec("h100", "NVIDIA-H100-80GB-HBM3", gpus=8, price_per_gpu_hour=7.5)


def documents(*schedule: tuple[float, float], declared: float | None = None) -> ServiceSpec:
    return ServiceSpec(
        name="documents",
        model="Qwen/Qwen2.5-14B-Instruct",
        objective=Objective(95, ttft_ms=1500, itl_ms=100),
        schedule=schedule,
        input_mean=3000,
        output_mean=100,
        declared_rate=declared or schedule[0][1],
    )


def play(service: ServiceSpec, **settings: object) -> Result:
    scenario = Scenario("test", (H100,), (service,), startup_seconds=20, shrink_after_seconds=60)
    return run(replace(scenario, **settings), PROFILES)  # type: ignore[arg-type]


# kernel


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.integers(0, 2))))
def test_actions_come_by_time_then_priority_then_order(actions: list[tuple[float, int]]) -> None:
    kernel, done = Kernel(), []
    for number, (time, priority) in enumerate(actions):
        kernel.at(time, lambda item=(time, priority, number): done.append(item), priority=priority)
    kernel.run(until=5.0)
    assert done == sorted(done)
    assert len(done) == len(actions)
    assert kernel.now == 5.0


def test_the_past_cannot_be_changed() -> None:
    kernel = Kernel()
    kernel.run(until=2.0)
    with pytest.raises(ValueError, match="before now"):
        kernel.at(1.0, lambda: None)


# fleet

TRUTH = Truth(
    steps=PROFILES[0].rows[0].steps,  # type: ignore[arg-type]
    limits=EngineLimits(16, 512, 1000),
    max_model_len=4096,
    lengths=PROFILES[0].rows[0].lengths,
    clock_mhz=None,
    engine_version="0",
    label="test",
)


class Stage:
    """A fleet of four GPUs on two nodes."""

    def __init__(self, drain_seconds: float = 60.0) -> None:
        self.kernel = Kernel()
        self.reports: list[Report] = []
        self.fleet = Fleet(
            self.kernel,
            [SimGPU(f"GPU-{n}", f"node-{n // 2}", "h100") for n in range(4)],
            make_engine=lambda key, placement: SimEngine(key, Engine(TRUTH.steps, TRUTH.limits), TRUTH),
            on_reports=lambda engine, reports: self.reports.extend(reports),
            make_startup=lambda replica, attempt: Startup(10.0),
            drain_seconds=drain_seconds,
        )

    def apply(self, replicas: int, *, variant: str | None = None, tensor: int = 1, doomed: Sequence[str] = ()) -> str:
        placement = Placement("h100", Configuration("NVIDIA-H100-80GB-HBM3", tensor))
        self.fleet.apply(KEY, [Step(placement, replicas, variant, tuple(doomed))])
        return variant or list(self.fleet.variants)[-1]

    def phases(self) -> Counter[ReplicaPhase]:
        return Counter(r.phase for variant in self.fleet.variants.values() for r in variant.replicas)

    @property
    def held(self) -> int:
        return sum(gpu.held for gpu in self.fleet.gpus)


def test_replicas_serve_after_their_start_and_wait_for_gpus() -> None:
    stage = Stage()
    name = stage.apply(5)
    assert stage.phases() == {ReplicaPhase.STARTING: 4, ReplicaPhase.PENDING: 1}
    stage.kernel.run(until=9.9)
    assert not stage.fleet.engines_of(KEY)
    stage.kernel.run(until=10.0)
    assert len(stage.fleet.engines_of(KEY)) == 4
    ready = stage.fleet.variants[name].replicas[0].name
    stage.apply(4, variant=name, doomed=[ready])
    stage.kernel.run(until=15.0)  # drained: the one that waited gets its GPU
    assert stage.phases() == {ReplicaPhase.READY: 3, ReplicaPhase.STARTING: 1}
    assert stage.held == 4


def test_gpus_of_one_replica_are_on_one_node() -> None:
    stage = Stage()
    stage.apply(1)
    name = stage.apply(2, tensor=2)
    replicas = stage.fleet.variants[name].replicas
    assert [len({gpu.node for gpu in replica.gpus}) for replica in replicas] == [1, 0]
    assert [replica.phase for replica in replicas] == [ReplicaPhase.STARTING, ReplicaPhase.PENDING]


def begin_request(stage: Stage, tokens: int) -> None:
    (engine,) = stage.fleet.engines_of(KEY)
    stage.fleet.catch_up(engine)
    engine.engine.submit(10, tokens, stage.kernel.now)
    stage.fleet.arm(engine)


def test_a_draining_replica_ends_its_requests_and_holds_its_gpu_until_then() -> None:
    stage = Stage()
    name = stage.apply(1)
    stage.kernel.run(until=10.0)
    begin_request(stage, 3000)
    stage.apply(0, variant=name)
    assert not stage.fleet.engines_of(KEY)
    assert stage.held == 1
    stage.kernel.run(until=70.0)
    (ended,) = [sequence for report in stage.reports for sequence in report.ended]
    assert ended.generated == 3000
    assert stage.held == 0
    assert not stage.fleet.variants


def test_beyond_the_drain_limit_requests_are_cut_off() -> None:
    stage = Stage(drain_seconds=6.0)
    name = stage.apply(1)
    stage.kernel.run(until=10.0)
    begin_request(stage, 10_000)
    stage.apply(0, variant=name)
    stage.kernel.run(until=100.0)
    assert stage.held == 0
    assert not [sequence for report in stage.reports for sequence in report.ended]


def test_gpu_seconds_count_from_binding_to_release() -> None:
    stage = Stage()
    name = stage.apply(2)
    stage.kernel.run(until=30.0)
    stage.apply(1, variant=name)
    stage.kernel.run(until=100.0)
    assert stage.fleet.gpu_seconds_now() == {"h100": 100 + 35}


def test_a_clock_slows_the_replica_that_holds_the_gpu() -> None:
    stage = Stage()
    name = stage.apply(2)
    stage.fleet.set_clock(stage.fleet.gpus[0], 0.5)
    ratios = [r.engines[0].engine.speed.clock_ratio for r in stage.fleet.variants[name].replicas]
    assert sorted(ratios) == [1.0, 2.0]
    observed = stage.fleet.observe(KEY, {"h100": 2000.0})[0].replicas
    assert sorted(replica.clock_mhz or 0.0 for replica in observed) == [1000.0, 2000.0]


def two_engines(first: float, second: float) -> list[SimEngine]:
    engines = [SimEngine(KEY, Engine(TRUTH.steps, EngineLimits(10_000, 10_000, 10**6)), TRUTH) for _ in range(2)]
    engines[0].weight, engines[1].weight = first, second
    return engines


def test_the_router_follows_weights() -> None:
    """Envoy's schedule: by weight while nobody has requests, by its root while all of them pile up."""
    idle, router = two_engines(1.0, 3.0), LeastRequest("1")
    assert Counter(idle.index(router.pick(idle)) for _ in range(400)) == {0: 100, 1: 300}
    busy, router = two_engines(1.0, 3.0), LeastRequest("1")
    for _ in range(400):
        router.pick(busy).engine.submit(1, 1000, 0.0)
    assert busy[1].active / busy[0].active == pytest.approx(3**0.5, rel=0.02)


def test_with_equal_weights_the_emptier_of_two_draws_is_taken() -> None:
    engines, router = two_engines(2.0, 2.0), LeastRequest("1")
    engines[0].engine.submit(1, 1000, 0.0)
    picks = Counter(engines.index(router.pick(engines)) for _ in range(4000))
    assert picks[1] / 4000 == pytest.approx(3 / 4, abs=0.03)  # both draws may meet the same engine


def test_round_robin_takes_turns() -> None:
    engines, router = two_engines(1.0, 3.0), RoundRobin()
    assert [engines.index(router.pick(engines)) for _ in range(4)] == [0, 1, 0, 1]


# whole plays


def test_the_same_seed_gives_the_same_play() -> None:
    service = documents((60, 3), (60, 6))
    first, again, other = (play(service, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_constant_load_moves_nothing_and_is_within_the_slo() -> None:
    result = play(documents((600, 8)))
    assert result.moves == ()
    assert result.attainment > 0.97
    assert result.gpu_hours == pytest.approx(3 * 600 / 3600)


def test_a_step_is_met_in_one_jump_and_given_back() -> None:
    result = play(documents((120, 3), (240, 9), (240, 3)), settle_seconds=60)
    (service,) = result.services
    growths = [move for move in result.moves if move.at < 360]
    assert 120 <= growths[0].at <= 130
    assert growths[0].after.startswith("3x")
    assert result.moves[-1].at > 360
    assert service.lost == 0
    assert service.sent == service.answered + service.refused + service.lost
    assert service.attainment_outside_steps > 0.95
    assert service.attainment > service.ceiling - 0.05
    assert result.most_gpus <= 8


def test_heat_changes_the_plan_of_the_one_that_waits_for_its_gpu() -> None:
    scenario = load_scenario("heat")
    rates = {"documents": 9.0, "small": 60.0}
    shorter = tuple(replace(service, schedule=((240, rates[service.name]),)) for service in scenario.services)
    sooner = tuple(replace(heat, at=120.0) for heat in scenario.heat)
    result = run(replace(scenario, services=shorter, heat=sooner), PROFILES)
    assert {move.service for move in result.moves} == {"documents"}
    assert all(120 <= move.at <= 135 for move in result.moves)
    assert result.lost == 0


def test_engines_may_be_slower_than_the_planner_was_told() -> None:
    slower = [
        replace(
            profile,
            rows=tuple(
                replace(row, steps=replace(row.steps, beta_ms_per_token=2 * row.steps.beta_ms_per_token))  # type: ignore[type-var,union-attr]
                for row in profile.rows
            ),
        )
        for profile in PROFILES
    ]
    scenario = Scenario("test", (H100,), (documents((120, 3)),), startup_seconds=20)
    assert run(scenario, PROFILES, slower).attainment < run(scenario, PROFILES).attainment


def test_the_ceiling_counts_what_arrives_before_newcomers_serve() -> None:
    service = documents((100, 10), (100, 60), (100, 10))
    assert reactive_ceiling(service, 10.0) == pytest.approx(1 - 600 / 8000)
    assert [is_settling(service, at, 60.0) for at in (50, 100, 159, 160, 210)] == [False, True, True, False, True]


# scenarios


@pytest.mark.parametrize("name", shipped_scenarios())
def test_shipped_scenarios_load(name: str) -> None:
    assert load_scenario(name).name == name


GOOD = {
    "pools": [{"name": "a", "accelerator": "NVIDIA-L40S", "gpus": 1}],
    "services": [{"name": "s", "model": "m", "objective": {"ttft_ms": 100}, "schedule": [[10, 1]]}],
}


def traffic(**given: object) -> dict[str, object]:
    """The good scenario's service with other traffic."""
    plain = {key: value for key, value in GOOD["services"][0].items() if key != "schedule"}
    return {"services": [plain | {"traffic": given}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pools": []}, "at least one pool"),
        ({"services": 3}, "services: expected a list"),
        ({"speed": 3}, "unknown speed"),
        ({"pools": [{"name": "a"}]}, "accelerator, gpus missing"),
        ({"pools": GOOD["pools"] * 2}, "names must differ"),
        ({"services": [GOOD["services"][0] | {"schedule": [[10]]}]}, "schedule: expected"),
        ({"services": [GOOD["services"][0] | {"schedule": [[-1, 1]]}]}, "seconds are positive"),
        ({"services": [GOOD["services"][0] | {"objective": {}}]}, "ttft_ms or itl_ms"),
        ({"services": [GOOD["services"][0] | {"pools": ["b"]}]}, "unknown b"),
        ({"heat": [{"at": 1, "pool": "a", "gpu": 1, "ratio": 0.5}]}, "Heat at 1 s: no such GPU; a has 0 to 0"),
        ({"heat": [{"at": 1, "pool": "b", "gpu": 0, "ratio": 0.5}]}, "no such pool; there are a"),
        ({"heat": [{"at": 5, "pool": "a", "gpu": 0, "ratio": 0.5, "until": 5}]}, "ends after it has begun"),
        ({"gpu_loss": [{"at": 1, "pool": "a", "gpu": 9}]}, "GPULoss at 1 s: no such GPU"),
        ({"node_loss": [{"at": 1, "pool": "a", "node": 1}]}, "no such node; a has 0 to 0"),
        ({"absence": [{"at": 1}]}, r"absence\[0\]: until missing"),
        ({"startup_second": 3}, "unknown startup_second; did you mean startup_seconds?"),
        ({"startup_seconds": "soon"}, "startup_seconds: expected a number, not 'soon'"),
        ({"startup_seconds": -1}, "startup_seconds: must be positive"),
        ({"seed": 1.5}, "seed: expected a whole number, not 1.5"),
        ({"routing": "magic"}, "routing: 'magic' is none of door, least-request, round-robin"),
        ({"pools": [GOOD["pools"][0] | {"gpus": True}]}, r"pools\[0\].gpus: expected a whole number, not True"),
        ({"pools": [GOOD["pools"][0] | {"link": "Wire"}]}, r"pools\[0\].link: 'Wire' is none of NVLink, PCIe, None"),
        (traffic(kind="tidal"), r"traffic.kind: 'tidal' is none of constant, bursts, diurnal, flash-crowd, trace"),
        (traffic(kind="constant", seconds=9), r"services\[0\].traffic: rate missing"),
        (traffic(kind="constant", seconds=9, rate="x"), "traffic.rate: expected a number, not 'x'"),
        (traffic(kind="constant", seconds=9, rate=1, hight=2), "unknown hight; known are"),
        (traffic(kind="constant", seconds=0, rate=1), "seconds and period are positive"),
        (traffic(kind="flash-crowd", seconds=9, low=1, high=2, at=1), "add up to 441 s, more than seconds"),
        (traffic(kind="trace", file="nowhere.jsonl"), "traffic.file: .*nowhere.jsonl"),
        (
            {"services": [GOOD["services"][0] | {"lengths": {"shape": "long"}}]},
            "'long' is none of gamma, logn",
        ),
        ({"services": [GOOD["services"][0] | {"wander": 1}]}, "wander is from 0 to below 1"),
    ],
)
def test_bad_scenarios_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        read_scenario(GOOD | change, name="bad")


def test_a_schedule_and_traffic_together_are_refused() -> None:
    both = GOOD["services"][0] | {"traffic": {"kind": "constant", "seconds": 9, "rate": 1}}
    assert read_scenario(GOOD | traffic(kind="bursts", seconds=9, rate=1), name="s").services[0].burst_cv == 3
    with pytest.raises(ScenarioError, match="schedule"):
        read_scenario(GOOD | {"services": [both]}, name="s")


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    simulate.register(parser.add_subparsers())
    arguments = parser.parse_args(["simulate", *words])
    return int(arguments.run(arguments))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.yaml"
    path.write_text(
        "startup_seconds: 10\n"
        "pools: [{name: l40s, accelerator: NVIDIA-L40S, gpus: 2, memory_gib: 48, max_clock_mhz: 2520}]\n"
        "services:\n- {name: chat, model: Qwen/Qwen2.5-7B-Instruct, objective: {itl_ms: 80}, schedule: [[30, 2]]}\n"
    )
    assert run_command("--scenario", str(path), "-o", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["requests"] > 30
    assert printed["lost"] == 0
    assert run_command("--scenario", str(path), "--seed", "3") == 0
    assert "GPU-hours" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--scenario", "nowhere.yaml"), ("--scenario", "step", "--profiles", "/nowhere")])
def test_the_command_says_what_is_wrong(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(*words) == 1
    assert "shoal simulate: " in capsys.readouterr().err
