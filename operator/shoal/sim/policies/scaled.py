"""Policies that run one configuration and let a law say how many replicas of it there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import Step
from shoal.domain.pool import Pool
from shoal.domain.service import Service, ServiceKey, Tick
from shoal.domain.snapshot import Snapshot
from shoal.planner.memory import kv_tokens
from shoal.sim.policies.laws import Law, Signals
from shoal.sim.policies.protocol import Order

MakeLaw = Callable[[Snapshot, Service, Placement], Law]


@dataclass(frozen=True, slots=True)
class Choice:
    """The configuration that all services run. None: the service's first pool; the smallest TP that fits."""

    pool: str | None = None
    tensor_parallel: int | None = None
    engines_per_gpu: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048


class ScaledPolicy:
    """One variant per service, a law for its number. Limits of the service and GPUs that exist bound it."""

    def __init__(self, name: str, choice: Choice, make_law: MakeLaw, interval_seconds: float | None) -> None:
        self.name = name
        self.interval_seconds = interval_seconds
        self._choice = choice
        self._make_law = make_law
        self._laws: dict[ServiceKey, tuple[Placement, Law]] = {}

    def decide(self, snapshot: Snapshot, signals: Mapping[ServiceKey, Signals]) -> Mapping[ServiceKey, Order]:
        """What the law wants, within the bounds."""
        pools = {pool.name: pool for pool in snapshot.pools}
        return {
            service.key: self._order(snapshot, service, pools, signals[service.key]) for service in snapshot.services
        }

    def is_surge(self, service: ServiceKey, tick: Tick, tick_seconds: float) -> bool:
        """Never: laws have their own interval."""
        return False

    def _order(self, snapshot: Snapshot, service: Service, pools: Mapping[str, Pool], seen: Signals) -> Order:
        if service.key not in self._laws:
            placement = choose_placement(self._choice, service, pools)
            self._laws[service.key] = (placement, self._make_law(snapshot, service, placement))
        placement, law = self._laws[service.key]
        running = next((variant for variant in service.running if variant.placement == placement), None)
        present = running.desired if running else 0
        wanted = bound(law.desired(seen), service, pools[placement.pool], placement.configuration)
        step = Step(placement, wanted, running.name if running else None)
        plan = f"{wanted}x{placement.configuration.shape} ({placement.pool})"
        return Order((step,), plan, moved=wanted != present, why=f"{self.name}: {present} -> {wanted}")


def choose_placement(choice: Choice, service: Service, pools: Mapping[str, Pool]) -> Placement:
    """The configuration asked for in the pool asked for. Raises ValueError when there is no such pool."""
    name = choice.pool or service.pools[0]
    if name not in service.pools:
        raise ValueError(f"{service.key.name} may not use pool {name}: it may use {', '.join(service.pools)}")
    configuration = Configuration(
        pools[name].accelerator,
        choice.tensor_parallel or _smallest_tensor(service, pools[name]),
        choice.engines_per_gpu,
        choice.max_num_seqs,
        choice.max_num_batched_tokens,
    )
    return Placement(name, configuration)


def _smallest_tensor(service: Service, pool: Pool) -> int:
    """The least number of GPUs whose memory holds the weights and one whole context."""
    if service.facts is None:
        return 1
    context = min(service.max_context_tokens, service.facts.max_context_tokens)
    fitting = (n for n in service.parallelism.tensor if _kv(service, pool, n) >= context)
    return min(fitting, default=1)


def _kv(service: Service, pool: Pool, tensor: int) -> float:
    assert service.facts is not None
    return kv_tokens(pool, service.facts, tensor_parallel=tensor, engines_per_gpu=1)


def bound(wanted: int, service: Service, pool: Pool, configuration: Configuration) -> int:
    """The number within minReplicas, maxGPUs and the GPUs that exist; the latter two come first."""
    gpus = pool.stock.existing if pool.stock is not None else 0
    if service.limits.max_gpus is not None:
        gpus = min(gpus, service.limits.max_gpus)
    most = gpus // configuration.gpus_per_replica
    return max(min(wanted, most), min(service.limits.min_replicas, most))
