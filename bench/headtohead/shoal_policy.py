"""Shoal's `decide()` as a scaling policy of Dynamo's simulator: a Snapshot from what that simulator tells.

It tells, since it was asked last: arrivals; means of prompt, answer, TTFT and gap over what was answered; how many
workers serve, start and drain; and of each worker's last step how many requests ran and waited. Nothing else is used.
As in the operator, arrivals are counted twice in a planning interval, and a surge in the middle is planned for at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from bench.headtohead.engines import Engine
from bench.headtohead.policies import MOST_WORKERS, TICK_SECONDS, answer
from bench.headtohead.simulator import Setting
from bench.headtohead.traffic import Lengths
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import Decision
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
    Limits,
    Load,
    Memory,
    Objective,
    Parallelism,
    Replica,
    ReplicaPhase,
    RunningVariant,
    Service,
    ServiceKey,
    Tick,
    Workload,
)
from shoal.domain.snapshot import Snapshot
from shoal.planner.credit import MARGIN_MEASURED, pooled_share
from shoal.planner.decide import decide
from shoal.planner.demand import is_surge
from shoal.planner.remember import remember

ACCELERATOR = "NVIDIA-H100-80GB-HBM3"
ENGINE_VERSION = "0.24.0"
POOL = "h100"
KEY = ServiceKey("bench", "service")
GIB = 2.0**30
COUNTS = 2  # of arrivals in a planning interval, as in the operator
COUNT_SECONDS = TICK_SECONDS / COUNTS
TICKS_KEPT = 360 * COUNTS
WINDOW_TICKS = 12 * COUNTS  # means and queues are taken over a minute, as the operator does
FADING_SECONDS = 300.0  # lengths fade with this time constant, as in the operator
FACTS = ModelFacts(8.191e9, 16.4e9, 147456.0, 40960)  # Qwen3-8B


class ShoalPolicy:
    """Calls `decide()` every planning interval, earlier in a surge, and answers with what its steps ask for."""

    def __init__(self, setting: Setting, profile: Profile, declared_rate: float | None = None) -> None:
        self._setting = setting
        self._profile = profile
        self._placement = placement_of(profile)
        self._declared = declared_rate
        self._seen = _Seen(setting.engine.lengths)
        self._memory = Memory()
        self.decisions: list[Decision] = []

    def initial_tick_ms(self) -> float:
        """The end of the first count."""
        return COUNT_SECONDS * 1000

    def on_tick(self, snapshot: Mapping[str, Any]) -> dict[str, Any]:
        """Count, and decide when it is time."""
        tick = self._seen.count(snapshot)
        whole = self._seen.counts % COUNTS == 0
        if whole:
            self._seen.read_queues(snapshot)
        wanted = self._decide(snapshot) if whole or self._is_surge(tick) else None
        return answer(wanted, float(snapshot["now_ms"]), COUNT_SECONDS)

    def _is_surge(self, tick: Tick) -> bool:
        if not self.decisions:
            return False
        return is_surge(tick, COUNT_SECONDS, self.decisions[-1].explanation.demand)

    def _decide(self, snapshot: Mapping[str, Any]) -> int | None:
        """Replicas that the steps ask for; None when they ask for nothing."""
        now = float(snapshot["now_ms"]) / 1000
        service = self._service(snapshot, now)
        decision = decide(make_snapshot(now, service, self._profile)).decisions[KEY]
        self._memory = remember(service, decision, now)
        self.decisions.append(decision)
        return sum(step.replicas for step in decision.steps) or None

    def _service(self, snapshot: Mapping[str, Any], now: float) -> Service:
        replicas = self._seen.replicas(snapshot, now)
        running = RunningVariant(
            name="variant",
            placement=self._placement,
            desired=int(snapshot["non_draining_decode_count"]),
            replicas=replicas,
        )
        return make_service(
            self._setting, self._declared, running=(running,), load=self._seen.load(), memory=self._memory
        )


class _Seen:
    """What was seen so far."""

    def __init__(self, lengths: Lengths) -> None:
        self.counts = 0
        self._tail = lengths.tail
        self._ticks: deque[Tick] = deque(maxlen=TICKS_KEPT)
        self._windows: deque[Mapping[str, float]] = deque(maxlen=WINDOW_TICKS)
        self._queues: dict[int, float] = {}
        self._created: dict[int, float] = {}
        self._prompts = self._answers = self._weight = 0.0
        self._was_waiting: set[int] = set()

    def count(self, snapshot: Mapping[str, Any]) -> Tick:
        """Close a tick of arrivals; means of lengths and latencies over what was answered in it."""
        traffic = snapshot["traffic"]
        self.counts += 1
        tick = Tick(float(traffic["num_req"]))
        self._ticks.append(tick)
        self._windows.append(traffic)
        fade = 1 - COUNT_SECONDS / FADING_SECONDS
        answered = float(traffic["shape_count"])
        self._weight = self._weight * fade + answered
        self._prompts = self._prompts * fade + answered * float(traffic["avg_isl"])
        self._answers = self._answers * fade + answered * float(traffic["avg_osl"])
        return tick

    def read_queues(self, snapshot: Mapping[str, Any]) -> None:
        """Seconds that each worker's queue takes at the pace of the last minute; one reading alone does not count."""
        answered = sum(float(window["shape_count"]) for window in self._windows)
        seconds = len(self._windows) * COUNT_SECONDS
        pace = max(answered / seconds / max(int(snapshot["active_decode_count"]), 1), 1 / seconds)
        waiting = {int(w["worker_id"]): float(w["num_queued_prefill"]) for w in snapshot["decode_fpm_snapshots"]}
        self._queues = {worker: n / pace if worker in self._was_waiting else 0.0 for worker, n in waiting.items()}
        self._was_waiting = {worker for worker, n in waiting.items() if n > 0}

    def replicas(self, snapshot: Mapping[str, Any], now: float) -> tuple[Replica, ...]:
        """All workers, as replicas."""
        found = []
        for phase, name in (
            (ReplicaPhase.READY, "active"),
            (ReplicaPhase.STARTING, "starting"),
            (ReplicaPhase.DRAINING, "draining"),
        ):
            for worker in sorted(int(number) for number in snapshot[f"{name}_decode_ids"]):
                created = self._created.setdefault(worker, now if phase is ReplicaPhase.STARTING else 0.0)
                queue = self._queues.get(worker, 0.0) if phase is ReplicaPhase.READY else None
                found.append(
                    Replica(f"worker-{worker}", phase, created, f"node-{worker}", queue_seconds=queue, ready_engines=1)
                )
        return tuple(found)

    def load(self) -> Load:
        """Traffic as the operator would have it. The tail of lengths, which nobody tells, has the profile's ratio."""
        lengths = None
        if self._weight > 0:
            prompt, reply = self._prompts / self._weight, self._answers / self._weight
            lengths = LengthMix(prompt, reply, prompt * self._tail, reply * self._tail)
        return Load(
            ticks=tuple(self._ticks),
            tick_seconds=COUNT_SECONDS,
            ticks_to_settle=COUNTS,
            fresh_fraction=1.0,
            lengths=lengths,
            lengths_requests=self._weight,
            ttft_mean_ms=self._mean("avg_ttft_ms", "ttft_count"),
            itl_mean_ms=self._mean("avg_itl_ms", "itl_count"),
        )

    def _mean(self, value: str, count: str) -> float | None:
        total = sum(float(window[count]) for window in self._windows)
        return sum(float(w[value]) * float(w[count]) for w in self._windows) / total if total else None


