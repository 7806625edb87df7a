"""Small worlds for the planner's tests, and a fleet that obeys its steps."""

from __future__ import annotations

from dataclasses import replace

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import Decision, Step
from shoal.domain.pool import ClaimKind, NodeStock, Pool, Stock
from shoal.domain.profile import (
    LengthMix,
    Link,
    ModelFacts,
    Profile,
    ProfileRow,
    Quantiles,
    RatePoint,
    Source,
)
from shoal.domain.service import (
    EngineFacts,
    Load,
    Objective,
    Replica,
    ReplicaPhase,
    RunningVariant,
    Service,
    ServiceKey,
    Tick,
    Workload,
)
from shoal.domain.snapshot import Brakes, Snapshot
from shoal.planner.decide import decide
from shoal.planner.remember import remember

GIB = 2.0**30
H100 = "NVIDIA-H100-80GB-HBM3"
L40S = "NVIDIA-L40S"
MIX = LengthMix(512, 128, 1024, 256)
QWEN = "Qwen/Qwen2.5-7B-Instruct"
QWEN_FACTS = ModelFacts(7.616e9, 15.2e9, 57344, 32768)
ENGINE = EngineFacts("vllm", "0.30.1")
NOW = 1_000_000.0


def make_pool(name="h100", accelerator=H100, *, gpus=8, per_node=8, price=3.0, memory=80.0, **more):
    nodes = []
    left = gpus
    while left > 0:
        nodes.append(NodeStock(f"{name}-{len(nodes)}", min(per_node, left), min(per_node, left)))
        left -= per_node
    fields = {
        "name": name,
        "accelerator": accelerator,
        "memory_bytes": memory * GIB,
        "reserve_bytes": 2 * GIB,
        "claim": ClaimKind.DRA,
        "price_per_gpu_hour": price,
        "stock": Stock(tuple(nodes)),
        "link": Link.NVLINK,
    }
    return Pool(**{**fields, **more})


def make_row(knee=10.0, *, tp=1, k=1, points=(), steps=None, kv=400_000.0, mix=MIX, seqs=256, chunk=2048):
    """A row whose overloaded throughput puts the measured knee at `knee`."""
    return ProfileRow(
        tp, k, seqs, chunk, kv, mix, overload_rate=knee / 0.93 if knee else None, points=points, steps=steps
    )


def make_point(rate, ttft, itl):
    return RatePoint(rate, Quantiles(ttft / 2, p95=ttft), Quantiles(itl / 1.2, p95=itl))


def make_profile(rows, accelerator=H100, *, source=Source.MEASURED, model=QWEN, name="p", facts=QWEN_FACTS, **more):
    fields = {"namespace": "shoal-system", "engine": "vllm", "engine_version": "0.30.1", "link": Link.NVLINK}
    return Profile(
        name=name,
        model=model,
        accelerator=accelerator,
        source=source,
        facts=facts,
        rows=tuple(rows),
        **{**fields, **more},
    )


def make_service(name="chat", pools=("h100",), rate=5.0, **more):
    fields = {
        "key": ServiceKey(more.pop("namespace", "ml"), name),
        "uid": name,
        "generation": 1,
        "created_at": 0.0,
        "model": QWEN,
        "facts": QWEN_FACTS,
        "max_context_tokens": 8192,
        "objective": Objective(95, 500, 40),
        "workload": Workload(rate, MIX),
        "engine": ENGINE,
        "pools": tuple(pools),
    }
    return Service(**{**fields, **more})


def make_load(rate, ticks=60, **more):
    return Load(ticks=(Tick(rate * 5.0),) * ticks, fresh_fraction=1.0, lengths=more.pop("lengths", MIX), **more)


def snapshot(services, pools, profiles=(), now=NOW, **brakes):
    return Snapshot(now, tuple(services), tuple(pools), tuple(profiles), brakes=Brakes(**brakes))


def decide_one(service, pools, profiles=(), now=NOW, **brakes) -> Decision:
    return decide(snapshot([service], pools, profiles, now, **brakes)).decisions[service.key]


def shape(decision):
    return {
        (
            v.placement.pool,
            v.placement.configuration.tensor_parallel,
            v.placement.configuration.engines_per_gpu,
        ): v.replicas
        for v in decision.plan.variants
    }


def make_replica(name, phase=ReplicaPhase.READY, created=0.0, **more):
    return Replica(name, phase, created, ready_engines=1 if phase is ReplicaPhase.READY else 0, **more)


def make_variant(placement, count, name="v", phase=ReplicaPhase.READY, **more):
    replicas = tuple(make_replica(f"{name}-{i}", phase, created=float(i)) for i in range(count))
    return RunningVariant(name, placement, more.pop("desired", count), more.pop("replicas", replicas), **more)


