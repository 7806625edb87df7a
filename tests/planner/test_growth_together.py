"""Services that run and must grow, several at once, against a search through all additions of all of them.

Pods stay on their nodes, two GPU types and pairs of linked GPUs can be added, with floors, limits, quotas, priorities
and services whose old placement may no longer be used, so that old and new replicas are there side by side.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_world import (
    L40S,
    NOW,
    Fleet,
    make_load,
    make_pool,
    make_profile,
    make_row,
    make_service,
    make_variant,
    place,
    snapshot,
)

from shoal.domain.plan import Scale
from shoal.domain.pool import Admission
from shoal.domain.service import Limits, Memory, Objective, PlacedReplicas
from shoal.planner.assess import assess, make_world
from shoal.planner.book import Book
from shoal.planner.decide import decide
from shoal.planner.growth import UNTRIED
from shoal.planner.ledger import Ledger, Use
from shoal.planner.sizing import total_cost, total_gpus, total_rate
from shoal.planner.stabilise import needed_rate

ONE, PAIR, CHEAP = place(), place(tp=2), place("l40s", L40S)
PROFILES = [make_profile([make_row(10), make_row(21, tp=2)]), make_profile([make_row(4)], L40S, name="q")]
MOST = 3  # replicas added of one placement


def nodes_for(counts, free):
    """Nodes of so many replicas, taken from what is free; None: they do not fit."""
    found = {}
    for placement, count in counts.items():
        gpus = placement.configuration.gpus_per_replica
        for _ in range(count):
            node = next((n for n, left in free.items() if n.startswith(placement.pool) and left >= gpus), None)
            if node is None:
                return None
            free[node] -= gpus
            found.setdefault(placement, []).append(node)
    return found


def running_service(draw, index, free):
    """A service that runs what fits of a random plan, under a rate of its own."""
    present = draw(st.dictionaries(st.sampled_from([ONE, PAIR, CHEAP]), st.integers(1, 2), min_size=1, max_size=2))
    nodes = nodes_for(present, free)
    if nodes is None:
        return None
    variants = []
    for placement, at in nodes.items():
        variant = make_variant(
            placement, len(at), f"s{index}-{placement.pool}-{placement.configuration.tensor_parallel}"
        )
        replicas = tuple(replace(r, node=node) for r, node in zip(variant.replicas, at, strict=True))
        variants.append(replace(variant, replicas=replicas))
    return make_service(
        f"s{index}",
        draw(st.sampled_from([("h100", "l40s"), ("h100", "l40s"), ("h100",), ("l40s",)])),
        objective=Objective(95, 2000),
        created_at=float(index),
        priority=draw(st.integers(0, 1)),
        limits=Limits(draw(st.integers(0, 2)), draw(st.none() | st.integers(4, 6))),
        running=tuple(variants),
        load=make_load(draw(st.floats(2, 30))),
        memory=Memory(tuple(PlacedReplicas(p, n) for p, n in present.items()), NOW - 30, None, traffic_seen=True),
    )


@st.composite
def growing_worlds(draw):
    per_node = draw(st.sampled_from([2, 4, 8]))
    pools = [
        make_pool(gpus=draw(st.integers(3, 8)), per_node=per_node),
        make_pool("l40s", L40S, gpus=draw(st.integers(2, 5)), per_node=per_node, price=1.25, memory=48),
    ]
    if draw(st.booleans()):
        pools[0] = replace(pools[0], admissions=(Admission("ml", draw(st.integers(3, 8))),))
    free = {node.node: node.usable for pool in pools for node in pool.stock.nodes}
    services = [running_service(draw, index, free) for index in range(draw(st.integers(1, 2)))]
    return [service for service in services if service is not None], pools


def base_of(assessment):
    return {p: n for p, n in assessment.present.items() if p in assessment.fleets}


def targets(assessment, rate):
    """What there is and everything that could be added to carry a rate, with what the addition costs."""
    fleets, base = assessment.fleets, base_of(assessment)
    limit = assessment.service.limits.max_gpus
    placements = sorted(fleets)
    for numbers in itertools.product(range(MOST + 1), repeat=len(placements)):
        counts = Counter(base)
        counts.update(dict(zip(placements, numbers, strict=True)))
        plan = {p: n for p, n in counts.items() if n}
        if total_rate(plan, fleets) < rate * (1 - 1e-9) or sum(plan.values()) < assessment.least:
            continue
        if limit is None or total_gpus(plan) <= limit:
            yield total_cost(plan, fleets), plan


def uses_of(assessment, plan):
    """Running replicas on their nodes, the others anywhere."""
    uses = Counter()
    for placement, count in plan.items():
        gpus = placement.configuration.gpus_per_replica
        nodes = [r.node for v in assessment.service.running if v.placement == placement for r in v.replicas][:count]
        for node in nodes:
            uses[Use(placement.pool, gpus, node)] += 1
        if count > len(nodes):
            uses[Use(placement.pool, gpus)] += count - len(nodes)
    return uses


def search(assessments, pools, rates):
    """The least cost at which all carry their rate, with what each runs kept; None: there is no way."""
    best = None
    for choice in itertools.product(*(list(targets(a, rates[a.service.key])) for a in assessments)):
        cost = sum(cost for cost, _ in choice)
        if best is not None and cost >= best:
            continue
        ledger = Ledger(pools)
        for assessment, (_, plan) in zip(assessments, choice, strict=True):
            ledger.reserve(assessment.service.key, uses_of(assessment, plan))
        if not ledger.overdrawn:
            best = cost
    return best


@settings(derandomize=True, max_examples=150, deadline=None)
@given(growing_worlds())
def test_growth_is_found_wherever_a_search_finds_it_and_costs_no_more(world):
    """No more than the search's additions to what the law of growth asks for, new placements 5 % dearer."""
    services, pools = world
    if not services:
        return
    seen = snapshot(services, pools, PROFILES)
    assessments = [assess(service, make_world(seen)) for service in services]
    book = Book.with_present(assessments, make_world(seen))
    needed = {a.service.key: needed_rate(a.demand) for a in assessments}
    plans = decide(seen)
    served = all(isinstance(decision, Scale) for decision in plans.decisions.values())
    if search(assessments, pools, needed) is not None:
        assert served, {key.name: d.explanation.message for key, d in plans.decisions.items()}
    if book is None:  # a limit or a quota leaves less than there is
        return
    wanted = {a.service.key: book.choose(a).wanted for a in assessments}
    best = search(assessments, pools, wanted)
    if best is not None:
        base = sum(total_cost(base_of(a), a.fleets) for a in assessments)
        cost = sum(decision.plan.cost_per_hour for decision in plans.decisions.values())
        assert cost <= base + UNTRIED * (best - base) + 1e-3