def make_snapshot(now: float, service: Service, profile: Profile) -> Snapshot:
    """One service, one pool, one profile."""
    nodes = tuple(NodeStock(f"node-{number}", 1, 1) for number in range(MOST_WORKERS))
    pool = Pool(
        name=POOL,
        accelerator=ACCELERATOR,
        memory_bytes=80 * GIB,
        reserve_bytes=2 * GIB,
        claim=ClaimKind.DRA,
        price_per_gpu_hour=1.0,
        stock=Stock(nodes),
        max_gpus=MOST_WORKERS,
        link=Link.NVLINK,
    )
    return Snapshot(now, (service,), (pool,), (profile,))


def make_service(
    setting: Setting,
    declared_rate: float | None,
    *,
    running: tuple[RunningVariant, ...] = (),
    load: Load | None = None,
    memory: Memory | None = None,
) -> Service:
    """The service that the scenario is about."""
    lengths = setting.engine.lengths
    mix = LengthMix(lengths.prompt, lengths.answer, lengths.prompt * lengths.tail, lengths.answer * lengths.tail)
    return Service(
        key=KEY,
        uid="service",
        generation=1,
        created_at=0.0,
        model="model",
        facts=FACTS,
        max_context_tokens=8192,
        objective=Objective(95, setting.ttft_ms, setting.itl_ms),
        workload=Workload(declared_rate or 1.0, mix, declared_rate is not None),
        engine=EngineFacts("vllm", ENGINE_VERSION, startup_seconds=setting.startup_seconds),
        pools=(POOL,),
        limits=Limits(max_gpus=MOST_WORKERS),
        parallelism=Parallelism((1,), (1,)),
        running=running,
        load=load or Load(),
        memory=memory or Memory(),
    )