def place(pool="h100", accelerator=H100, *, tp=1, k=1, seqs=256, chunk=2048):
    return Placement(pool, Configuration(accelerator, tp, k, seqs, chunk))


class Fleet:
    """Carries out steps as a cluster would: pods bind where GPUs are free, start, drain; time passes in ticks."""

    def __init__(self, snapshot: Snapshot, startup=30.0, drain=10.0):
        self.snapshot = snapshot
        self.startup = startup
        self.drain = drain
        self.drain_since: dict[str, float] = {}
        self.names = 0
        self.plans = None
        self.moves: dict[ServiceKey, int] = {}

    def tick(self, seconds=5.0, loads=None):
        """Decide, apply, let time pass."""
        services = [replace(s, load=(loads or {}).get(s.key, s.load)) for s in self.snapshot.services]
        self.snapshot = replace(self.snapshot, services=tuple(services))
        self.plans = decide(self.snapshot)
        now = self.snapshot.now
        after = []
        for service in services:
            decision = self.plans.decisions[service.key]
            if getattr(decision, "moved", False):
                self.moves[service.key] = self.moves.get(service.key, 0) + 1
            after.append(
                replace(
                    service,
                    memory=remember(service, decision, now),
                    running=self._apply(service.running, decision.steps),
                )
            )
        self.snapshot = replace(self.snapshot, services=tuple(after), now=now + seconds)
        self._live()
        return self.plans

    def _apply(self, running, steps: tuple[Step, ...]):
        by_name = {step.variant: step for step in steps if step.variant}
        kept = []
        for variant in running:
            step = by_name.get(variant.name)
            if step is None:
                assert not variant.live, "a variant with pods may not be left out"
                continue
            replicas = []
            for replica in variant.replicas:
                if replica.name in step.doomed and replica.phase is not ReplicaPhase.DRAINING:
                    self.drain_since[replica.name] = self.snapshot.now
                    replica = replace(replica, phase=ReplicaPhase.DRAINING)  # noqa: PLW2901
                replicas.append(replica)
            kept.append(replace(variant, desired=step.replicas, replicas=tuple(replicas)))
        for step in steps:
            if step.variant is None:
                self.names += 1
                kept.append(RunningVariant(f"v{self.names}", step.placement, step.replicas))
        return tuple(self._create(variant) for variant in kept)

    def _create(self, variant):
        alive = [r for r in variant.replicas if r.phase is not ReplicaPhase.DRAINING]
        new = []
        for _ in range(max(0, variant.desired - len(alive))):
            self.names += 1
            new.append(Replica(f"pod{self.names}", ReplicaPhase.PENDING, self.snapshot.now))
        return replace(variant, replicas=(*variant.replicas, *new))

    def free(self):
        free = {(p.name, n.node): n.usable for p in self.snapshot.pools if p.stock for n in p.stock.nodes}
        for service in self.snapshot.services:
            for variant in service.running:
                for replica in variant.replicas:
                    if replica.node is not None:
                        free[variant.placement.pool, replica.node] -= variant.placement.configuration.gpus_per_replica
        return free

    def held(self):
        """GPUs of existing pods by pool, bound or not."""
        held: dict[str, int] = {}
        for service in self.snapshot.services:
            for variant in service.running:
                gpus = variant.placement.configuration.gpus_per_replica
                held[variant.placement.pool] = held.get(variant.placement.pool, 0) + gpus * variant.live
        return held

    def _live(self):
        now = self.snapshot.now
        free = self.free()
        services = []
        for service in self.snapshot.services:
            running = []
            for variant in service.running:
                pool, gpus = variant.placement.pool, variant.placement.configuration.gpus_per_replica
                replicas = []
                for replica in variant.replicas:
                    if replica.phase is ReplicaPhase.DRAINING and (
                        replica.node is None or now - self.drain_since[replica.name] >= self.drain
                    ):
                        continue
                    if replica.phase is ReplicaPhase.PENDING:
                        node = next((n for (p, n), left in sorted(free.items()) if p == pool and left >= gpus), None)
                        if node is not None:
                            free[pool, node] -= gpus
                            replica = replace(replica, phase=ReplicaPhase.STARTING, node=node, created_at=now)  # noqa: PLW2901
                    elif replica.phase is ReplicaPhase.STARTING and now - replica.created_at >= self.startup:
                        replica = replace(replica, phase=ReplicaPhase.READY, ready_engines=1)  # noqa: PLW2901
                    replicas.append(replica)
                running.append(replace(variant, replicas=tuple(replicas)))
            services.append(replace(service, running=tuple(running)))
        self.snapshot = replace(self.snapshot, services=tuple(services))

    def service(self, name):
        return next(s for s in self.snapshot.services if s.key.name == name)

    def decision(self, name):
        return next(d for k, d in self.plans.decisions.items() if k.name == name)