@settings(derandomize=True, max_examples=40, deadline=None)
@given(growing_worlds(), st.integers(0, 3))
def test_old_and_new_replicas_fit_side_by_side_until_the_target_is_there(world, ticks):
    """The steps of all services keep pods, starting and draining ones included, within the pools; nobody is emptied."""
    services, pools = world
    fleet = Fleet(snapshot(services, pools, PROFILES))
    for _ in range(12 + ticks):
        fleet.tick(loads={s.key: s.load for s in services})
        assert min(fleet.free().values(), default=0) >= 0
    for service in fleet.snapshot.services:
        assert sum(variant.ready for variant in service.running) >= min(1, service.limits.min_replicas)


def test_a_service_whose_pool_was_taken_away_grows_where_it_may_while_its_old_replicas_run():
    """Two H100 may no longer be used: L40S for all of it are decided at once, beside the two."""
    service = make_service(
        "moved",
        ("l40s",),
        objective=Objective(95, 2000),
        running=(make_variant(ONE, 2),),
        load=make_load(10),
        memory=Memory((PlacedReplicas(ONE, 2),), NOW - 30, None, traffic_seen=True),
    )
    pools = [make_pool(gpus=2), make_pool("l40s", L40S, gpus=4, price=1.25, memory=48)]
    decision = decide(snapshot([service], pools, PROFILES)).decisions[service.key]
    assert {v.placement.pool: v.replicas for v in decision.plan.variants} == {"l40s": 3}
    assert {step.placement.pool: step.replicas for step in decision.steps} == {"h100": 2, "l40s": 3}


def test_quota_and_floor_bound_growth():
    pools = [make_pool(gpus=8, admissions=(Admission("ml", 3),))]
    service = make_service(
        objective=Objective(95, 2000),
        limits=Limits(2),
        running=(make_variant(ONE, 2),),
        load=make_load(100),
        memory=Memory((PlacedReplicas(ONE, 2),), NOW - 30, None, traffic_seen=True),
    )
    decision = decide(snapshot([service], pools, PROFILES)).decisions[service.key]
    assert decision.plan.gpus == 3
    assert decision.plan.cost_per_hour == pytest.approx(9.0)
