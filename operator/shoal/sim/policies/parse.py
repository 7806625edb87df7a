"""Policies by name, as the command line has them: `shoal`, `static:3`, `keda,tp=2`, `kpa:20`, `hpa:8,engines=2`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from shoal.domain.configuration import Placement
from shoal.domain.plan import Capacity
from shoal.domain.service import Load, Parallelism, Service
from shoal.domain.snapshot import Snapshot
from shoal.planner.decide import decide
from shoal.sim.policies.laws import HPA_SECONDS, KEDA_SECONDS, KPA_SECONDS, HpaLaw, KedaLaw, KpaLaw, Law, Static
from shoal.sim.policies.protocol import Policy
from shoal.sim.policies.scaled import Choice, MakeLaw, ScaledPolicy
from shoal.sim.policies.shoal import ShoalPolicy

HELP = (
    "shoal; static:N; keda (llm-d's law on latency over objective); kpa[:T] (Knative: T active requests per replica); "
    "hpa[:T] (T requests/s per replica; T left out: what Shoal's planner makes of the same profile). All but shoal run "
    "one configuration: add ,tp=N ,engines=N ,pool=NAME ,seqs=N ,chunk=N"
)
_OPTIONS = {
    "tp": "tensor_parallel",
    "engines": "engines_per_gpu",
    "pool": "pool",
    "seqs": "max_num_seqs",
    "chunk": "max_num_batched_tokens",
}


class PolicyError(ValueError):
    """No such policy; the message says which there are."""


def make_policy(text: str) -> Policy:
    """A fresh policy. Raises PolicyError."""
    head, *options = text.split(",")
    name, _, value = head.partition(":")
    if name == "shoal":
        if value or options:
            raise PolicyError("shoal takes no arguments: it chooses configurations itself")
        return ShoalPolicy()
    choice = _read_choice(options)
    if name == "static":
        replicas = int(_number(value, "static:N, N replicas", whole=True))
        return ScaledPolicy(text, choice, lambda *_: Static(replicas), None)
    if name == "keda" and not value:
        return ScaledPolicy(text, choice, lambda *_: KedaLaw(), KEDA_SECONDS)
    target = _number(value, f"{name}:T, T per replica", whole=False) if value else None
    if name == "kpa":
        return ScaledPolicy(text, choice, _targeted(KpaLaw, target, _known_concurrency), KPA_SECONDS)
    if name == "hpa":
        return ScaledPolicy(text, choice, _targeted(HpaLaw, target, _known_rate), HPA_SECONDS)
    raise PolicyError(f"{text!r} is no policy. There are: {HELP}")


def _targeted(
    law: Callable[[float], Law], target: float | None, known: Callable[[Capacity, Service], float]
) -> MakeLaw:
    """Makes a law with the target given, or with the one that Shoal's planner would know."""

    def make(snapshot: Snapshot, service: Service, placement: Placement) -> Law:
        if target is not None:
            return law(target)
        capacity = known_capacity(snapshot, service, placement)
        if capacity is None:
            raise PolicyError(f"no capacity of {placement} is known for {service.key.name}: give a target, as in hpa:8")
        return law(known(capacity, service) * placement.configuration.engines_per_replica)

    return make


def known_capacity(snapshot: Snapshot, service: Service, placement: Placement) -> Capacity | None:
    """What the planner says one engine of this placement carries; None when it would not use it."""
    configuration = placement.configuration
    alone = replace(
        service,
        pools=(placement.pool,),
        parallelism=Parallelism((configuration.tensor_parallel,), (configuration.engines_per_gpu,)),
        running=(),
        load=Load(),
    )
    plan = decide(replace(snapshot, services=(alone,))).decisions[service.key].plan
    return next((variant.capacity for variant in plan.variants if variant.capacity.rate > 0), None)


def _known_rate(capacity: Capacity, service: Service) -> float:
    return capacity.rate


def _known_concurrency(capacity: Capacity, service: Service) -> float:
    """By Little's law, with the latencies predicted at that rate."""
    tokens = service.workload.lengths.output_mean
    return capacity.rate * ((capacity.ttft_ms or 0.0) + (capacity.itl_ms or 0.0) * (tokens - 1)) / 1000


def _read_choice(options: list[str]) -> Choice:
    values: dict[str, int | str] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in _OPTIONS or not value:
            raise PolicyError(f"{option!r}: expected one of {', '.join(f'{name}=...' for name in _OPTIONS)}")
        values[_OPTIONS[key]] = value if key == "pool" else int(_number(value, f"{key}=N", whole=True))
    return Choice(**values)  # type: ignore[arg-type]


def _number(text: str, form: str, *, whole: bool) -> float:
    try:
        value = float(int(text) if whole else float(text))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise PolicyError(f"{text!r} is not a positive {'whole ' if whole else ''}number: write {form}")
    return value
