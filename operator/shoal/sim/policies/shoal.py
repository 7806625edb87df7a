"""Shoal itself: the `decide()` of the operator, with the memory that the operator keeps in objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from shoal.domain.live import Learned
from shoal.domain.plan import Decision, Demand, Hold
from shoal.domain.service import Memory, Service, ServiceKey, Tick
from shoal.domain.snapshot import Snapshot
from shoal.planner.decide import decide
from shoal.planner.demand import is_surge
from shoal.planner.learning import learn
from shoal.planner.remember import remember
from shoal.sim.policies.laws import Signals
from shoal.sim.policies.protocol import Order


class ShoalPolicy:
    """The real planner. `learned` is what it knows from the services' own traffic."""

    name = "shoal"
    interval_seconds: float | None = None

    def __init__(self) -> None:
        self._memory: dict[ServiceKey, Memory] = {}
        self.learned: dict[ServiceKey, tuple[Learned, ...]] = {}
        self._demand: dict[ServiceKey, Demand] = {}  # planned for

    def decide(self, snapshot: Snapshot, signals: Mapping[ServiceKey, Signals]) -> Mapping[ServiceKey, Order]:
        """What the operator would do now."""
        services = tuple(
            replace(s, memory=self._memory.get(s.key, Memory()), learned=self.learned.get(s.key, ()))
            for s in snapshot.services
        )
        decisions = decide(replace(snapshot, services=services)).decisions
        for service in services:
            self._demand[service.key] = decisions[service.key].explanation.demand
            self._memory[service.key] = remember(service, decisions[service.key], snapshot.now)
            self.learned[service.key] = learn(service, decisions[service.key], snapshot.now)
        return {service.key: _make_order(decisions[service.key], service) for service in services}

    def is_surge(self, service: ServiceKey, tick: Tick, tick_seconds: float) -> bool:
        """Whether far more arrived than was planned for."""
        demand = self._demand.get(service)
        return demand is not None and is_surge(tick, tick_seconds, demand)


def _make_order(decision: Decision, service: Service) -> Order:
    pools = ", ".join(variant.placement.pool for variant in decision.plan.variants)
    return Order(
        steps=decision.steps,
        plan=f"{decision.plan.summary} ({pools})",
        moved=not isinstance(decision, Hold) and decision.moved,
        why=decision.explanation.message,
        weights=_weights(decision, service),
    )


def _weights(decision: Decision, service: Service) -> dict[str, float]:
    """Capacity per engine times derating, by replica: what the router is told."""
    rates = {variant.placement: variant.capacity.rate for variant in decision.plan.variants}
    derating = decision.explanation.derating
    return {
        replica.name: rates[variant.placement] * derating.get(replica.name, 1.0)
        for variant in service.running
        for replica in variant.replicas
        if variant.placement in rates
    }