def make_profile(engine: Engine, table: Mapping[str, Any]) -> Profile:
    """The profile out of a profiling run's table (bench/headtohead/profiling.py)."""
    lengths = engine.lengths
    row = ProfileRow(
        tensor_parallel=engine.tensor_parallel,
        engines_per_gpu=1,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        kv_cache_tokens=float(engine.kv_tokens),
        lengths=LengthMix(lengths.prompt, lengths.answer, lengths.prompt * lengths.tail, lengths.answer * lengths.tail),
        overload_rate=float(table["overloadRate"]),
        points=tuple(RatePoint(float(p["rate"]), _quantiles(p, "Ttft"), _quantiles(p, "Itl")) for p in table["points"]),
    )
    return Profile(
        name=engine.name,
        namespace=KEY.namespace,
        model="model",
        accelerator=ACCELERATOR,
        engine="vllm",
        engine_version=ENGINE_VERSION,
        source=Source.SIMULATED,
        facts=FACTS,
        rows=(row,),
        link=Link.NVLINK,
    )


def _quantiles(point: Mapping[str, Any], of: str) -> Quantiles:
    return Quantiles(*(float(point[f"{name}{of}Ms"]) for name in ("mean", "p50", "p90", "p95", "p99")))


def placement_of(profile: Profile) -> Placement:
    """The only configuration there is."""
    row = profile.rows[0]
    return Placement(POOL, Configuration(ACCELERATOR, 1, 1, row.max_num_seqs, row.max_num_batched_tokens))


def planned_capacity(setting: Setting, profile: Profile) -> float:
    """Requests per second that Shoal plans one replica for."""
    decision = decide(make_snapshot(0.0, make_service(setting, 1.0), profile)).decisions[KEY]
    return decision.plan.variants[0].replica_rate


def pooled_capacity(setting: Setting, profile: Profile, replicas: int) -> float:
    """Requests per second that Shoal plans each of so many replicas for: several carry more than one alone."""
    capacity = planned_capacity(setting, profile)
    return capacity * pooled_share(MARGIN_MEASURED) if replicas > 1 else capacity


def first_replicas(setting: Setting, profile: Profile, rate: float) -> int:
    """Replicas that Shoal would begin with for a declared rate."""
    decision = decide(make_snapshot(0.0, make_service(setting, rate), profile)).decisions[KEY]
    return decision.plan.replicas
