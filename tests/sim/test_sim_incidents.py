"""What happens to a fleet: heat that ends, GPUs and nodes lost and found, starts that fail, nobody who decides."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import Step
from shoal.domain.service import Objective, ReplicaPhase, ServiceKey
from shoal.render.envoy import make_resources
from shoal.sim.door import RETRIES, USUAL_WAIT, Door, SimRequest
from shoal.sim.engine import Engine, EngineLimits
from shoal.sim.fleet import Fleet, Startup
from shoal.sim.fleet_parts import SimEngine, SimGPU, SimReplica
from shoal.sim.incidents import Absence, FailingStarts, GPULoss, Heat, NodeLoss
from shoal.sim.kernel import Kernel
from shoal.sim.policies.parse import make_policy
from shoal.sim.profile_files import read_profiles
from shoal.sim.result import Result
from shoal.sim.scenario import PoolSpec, Routing, Scenario, ServiceSpec
from shoal.sim.truth import Truth
from shoal.sim.world import World, run

PROFILES = read_profiles(Path(__file__).parents[2] / "profiles" / "simulated")
KEY = ServiceKey("sim", "chat")
ROW = PROFILES[0].rows[0]
assert ROW.steps is not None
TRUTH = Truth(ROW.steps, EngineLimits(4, 512, 1000, max_waiting=1), 4096, ROW.lengths, None, "0", "test")
PLACEMENT = Placement("h100", Configuration("NVIDIA-H100-80GB-HBM3"))


class Stage:
    """A fleet of four GPUs on two nodes."""

    def __init__(self, *, failing_attempts: int = 0) -> None:
        self.kernel = Kernel()
        self.gpus = [SimGPU(f"GPU-{n}", f"node-{n // 2}", "h100") for n in range(4)]
        self.fleet = Fleet(
            self.kernel,
            self.gpus,
            make_engine=lambda key, placement: SimEngine(key, Engine(TRUTH.steps, TRUTH.limits), TRUTH),
            make_startup=lambda replica, attempt: self.startup(replica, attempt, failing_attempts),
            on_reports=lambda engine, reports: None,
            drain_seconds=60.0,
        )

    @staticmethod
    def startup(replica: SimReplica, attempt: int, failing: int) -> Startup:
        return Startup(10.0, fails=attempt < failing)

    def scale(self, replicas: int) -> None:
        variant = next(iter(self.fleet.variants), None)
        self.fleet.apply(KEY, [Step(PLACEMENT, replicas, variant)])

    @property
    def phases(self) -> Counter[ReplicaPhase]:
        return Counter(r.phase for v in self.fleet.variants.values() for r in v.replicas)

    def door(self, routing: Routing = Routing.DOOR, ttft_ms: float | None = 500) -> Door:
        return Door(self.kernel, self.fleet, KEY, routing=routing, ttft_ms=ttft_ms, seed=1)


def test_a_lost_gpu_ends_its_requests_and_its_pod_is_replaced() -> None:
    stage = Stage()
    stage.scale(2)
    stage.kernel.run(until=10)
    requests = [SimRequest(10.0, 10, 500) for _ in range(6)]
    for request in requests:
        stage.door().send(request)
    lost_on = sum(engine.active for engine in stage.fleet.engines_of(KEY) if engine is stage.fleet.engines_of(KEY)[0])
    stage.fleet.lose([stage.gpus[0]])
    assert len(stage.fleet.engines_of(KEY)) == 1
    assert sum(request.lost for request in requests) == lost_on > 0
    stage.kernel.run(until=10)
    assert stage.phases == {ReplicaPhase.READY: 1, ReplicaPhase.STARTING: 1}
    stage.kernel.run(until=100)
    assert sum(request.answered for request in requests) == 6 - lost_on
    assert len(stage.fleet.engines_of(KEY)) == 2


def test_without_a_spare_a_pod_waits_until_the_gpu_returns() -> None:
    stage = Stage()
    stage.scale(4)
    stage.kernel.run(until=20)
    stage.fleet.lose(stage.gpus[:1])
    stage.kernel.run(until=50)
    assert stage.phases == {ReplicaPhase.READY: 3, ReplicaPhase.PENDING: 1}
    stage.fleet.give_back(stage.gpus[:1])
    assert stage.phases == {ReplicaPhase.READY: 3, ReplicaPhase.STARTING: 1}
    stage.kernel.run(until=61)
    assert stage.phases == {ReplicaPhase.READY: 4}


def test_a_silent_node_is_noticed_late() -> None:
    stage = Stage()
    stage.scale(2)
    stage.kernel.run(until=10)
    stage.fleet.lose(stage.gpus[:2], noticed_after=40)
    assert not stage.fleet.engines_of(KEY)
    stage.kernel.run(until=49)
    assert stage.phases == {ReplicaPhase.READY: 2}  # as the API server would still say
    assert [replica.ready_engines for v in stage.fleet.observe(KEY, {"h100": 1.0}) for replica in v.replicas] == [0, 0]
    assert not any(gpu.missed for gpu in stage.gpus)
    stage.kernel.run(until=50)
    assert stage.phases == {ReplicaPhase.STARTING: 2}
    assert [gpu.missed for gpu in stage.gpus] == [True, True, False, False]


def test_a_draining_replica_whose_gpu_is_lost_goes() -> None:
    stage = Stage()
    stage.scale(1)
    stage.kernel.run(until=10)
    request = SimRequest(10.0, 10, 1000)
    stage.door().send(request)
    stage.scale(0)
    stage.fleet.lose(stage.gpus[:1])
    stage.kernel.run(until=20)
    assert request.lost
    assert not stage.fleet.variants


def test_a_start_that_fails_is_tried_again_after_a_pause_that_doubles() -> None:
    stage = Stage(failing_attempts=2)
    stage.scale(1)
    stage.kernel.run(until=59.9)  # 10 s, a pause of 10 s, 10 s, a pause of 20 s, and 10 s of the start that succeeds
    assert stage.phases == {ReplicaPhase.STARTING: 1}
    assert sum(gpu.held for gpu in stage.gpus) == 1
    stage.kernel.run(until=60)
    assert stage.phases == {ReplicaPhase.READY: 1}


def test_giving_up_a_replica_that_starts_frees_its_gpu() -> None:
    stage = Stage(failing_attempts=99)
    stage.scale(1)
    stage.kernel.run(until=15)
    stage.scale(0)
    stage.kernel.run(until=30)
    assert not any(gpu.held for gpu in stage.gpus)


# the door


def fill(stage: Stage, number: int) -> None:
    """Fill the queue of one engine: 4 run and 1 waits."""
    engine = stage.fleet.engines_of(KEY)[number]
    for _ in range(5):
        engine.engine.submit(10, 2000, stage.kernel.now)
    stage.fleet.arm(engine)


def ready_stage(replicas: int) -> Stage:
    stage = Stage()
    stage.scale(replicas)
    stage.kernel.run(until=10)
    return stage


def test_a_full_engine_is_left_for_another_one_within_the_objective() -> None:
    stage = ready_stage(2)
    fill(stage, 0)
    requests = [SimRequest(10.0, 10, 5) for _ in range(5)]
    door = stage.door()
    for request in requests:
        door.send(request)
    stage.kernel.run(until=30)
    assert all(request.answered for request in requests)
    assert max(request.tries for request in requests) > 1
    retried = next(request for request in requests if request.tries > 1)
    assert retried.sequence is not None
    assert retried.ttft_ms is not None
    assert retried.ttft_ms > (retried.sequence.first_token_at - retried.sequence.arrived_at) * 1000  # type: ignore[operator]


def test_when_all_are_full_it_answers_429_after_its_retries() -> None:
    stage = ready_stage(2)
    fill(stage, 0)
    fill(stage, 1)
    request = SimRequest(10.0, 10, 5)
    stage.door().send(request)
    stage.kernel.run(until=10.4)
    assert request.refused
    assert request.tries == RETRIES + 1


def test_without_time_for_a_retry_it_answers_429_at_once() -> None:
    stage = ready_stage(1)
    fill(stage, 0)
    request = SimRequest(10.0, 10, 5)
    stage.door(ttft_ms=1e-6).send(request)
    assert request.refused
    assert request.tries == 1


def test_round_robin_does_not_try_twice() -> None:
    stage = ready_stage(1)
    fill(stage, 0)
    request = SimRequest(10.0, 10, 5)
    stage.door(Routing.ROUND_ROBIN).send(request)
    assert request.refused


def test_where_nothing_serves_a_request_is_lost() -> None:
    request = SimRequest(0.0, 10, 5)
    Stage().door().send(request)
    assert request.lost
    assert not request.refused


def test_the_door_retries_as_the_router_is_configured() -> None:
    from shoal.render.envoy import ServiceRoute

    route = ServiceRoute(name="chat", ttft_ms=None, engines=())
    policy = make_resources("team", [route]).routes[0]["virtual_hosts"][0]["routes"][0]["route"]["retry_policy"]
    assert policy["num_retries"] == RETRIES
    assert policy["retry_back_off"] == {"base_interval": f"{USUAL_WAIT:.3f}s", "max_interval": f"{3 * USUAL_WAIT:.3f}s"}


# whole plays

H100 = PoolSpec("h100", "NVIDIA-H100-80GB-HBM3", gpus=4, per_node=2, price_per_gpu_hour=7.5)
CHAT = ServiceSpec(
    name="chat",
    model="Qwen/Qwen2.5-7B-Instruct",
    objective=Objective(95, ttft_ms=500, itl_ms=40),
    schedule=((200, 30),),
    declared_rate=30,
)


def play(policy: str = "shoal", **changes: object) -> Result:
    scenario = Scenario("test", (H100,), (CHAT,), startup_seconds=20)
    return run(replace(scenario, **changes), PROFILES, policy=make_policy(policy))  # type: ignore[arg-type]


def test_heat_ends() -> None:
    world = World(
        Scenario("test", (H100,), (CHAT,), heat=(Heat(20, "h100", 0, 0.5, until=60),)),
        PROFILES,
        PROFILES,
        make_policy("static:1"),
    )
    world.play()
    assert {gpu.ratio for gpu in world.fleet.gpus} == {1.0}


def test_loss_of_a_gpu_costs_the_requests_on_it_and_no_more() -> None:
    calm, hit = play("static:2"), play("static:2", gpu_loss=(GPULoss(60, "h100", 0, until=150),))
    assert calm.lost == 0
    assert 0 < hit.lost < 100
    assert hit.services[0].sent == calm.services[0].sent


def test_stock_shrinks_while_a_node_is_gone() -> None:
    result = play(node_loss=(NodeLoss(60, "h100", 0, noticed_after=10),))
    after = [sample for sample in result.timeline if sample.at > 100]
    assert max(sample.gpus for sample in after) <= 2
    assert after[-1].ready >= 1


def test_nobody_decides_while_the_operator_is_away() -> None:
    step = replace(CHAT, schedule=((60, 10), (240, 90)), declared_rate=10)
    result = play(services=(step,), absence=(Absence(50, 200),))
    assert not any(50 <= move.at < 200 for move in result.moves)
    assert any(200 <= move.at < 230 for move in result.moves)


def test_starts_fail_for_a_while() -> None:
    step = replace(CHAT, schedule=((60, 10), (240, 90)), declared_rate=10)
    fine, failing = play(services=(step,)), play(services=(step,), failing_starts=(FailingStarts(0, 150, "h100"),))
    assert failing.attainment < fine.attainment - 0.1
    assert failing.timeline[-1].ready == fine.timeline[-1].ready


def test_startups_spread() -> None:
    step = replace(CHAT, schedule=((20, 10), (100, 90)), declared_rate=10)
    assert play(services=(step,), startup_spread=0.5).timeline != play(services=(step,)).timeline
    assert play(services=(step,), startup_spread=0.5) == play(services=(step,), startup_spread=0.5)


@pytest.mark.parametrize("routing", list(Routing))
def test_every_routing_answers_everything_below_capacity(routing: Routing) -> None:
    result = play("static:2", routing=routing)
    assert result.services[0].answered == result.sent
