"""Steps: new before old, never more GPUs than there are, nothing that serves given up for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_world import (
    L40S,
    NOW,
    Fleet,
    decide_one,
    make_load,
    make_pool,
    make_profile,
    make_replica,
    make_row,
    make_service,
    make_variant,
    place,
    snapshot,
)

from shoal.domain.plan import Hold, Infeasible, Scale
from shoal.domain.pool import ClaimKind
from shoal.domain.reasons import Binding
from shoal.domain.service import (
    Limits,
    ManualPlan,
    Memory,
    Mode,
    Objective,
    PlacedReplicas,
    ReplicaPhase,
    RunningVariant,
)

PROFILES = [make_profile([make_row(10), make_row(18.5, tp=2)]), make_profile([make_row(5)], L40S, name="q")]
ONE = make_profile([make_row(10)])


def target(placement, count, **more):
    return Memory((PlacedReplicas(placement, count),), last_move_at=NOW - 20, traffic_seen=True, **more)


def steps(decision):
    return {step.variant or str(step.placement): step.replicas for step in decision.steps}


def moving(old, new_count, *, rate, gpus, new=None, memory=None, **service):
    """A service whose old variants shall become `new_count` replicas of TP1 in h100."""
    running = (*old, *((new,) if new else ()))
    return decide_one(
        make_service(
            running=running,
            load=make_load(rate),
            memory=memory or target(place(), new_count),
            objective=Objective(95, 500),
            **service,
        ),
        [make_pool(gpus=gpus)],
        [ONE],
    )


def old_variant(count, **more):
    return make_variant(place(), count, "old", outdated=True, **more)


def new_variant(count, phase=ReplicaPhase.READY, **more):
    return make_variant(place(), count, "new", phase, **more)


class TestReplacing:
    """Four old replicas, capacity 9 each, become four new ones."""

    def test_new_ones_come_first_when_there_is_room(self):
        assert steps(moving([old_variant(4)], 4, rate=34, gpus=8)) == {"old": 4, "h100 TP1": 4}

    def test_old_ones_stay_until_the_new_ones_serve(self):
        decision = moving([old_variant(4)], 4, rate=34, gpus=8, new=new_variant(4, ReplicaPhase.STARTING))
        assert steps(decision) == {"old": 4, "new": 4}

    def test_then_they_go(self):
        assert steps(moving([old_variant(4)], 4, rate=34, gpus=8, new=new_variant(4))) == {"old": 0, "new": 4}

    def test_and_are_left_out_when_they_are_gone(self):
        gone = RunningVariant("old", place(), 0, (), outdated=True)
        assert steps(moving([gone], 4, rate=34, gpus=8, new=new_variant(4))) == {"new": 4}

    def test_a_draining_pod_keeps_its_variant(self):
        draining = RunningVariant("old", place(), 0, (make_replica("x", ReplicaPhase.DRAINING),), outdated=True)
        assert steps(moving([draining], 4, rate=34, gpus=8, new=new_variant(4))) == {"old": 0, "new": 4}

    def test_with_little_room_in_parts(self):
        assert steps(moving([old_variant(4)], 4, rate=34, gpus=6)) == {"old": 4, "h100 TP1": 2}
        half = moving([old_variant(4)], 4, rate=34, gpus=6, new=new_variant(2))
        assert steps(half) == {"old": 2, "new": 2}

    def test_in_place_one_at_a_time_when_nothing_is_free_and_the_rest_carries_the_load(self):
        assert steps(moving([old_variant(4)], 4, rate=20, gpus=4, memory=target(place(), 4))) == {"old": 3}
        leaving = make_variant(place(), 4, "old", outdated=True, desired=3)
        assert steps(moving([leaving], 4, rate=20, gpus=4)) == {"old": 3}  # waits for the pod to be gone
        gone = old_variant(3)
        assert steps(moving([gone], 4, rate=20, gpus=4)) == {"old": 3, "h100 TP1": 1}
        starting = moving([gone], 4, rate=20, gpus=4, new=new_variant(1, ReplicaPhase.STARTING))
        assert steps(starting) == {"old": 3, "new": 1}

    def test_not_when_the_load_would_be_missed(self):
        decision = moving([old_variant(4)], 4, rate=34, gpus=4)
        assert steps(decision) == {"old": 4}
        assert "no GPU is free" in decision.explanation.message

    def test_nor_below_the_floor(self):
        decision = moving([old_variant(2)], 2, rate=1, gpus=2, limits=Limits(2))
        assert steps(decision) == {"old": 2}
        assert "minReplicas 2" in decision.explanation.message

    def test_old_ones_that_never_served_make_room_at_once(self):
        broken = make_variant(place(), 1, "old", ReplicaPhase.STARTING, outdated=True)
        assert steps(moving([broken], 1, rate=5, gpus=1)) == {"old": 0}

    def test_old_ones_without_a_gpu_go_at_once(self):
        pending = make_variant(place(), 3, "old", ReplicaPhase.PENDING, outdated=True)
        decision = moving([pending], 3, rate=20, gpus=3)
        assert steps(decision)["old"] == 0

    def test_limits_count_both_variants(self):
        decision = moving([old_variant(3)], 3, rate=25, gpus=8, limits=Limits(1, 4))
        assert steps(decision) == {"old": 3, "h100 TP1": 1}


class TestScalingIn:
    def test_hot_idle_and_newest_go_first_after_those_that_do_not_serve(self):
        profile = replace(ONE, clock_mhz=2000.0)
        pods = (
            make_replica("busy", created=1, queue_seconds=0.3),
            make_replica("idle", created=2, queue_seconds=0.0),
            make_replica("newer", created=3, queue_seconds=0.0),
            make_replica("hot", created=1, queue_seconds=0.4, clock_mhz=1400.0),
            make_replica("starting", ReplicaPhase.STARTING, created=1),
            make_replica("pending", ReplicaPhase.PENDING, created=1),
            make_replica("leaving", ReplicaPhase.DRAINING, created=1),
        )
        variant = RunningVariant("v", place(), 6, pods)
        memory = replace(target(place(), 6), last_move_at=NOW - 999)
        service = make_service(running=(variant,), load=make_load(2), memory=memory, objective=Objective(95, 500))
        decision = decide_one(service, [make_pool()], [profile])
        assert decision.steps[0].replicas == 1
        assert decision.steps[0].doomed == ("pending", "starting", "hot", "newer", "idle")

    def test_room_for_an_engine_over_two_gpus_is_made_on_one_node(self):
        """Seven TP1 on two nodes of four: the free GPU helps only beside another one of the same node."""
        pods = tuple(make_replica(f"r{i}", created=float(i), node=f"h100-{int(i in (0, 1, 2))}") for i in range(7))
        variant = RunningVariant("v", place(), 7, pods)
        service = make_service(
            running=(variant,), load=make_load(50), memory=target(place(tp=2), 3), objective=Objective(95, 500)
        )
        profile = make_profile([make_row(10), make_row(25, tp=2)])
        decision = decide_one(service, [make_pool(gpus=8, per_node=4)], [profile])
        step = next(step for step in decision.steps if step.variant == "v")
        assert step.replicas == 6
        assert step.doomed == ("r2",)

    def test_a_pending_replica_does_not_hold_it_up(self):
        pods = tuple(make_replica(f"r{i}") for i in range(2)) + tuple(
            make_replica(f"p{i}", ReplicaPhase.PENDING) for i in range(3)
        )
        variant = RunningVariant("v", place(), 5, pods)
        memory = replace(target(place(), 5), last_move_at=NOW - 999)
        service = make_service(running=(variant,), load=make_load(20), memory=memory, objective=Objective(95, 500))
        decision = decide_one(service, [make_pool(gpus=2, max_gpus=8)], [ONE])
        assert decision.steps[0].replicas == 3
        assert decision.steps[0].doomed == ("p0", "p1")

    def test_a_lowered_limit_takes_away_at_once(self):
        service = make_service(
            running=(make_variant(place(), 6),), load=make_load(50), memory=target(place(), 6), limits=Limits(1, 4)
        )
        decision = decide_one(service, [make_pool()], [ONE])
        assert isinstance(decision, Infeasible)
        assert steps(decision) == {"v": 4}


class TestDrainingHoldsItsGpu:
    def test_growth_waits_for_the_gpu_of_a_draining_pod(self):
        pods = (make_replica("a"), make_replica("b", ReplicaPhase.DRAINING))
        service = make_service(
            running=(RunningVariant("v", place(), 1, pods),),
            load=make_load(17),
            memory=target(place(), 1),
            objective=Objective(95, 500),
        )
        assert steps(decide_one(service, [make_pool(gpus=2)], [ONE])) == {"v": 1}
        assert steps(decide_one(service, [make_pool(gpus=3)], [ONE])) == {"v": 2}


def test_observe_changes_nothing_and_still_decides():
    service = make_service(running=(make_variant(place(), 1),), load=make_load(60), mode=Mode.OBSERVE)
    decision = decide_one(service, [make_pool()], [ONE])
    assert decision.plan.replicas == 7
    assert steps(decision) == {"v": 1}


class TestManual:
    def decide(self, manual, running=(), gpus=8, **service):
        fields = {"mode": Mode.MANUAL, "manual": manual, "pools": ("h100", "l40s"), "running": running}
        pools = [make_pool(gpus=gpus), make_pool("l40s", L40S, price=1.0, memory=48, claim=ClaimKind.EXTENDED)]
        return decide_one(make_service(**{**fields, **service}), pools, PROFILES)

    def test_replicas_alone(self):
        decision = self.decide(ManualPlan(3))
        assert decision.plan.summary == "3xTP1"
        assert decision.plan.binding is Binding.MANUAL

    def test_everything_given(self):
        decision = self.decide(ManualPlan(2, "h100", 2, 1))
        assert steps(decision) == {"h100 TP2": 2}

    def test_something_nobody_measured(self):
        assert self.decide(ManualPlan(1, "h100", 4, 1)).plan.summary == "1xTP4"

    def test_what_is_left_open_stays_as_it_runs(self):
        running = (make_variant(place(), 2),)
        assert steps(self.decide(ManualPlan(5), running)) == {"v": 5}

    @pytest.mark.parametrize(("gpus", "limit", "binding"), [(2, None, Binding.STOCK), (8, 3, Binding.LIMIT)])
    def test_within_the_limits(self, gpus, limit, binding):
        decision = self.decide(ManualPlan(5, "h100"), gpus=gpus, limits=Limits(1, limit))
        assert decision.binding is binding
        assert decision.plan.gpus == min(gpus, limit or 8)
        assert decision.explanation.message.startswith("needs 5 ")

    def test_zero_stops_the_service(self):
        decision = self.decide(ManualPlan(0), (make_variant(place(), 2),))
        assert isinstance(decision, Scale)
        assert steps(decision) == {"v": 0}

    def test_an_objective_out_of_reach_refuses_nothing(self):
        assert self.decide(ManualPlan(2, "h100"), objective=Objective(95, 1, 0.5)).plan.replicas == 2


def test_nothing_to_plan_leaves_what_runs_alone():
    service = make_service(pools=("gone",), running=(make_variant(place("gone"), 3),), load=make_load(20))
    decision = decide_one(service, [make_pool()], [ONE])
    assert decision.binding is Binding.POOL
    assert steps(decision) == {"v": 3}
    assert decision.moved is False


def test_a_hold_goes_on_with_a_move_under_way_and_replaces_the_dead():
    variant = make_variant(place(), 1)
    service = make_service(running=(variant,), memory=target(place(), 3))
    decision = decide_one(service, [make_pool()], [ONE])
    assert isinstance(decision, Hold)
    assert steps(decision) == {"v": 3}


@pytest.mark.parametrize("gpus", [4, 5, 8])
def test_a_whole_move_to_another_shape_converges_and_never_misses_the_load(gpus):
    """From four TP1 to two TP2 on a pool that may be full, with the load carried at every tick."""
    rate = 16.0
    service = make_service(
        running=(make_variant(place(), 4, "old"),), load=make_load(rate), memory=target(place(tp=2), 2)
    )
    pool = make_pool(gpus=gpus)
    bound = tuple(replace(r, node="h100-0") for r in service.running[0].replicas)
    service = replace(service, running=(replace(service.running[0], replicas=bound),))
    profile = make_profile([make_row(10), make_row(30, tp=2)])
    fleet = Fleet(snapshot([service], [pool], [profile]), startup=20.0)
    for _ in range(60):
        fleet.tick()
        assert fleet.held()["h100"] <= gpus
        ready = sum(
            v.ready * (9 if v.placement.configuration.tensor_parallel == 1 else 27)
            for v in fleet.service("chat").running
        )
        assert ready >= rate
    assert [(v.placement.configuration.shape, v.ready) for v in fleet.service("chat").running] == [("TP2", 2)] or (
        fleet.decision("chat").plan.summary in {"1xTP2", "2xTP2"}
    )
