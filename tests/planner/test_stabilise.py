"""When the target moves: the law and its truth table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_world import (
    L40S,
    MIX,
    NOW,
    decide_one,
    make_load,
    make_pool,
    make_profile,
    make_replica,
    make_row,
    make_service,
    make_variant,
    place,
    shape,
    snapshot,
)
from stabilise_world import POOL, PROFILE, memory_of

from shoal.domain.plan import Hold, Scale
from shoal.domain.reasons import HoldReason, Rejection
from shoal.domain.service import Limits, Load, Memory, Objective, ReplicaPhase, Tick
from shoal.planner.decide import decide


def running_with(count, rate, **more):
    service = make_service(
        running=(make_variant(place(), count),),
        load=make_load(rate),
        memory=memory_of(count),
        objective=Objective(95, 500),
    )
    return replace(service, **more)


def starting(count):
    return (make_variant(place(), count, phase=ReplicaPhase.STARTING),)


def replicas(service, **brakes):
    return decide_one(service, [POOL], [PROFILE], **brakes).plan.replicas


def stuck(count, seconds=60.0):
    """So many replicas, the first of them with a queue that outlasts the start of a new one (90 s)."""
    variant = make_variant(place(), count)
    first = replace(variant.replicas[0], queue_seconds=seconds)
    return (replace(variant, replicas=(first, *variant.replicas[1:])),)


class TestTruthTable:
    """One row per line of the law, capacity 9 each, from n replicas."""

    @pytest.mark.parametrize(
        ("what", "n", "change", "after"),
        [
            ("demand met", 4, {"load": make_load(34)}, 4),
            ("forecast above capacity, but within its error", 4, {"load": make_load(37.2)}, 4),
            ("forecast above capacity: at once to what carries it", 4, {"load": make_load(46)}, 5),
            ("far above what they put through, so all will be stuck", 4, {"load": make_load(80)}, 12),
            ("none serves yet: none will be stuck", 4, {"load": make_load(80), "running": starting(4)}, 9),
            ("many replicas grow at least by the uncertainty", 20, {"load": make_load(186.5)}, 21),
            ("a lower rate that has lasted", 4, {"load": make_load(16)}, 2),
            ("a lower rate, but too little lower for its uncertainty", 4, {"load": make_load(26.5)}, 4),
            ("a lower rate that has not lasted", 4, {"load": make_load(16, ticks=20)}, 4),
            ("a move lately", 4, {"load": make_load(16), "memory": memory_of(4, NOW - 100)}, 4),
            ("no traffic at all, floor of one", 4, {"load": make_load(0)}, 1),
            ("no traffic at all, floor of three", 4, {"load": make_load(0), "limits": Limits(3)}, 3),
            ("a stuck replica: newcomers alone carry the rate", 2, {"load": make_load(16), "running": stuck(2)}, 3),
            (
                "a queue that is gone before a new replica is ready",
                2,
                {"load": make_load(16), "running": stuck(2, 2.0)},
                2,
            ),
            (
                "a short queue keeps others from being taken away",
                4,
                {"load": make_load(2), "running": stuck(4, 2.0)},
                4,
            ),
            ("a stuck replica keeps others from being taken away", 4, {"load": make_load(2), "running": stuck(4)}, 4),
        ],
    )
    def test_law(self, what, n, change, after):
        assert replicas(running_with(n, 10, **change)) == after, what

    @pytest.mark.parametrize(
        ("phase", "age", "after"),
        [
            (ReplicaPhase.STARTING, 10, 4),  # on its way: wait
            (ReplicaPhase.STARTING, 10_000, 2),  # broken: does not hold the others up
            (ReplicaPhase.PENDING, 10, 2),  # has no GPU: does not hold the others up
        ],
    )
    def test_what_is_on_its_way_holds_up_a_shrink(self, phase, age, after):
        variant = make_variant(place(), 3)
        variant = replace(variant, desired=4, replicas=(*variant.replicas, make_replica("new", phase, NOW - age)))
        assert replicas(running_with(4, 16, running=(variant,))) == after

    def test_the_shrink_window_is_a_setting(self):
        young = running_with(4, 13, load=make_load(13, ticks=8), memory=memory_of(4, NOW - 31))
        assert replicas(young) == 4
        assert replicas(young, shrink_after_seconds=30.0) == 2
        assert replicas(running_with(4, 16, memory=memory_of(4, NOW - 2000)), shrink_after_seconds=900.0) == 2

    def test_a_ramp_grows_for_the_moment_a_replica_would_be_ready(self):
        ramp = Load(tuple(Tick(110.0 + 1.0 * i) for i in range(60)), 5.0, 1.0, MIX)
        slow = running_with(4, 0, load=ramp)
        assert replicas(replace(slow, memory=memory_of(4, startup_p90_seconds=1.0))) == 4
        assert replicas(replace(slow, memory=memory_of(4, startup_p90_seconds=200.0))) == 5

    def test_a_large_step_is_one_move_whether_its_queue_is_seen_or_foreseen(self):
        """64 req/s on one of nine: seven carry it, eight while that one works off what has come in the meantime."""
        assert replicas(running_with(1, 64)) == 8
        first = replace(make_variant(place(), 1).replicas[0], queue_seconds=60.0)
        others = make_variant(place(), 7, "new", phase=ReplicaPhase.STARTING).replicas
        seen = make_variant(place(), 8, replicas=(first, *others))
        assert replicas(running_with(8, 64, running=(seen,))) == 8

    @pytest.mark.parametrize(("rate", "after"), [(62.5, 7), (64.0, 8)])
    def test_newcomers_may_be_nearly_saturated_before_more_are_added(self, rate, after):
        """One of seven is stuck: six put through 64.5, are sized for 61.3 and let be up to 63.2."""
        assert replicas(running_with(7, rate, running=stuck(7))) == after

    def test_an_objective_every_request_misses_does_not_grow_for_ever(self):
        service = running_with(2, 5, running=stuck(2))
        for _ in range(5):
            count = replicas(service)
            all_stuck = [replace(r, queue_seconds=9.0) for r in make_variant(place(), count).replicas]
            variant = replace(make_variant(place(), count), replicas=tuple(all_stuck))
            service = replace(service, running=(variant,), memory=memory_of(count))
        assert count <= 2


class TestMissing:
    """A missing observation is never zero."""

    @pytest.mark.parametrize(
        "load",
        [
            Load(),
            replace(make_load(1), fresh_fraction=0.5),
            replace(make_load(1), fresh_fraction=float("nan")),
            Load((Tick(0.0, complete=False),) * 60, 5.0, 1.0, MIX),
            Load((Tick(5.0),) * 40 + (Tick(0.0, complete=False),) * 20, 5.0, 1.0, MIX),
        ],
    )
    def test_nothing_is_taken_away(self, load):
        decision = decide_one(running_with(4, 0, load=load), [POOL], [PROFILE])
        assert isinstance(decision, Hold)
        assert decision.reason is HoldReason.METRICS_STALE
        assert decision.plan.replicas == sum(step.replicas for step in decision.steps) == 4

    def test_growth_uses_what_arrived_at_least(self):
        load = Load((Tick(50.0),) * 54 + (Tick(400.0, complete=False),) * 6, 5.0, 0.5, MIX)
        assert replicas(running_with(4, 0, load=load)) == 12

    def test_a_lost_memory_keeps_what_runs(self):
        service = running_with(4, 0, load=Load(), memory=Memory())
        decision = decide_one(service, [POOL], [PROFILE])
        assert isinstance(decision, Hold)
        assert decision.plan.replicas == 4

    def test_a_restart_waits_for_a_full_window_before_it_takes_away(self):
        lost = running_with(4, 16, memory=Memory())
        assert replicas(replace(lost, load=make_load(13, ticks=23))) == 4
        assert replicas(replace(lost, load=make_load(13, ticks=24))) == 2

    def test_the_declared_workload_counts_until_traffic_was_seen(self):
        quiet = make_load(0)
        never = running_with(4, 0, load=quiet, memory=replace(memory_of(4), traffic_seen=False))
        assert replicas(replace(never, workload=replace(never.workload, rate=36.0))) == 4
        assert replicas(replace(never, workload=replace(never.workload, rate=50.0))) == 6
        assert replicas(replace(never, workload=replace(never.workload, rate=50.0), memory=memory_of(4))) == 1


def test_an_estimate_adds_but_never_takes_away():
    service = running_with(4, 0, load=make_load(1))
    decision = decide_one(service, [POOL])
    assert decision.plan.replicas == 4
    assert "taken away" in decision.explanation.message
    assert decide_one(replace(service, load=make_load(300)), [POOL]).plan.replicas > 4


class TestMix:
    """A cheaper mix comes only when it is worth its move, in three successive plans, with none in flight."""

    pools = (make_pool(), make_pool("l40s", L40S, price=1.0, memory=48))
    profiles = (PROFILE, make_profile([make_row(5)], L40S, name="q"))

    def decide(self, since=None, cheap=1.0, **more):
        memory = replace(memory_of(2), mix_wanted_since=since)
        service = replace(running_with(2, 16, memory=memory, pools=("h100", "l40s")), **more)
        pools = (self.pools[0], replace(self.pools[1], price_per_gpu_hour=cheap))
        return decide_one(service, pools, self.profiles)

    def test_wanted_first(self):
        decision = self.decide()
        assert shape(decision) == {("h100", 1, 1): 2}
        assert decision.explanation.mix_wanted_since == NOW
        assert Rejection.MOVE_NOT_WORTH_IT in {r.reason for r in decision.explanation.rejected}

    def test_moved_in_the_third_plan(self):
        assert shape(self.decide(since=NOW - 5)) == {("h100", 1, 1): 2}
        assert shape(self.decide(since=NOW - 10)) == {("l40s", 1, 1): 4}

    def test_not_when_the_saving_is_small(self):
        decision = self.decide(since=NOW - 10, cheap=1.45)
        assert shape(decision) == {("h100", 1, 1): 2}
        assert decision.explanation.mix_wanted_since is None

    @pytest.mark.parametrize(
        "more",
        [
            {"load": replace(make_load(16), fresh_fraction=0.5)},
            {"running": (make_variant(place(), 2, desired=1),)},
            {"running": stuck(2)},
        ],
    )
    def test_not_while_blind_moving_or_stuck(self, more):
        """Beside stuck replicas it grows, by the cheapest type; it gives up none that it has."""
        assert shape(self.decide(since=NOW - 10, **more))["h100", 1, 1] >= 2

    def test_a_move_in_flight_is_named(self):
        moving = (make_variant(place(), 2), make_variant(place("l40s", L40S), 1, "w"))
        decision = self.decide(since=NOW - 10, running=moving)
        assert decision.reason is HoldReason.MOVE_IN_FLIGHT

    def test_not_twice_within_ten_minutes(self):
        memory = replace(memory_of(2), mix_wanted_since=NOW - 10, last_mix_change_at=NOW - 300)
        assert shape(self.decide(memory=memory)) == {("h100", 1, 1): 2}

    @pytest.mark.parametrize(("ago", "moved"), [(130, False), (1800, True), (None, True)])
    def test_only_when_the_last_move_lies_back_as_long_as_the_saving_needs(self, ago, moved):
        """Two H100 at 3 an hour become four L40S at 1: 2 saved an hour; four start and drain for 150 s, 0.17 in all."""
        memory = replace(memory_of(2), mix_wanted_since=NOW - 10, last_move_at=None if ago is None else NOW - ago)
        assert (("l40s", 1, 1) in shape(self.decide(memory=memory))) is moved

    def test_an_estimate_never_changes_type(self):
        service = running_with(2, 16, memory=replace(memory_of(2), mix_wanted_since=NOW - 10), pools=("h100", "l40s"))
        cheap = replace(self.pools[1], price_per_gpu_hour=0.01)
        assert set(shape(decide_one(service, (self.pools[0], cheap), [PROFILE]))) == {("h100", 1, 1)}

    def test_at_once_when_a_placement_may_no_longer_be_used(self):
        decision = self.decide(pools=("l40s",))
        assert shape(decision) == {("l40s", 1, 1): 4}


class TestBrakes:
    def test_a_pause_changes_nothing(self):
        for service, brakes in (
            (running_with(4, 90, paused=True), {}),
            (running_with(4, 1), {"paused": True}),
        ):
            decision = decide_one(service, [POOL], [PROFILE], **brakes)
            assert decision.reason is HoldReason.PAUSED
            assert [(step.variant, step.replicas) for step in decision.steps] == [("v", 4)]

    def test_the_limit_on_moves_holds_up_what_takes_away_and_not_what_grows(self):
        moving = running_with(4, 34, running=(make_variant(place(), 3, "m", desired=3),))
        moving = replace(moving, key=replace(moving.key, name="moving"))
        shrinking = running_with(4, 16)
        both = lambda second: decide(  # noqa: E731
            snapshot([moving, second], [POOL], [PROFILE], max_concurrent_moves=1)
        ).decisions[second.key]
        held = both(shrinking)
        assert held.reason is HoldReason.MOVES_LIMITED
        assert held.plan.replicas == 4
        assert isinstance(both(running_with(4, 90)), Scale)
        assert both(running_with(4, 90)).plan.replicas == 13


class TestLossOfCapacity:
    """How much of its capacity a service may give back in one decision."""

    @pytest.mark.parametrize(("n", "loss", "after"), [(10, 1.0, 2), (10, 0.5, 5), (10, 0.2, 8), (3, 0.1, 2)])
    def test_one_decision_gives_back_so_much_at_most_and_one_replica_in_any_case(self, n, loss, after):
        assert replicas(running_with(n, 13), max_capacity_loss=loss) == after

    def test_what_a_limit_takes_is_not_held_up(self):
        assert replicas(running_with(10, 85, limits=Limits(1, 2)), max_capacity_loss=0.1) == 2
