"""Reports to make statuses from: one service that runs as planned, and ways to change it."""

from __future__ import annotations

import dataclasses
from typing import Any

from render_cases import load_recipe

from shoal.api.model_service import ModelService
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import (
    Capacity,
    Decision,
    Demand,
    Explanation,
    FrontierPoint,
    Plan,
    PlannedVariant,
    Prediction,
    RejectedOption,
    Scale,
    Step,
)
from shoal.domain.profile import LengthMix, ModelFacts
from shoal.domain.reasons import Binding, ProfileState, Rejection
from shoal.domain.service import (
    EngineFacts,
    Limits,
    Load,
    Memory,
    Objective,
    PlacedReplicas,
    Replica,
    ReplicaPhase,
    RunningVariant,
    Service,
    ServiceKey,
    Workload,
)
from shoal.render.report import Report

NOW = 1_800_000_000.0
CONFIGURATION = Configuration("NVIDIA-H100-80GB-HBM3")
PLACEMENT = Placement("h100", CONFIGURATION)
NAME = "chat-0a1b2c3d"
MIX = LengthMix(200, 100, 600, 300)
CAPACITY = Capacity(
    rate=12.5,
    overload_rate=14.0,
    ttft_ms=310.4567,
    itl_ms=28.9,
    margin=0.9,
    source=ProfileState.MEASURED,
    profile="team-a/qwen",
    limit="ITL",
)
OTHER = Placement("l40s", Configuration("NVIDIA-L40S", tensor_parallel=2))


def make_plan(replicas: int = 2, binding: Binding = Binding.DEMAND, placement: Placement = PLACEMENT) -> Plan:
    variants = (PlannedVariant(placement, replicas, CAPACITY),) if replicas else ()
    return Plan(variants, Prediction(280.0, 25.0, 0.8), 3.1 * replicas, binding)


def make_explanation(**changes: Any) -> Explanation:
    base = Explanation(
        demand=Demand(20.0, 21.0, 0.5, 0.0, 60.0, observed=True),
        profile=ProfileState.MEASURED,
        frontier=(FrontierPoint(PLACEMENT, CAPACITY, 12.5, 68.9),),
        rejected=(RejectedOption(OTHER, Rejection.COSTLIER, "4.80 instead of 3.10 per hour"),),
        message="20 req/s need 2 replicas of 12.5 req/s",
    )
    return dataclasses.replace(base, **changes)


def make_decision(plan: Plan, explanation: Explanation | None = None) -> Decision:
    steps = tuple(Step(v.placement, v.replicas, NAME) for v in plan.variants)
    return Scale(ServiceKey("team-a", "chat"), plan, steps, explanation or make_explanation(), moved=False)


def make_replica(number: int, phase: ReplicaPhase = ReplicaPhase.READY, **changes: Any) -> Replica:
    base = Replica(
        name=f"{NAME}-{number}",
        phase=phase,
        created_at=NOW - 600,
        node=f"node-{number}",
        gpus=(f"GPU-{number:08d}",),
        clock_mhz=1900.0,
        queue_seconds=0.0,
        ready_engines=1 if phase is ReplicaPhase.READY else 0,
    )
    return dataclasses.replace(base, **changes)


def make_running(ready: int = 2, starting: int = 0, *, outdated: bool = False, name: str = NAME) -> RunningVariant:
    replicas = [make_replica(number) for number in range(ready)]
    replicas += [make_replica(number, ReplicaPhase.STARTING) for number in range(ready, ready + starting)]
    return RunningVariant(name, PLACEMENT, ready + starting, tuple(replicas), outdated)


def make_service(*running: RunningVariant, **changes: Any) -> Service:
    base = Service(
        key=ServiceKey("team-a", "chat"),
        uid="6a1f3a0e-0000-4000-8000-000000000001",
        generation=1,
        created_at=NOW - 3600,
        model="Qwen/Qwen2.5-7B-Instruct",
        facts=ModelFacts(7.6e9, 15.2e9, 57344, 32768),
        max_context_tokens=8192,
        objective=Objective(95, 500, 40),
        workload=Workload(40.0, MIX),
        engine=EngineFacts("default", "0.30.1"),
        pools=("h100", "l40s"),
        limits=Limits(min_replicas=2),
        running=running or (make_running(),),
        load=Load(fresh_fraction=1.0, lengths=MIX, ttft_mean_ms=210.0, itl_mean_ms=24.0),
    )
    return dataclasses.replace(base, **changes)


def make_resource(**changes: Any) -> ModelService:
    resource = load_recipe("simple").service
    return resource.model_copy(update={"metadata": resource.metadata.model_copy(update=changes)})


def make_report(**changes: Any) -> Report:
    """Two replicas planned, running and fast enough."""
    plan = make_plan()
    base = Report(
        resource=make_resource(),
        now=NOW,
        service=make_service(),
        decision=make_decision(plan),
        memory=Memory(target=(PlacedReplicas(PLACEMENT, 2),), last_move_at=NOW - 300, traffic_seen=True),
        names={PLACEMENT: NAME, OTHER: "chat-4e5f6a7b"},
    )
    return dataclasses.replace(base, **changes)


if __name__ == "__main__":
    from render_cases import GOLDEN, dump

    from shoal.render.status import make_status

    (GOLDEN / "status.yaml").write_text(dump([make_status(None, make_report())]))
