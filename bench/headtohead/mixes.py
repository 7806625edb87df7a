"""(c) GPU mixes: AIBrix's optimizer and Shoal on the same rates per GPU and the same prices.

The rates are computed once from AIConfigurator's step times: the highest at which a step, the prefill of those who
arrive in it included, stays within the ITL objective. Both are told exactly these rates; nothing is simulated.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.headtohead.engines import AIC_BACKEND
from bench.headtohead.shoal_policy import ENGINE_VERSION, GIB, KEY
from shoal.domain.plan import Decision
from shoal.domain.pool import ClaimKind, NodeStock, Pool, Stock
from shoal.domain.profile import LengthMix, Link, ModelFacts, Profile, ProfileRow, Source
from shoal.domain.service import (
    EngineFacts,
    Load,
    Objective,
    Parallelism,
    Replica,
    ReplicaPhase,
    RunningVariant,
    Service,
    Tick,
    Workload,
)
from shoal.domain.snapshot import Snapshot
from shoal.planner.catalog import model_facts
from shoal.planner.credit import KNEE_ERROR
from shoal.planner.curves import KNEE
from shoal.planner.decide import decide
from shoal.planner.memory import kv_tokens
from shoal.planner.remember import remember

MOST_SEQUENCES = 256
MEMORY_SHARE = 0.9  # of a GPU's memory that an engine uses
TICKS = 60
PLANS = 4  # decided at each rate
TICK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU type, and the rate one of them carries in each bucket (requests per second; 0: does not fit)."""

    name: str
    price: float
    memory_gib: float
    rates: tuple[float, ...]


def rate_within(session: Any, facts: ModelFacts, memory_gib: float, bucket: Sequence[int], itl_ms: float) -> float:
    """Highest rate of one GPU within the ITL objective: N sequences, of which N/answer end, and begin, in each step."""
    prompt, reply = bucket
    context = prompt + reply // 2
    room = (MEMORY_SHARE * memory_gib * GIB - facts.weights_bytes) / facts.kv_bytes_per_token
    best = 0.0
    for sequences in range(1, min(MOST_SEQUENCES, int(room // (prompt + reply))) + 1):
        decode = float(session.predict_decode(sequences, context, 2))
        prefill = float(session.predict_prefill(1, prompt, 0)) * sequences / reply
        if decode + prefill > itl_ms:
            break
        best = max(best, 1000 * sequences / (reply * (decode + prefill)))
    return best


def read_gpus(spec: Mapping[str, Any]) -> list[Gpu]:
    """The table both are told."""
    from dynamo._internal.aic import create_session  # noqa: PLC0415

    facts = model_facts(spec["model"])
    if facts is None:
        raise ValueError(f"the size of {spec['model']} is not known by its name")
    gpus = []
    for gpu in spec["gpus"]:
        session = create_session(AIC_BACKEND, gpu["system"], spec["model"], 1, backend_version=gpu["version"])
        rates = tuple(
            round(rate_within(session, facts, float(gpu["memoryGiB"]), bucket, float(spec["itlMs"])), 4)
            for bucket in spec["buckets"]
        )
        gpus.append(Gpu(gpu["name"], float(gpu["price"]), float(gpu["memoryGiB"]), rates))
    return gpus


def aibrix(gpus: Sequence[Gpu], shares: Sequence[float], rate: float) -> dict[str, int]:
    """Its optimizer's answer; `shares` of the rate in each bucket."""
    from aibrix.gpu_optimizer.optimizer.solver.melange import Config, SolverRunner  # noqa: PLC0415

    info = {gpu.name: {"cost": gpu.price, "tputs": [list(gpu.rates)]} for gpu in gpus}
    config = Config(gpu_info=info, workload_distribution=[list(shares)], total_request_rate=rate)
    found = SolverRunner(config).run()
    return {name: int(number) for name, number in found.items() if name != "cost" and number}


class Shoal:
    """Shoal's answers for one bucket: with a memory, as it runs, or each for itself."""

    def __init__(self, spec: Mapping[str, Any], gpus: Sequence[Gpu], bucket: int) -> None:
        prompt, reply = spec["buckets"][bucket]
        self._mix = LengthMix(float(prompt), float(reply), 2.0 * prompt, 2.0 * reply)
        self._model = str(spec["model"])
        self._itl = float(spec["itlMs"])
        usable = [gpu for gpu in gpus if gpu.rates[bucket] > 0]
        self._pools = tuple(_make_pool(gpu) for gpu in usable)
        self._profiles = tuple(
            _make_profile(self._model, pool, gpu.rates[bucket], self._mix)
            for gpu, pool in zip(usable, self._pools, strict=True)
        )

    def plan(self, rate: float) -> dict[str, int]:
        """For a declared rate."""
        return _counts(self._decide(self._service(rate), 0.0))

    def follow(self, rate: float, estimates: Sequence[float]) -> list[dict[str, int]]:
        """One answer for each rate that is seen, five minutes apart; the first is for the declared rate."""
        service = self._service(rate)
        decision = self._decide(service, 0.0)
        answers = [_counts(decision)]
        for number, seen in enumerate(estimates, start=1):
            ticks = tuple(Tick(seen * TICK_SECONDS) for _ in range(TICKS))
            now = number * TICKS * TICK_SECONDS
            service = replace(
                service,
                load=Load(ticks, TICK_SECONDS, fresh_fraction=1.0, lengths=self._mix),
                memory=remember(service, decision, now - TICKS * TICK_SECONDS),
                running=_make_running(decision, now),
            )
            for planning in range(PLANS):  # a better mix has to be seen in successive plans
                at = now + planning * TICK_SECONDS
                decision = self._decide(service, at)
                service = replace(service, memory=remember(service, decision, at))
            answers.append(_counts(decision))
        return answers

    def _decide(self, service: Service, now: float) -> Decision:
        return decide(Snapshot(now, (service,), self._pools, self._profiles)).decisions[KEY]

    def _service(self, rate: float) -> Service:
        return Service(
            key=KEY,
            uid="service",
            generation=1,
            created_at=0.0,
            model=self._model,
            facts=model_facts(self._model),
            max_context_tokens=4096,
            objective=Objective(95, None, self._itl),
            workload=Workload(rate, self._mix),
            engine=EngineFacts("vllm", ENGINE_VERSION),
            pools=tuple(pool.name for pool in self._pools),
            parallelism=Parallelism((1,), (1,)),
        )


def _counts(decision: Decision) -> dict[str, int]:
    return {v.placement.pool: v.replicas for v in decision.plan.variants if v.replicas}


def _make_running(decision: Decision, now: float) -> tuple[RunningVariant, ...]:
    """The plan as it runs five minutes later: all of it ready."""
    return tuple(
        RunningVariant(
            variant.placement.pool,
            variant.placement,
            variant.replicas,
            tuple(
                Replica(f"{pool}-{n}", ReplicaPhase.READY, now - TICKS * TICK_SECONDS, f"{pool}-{n}", ready_engines=1)
                for pool in [variant.placement.pool]
                for n in range(variant.replicas)
            ),
        )
        for variant in decision.plan.variants
    )


def compare(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Every bucket at every rate: cost, answers that differ under noise, time per answer."""
    gpus = read_gpus(spec)
    random = np.random.default_rng(int(spec["seed"]))
    noise, samples = float(spec["noise"]), int(spec["samples"])
    rows = []
    for bucket in range(len(spec["buckets"])):
        shares = [float(number == bucket) for number in range(len(spec["buckets"]))]
        shoal = Shoal(spec, gpus, bucket)
        for rate in spec["rates"]:
            estimates = [float(v) for v in rate * random.uniform(1 - noise, 1 + noise, samples)]
            theirs, their_seconds = _timed(lambda r, s=shares: aibrix(gpus, s, r), [rate, *estimates])
            alone, our_seconds = _timed(shoal.plan, [rate, *estimates])
            rows.append(
                {
                    "bucket": spec["buckets"][bucket],
                    "rate": rate,
                    "bound": round(_cheapest_rate(gpus, bucket) * rate, 4),
                    "aibrix": _judge(gpus, theirs, their_seconds),
                    "shoal": _judge(gpus, alone, our_seconds),
                    "shoalFollowing": _judge(gpus, shoal.follow(rate, estimates), our_seconds),
                }
            )
    return {"gpus": [{"name": g.name, "price": g.price, "rates": list(g.rates)} for g in gpus], "rows": rows}


def _judge(gpus: Sequence[Gpu], answers: Sequence[Mapping[str, int]], seconds: float) -> dict[str, Any]:
    prices = {gpu.name: gpu.price for gpu in gpus}
    costs = [sum(prices[name] * number for name, number in answer.items()) for answer in answers]
    changes = sum(before != after for before, after in itertools.pairwise(answers))
    return {
        "answer": dict(answers[0]),
        "costPerHour": round(costs[0], 4),
        "meanCostPerHour": round(sum(costs) / len(costs), 4),
        "changes": changes,
        "of": len(answers) - 1,
        "millisecondsEach": round(1000 * seconds, 3),
    }


def _timed(call: Any, values: Sequence[float]) -> tuple[list[dict[str, int]], float]:
    """Answers, and the mean CPU and solver seconds of one. The first call, which fills caches, is not counted."""
    first = call(values[0])
    began = time.perf_counter()
    others = [call(value) for value in values[1:]]
    return [first, *others], (time.perf_counter() - began) / max(len(others), 1)


def _cheapest_rate(gpus: Sequence[Gpu], bucket: int) -> float:
    """Least price of one request per second, fractions of GPUs allowed."""
    return min((gpu.price / gpu.rates[bucket] for gpu in gpus if gpu.rates[bucket] > 0), default=math.inf)


def _make_pool(gpu: Gpu) -> Pool:
    nodes = tuple(NodeStock(f"{gpu.name}-{number}", 1, 1) for number in range(256))
    return Pool(
        name=gpu.name,
        accelerator=f"NVIDIA-{gpu.name}",
        memory_bytes=gpu.memory_gib * GIB,
        reserve_bytes=1 * GIB,
        claim=ClaimKind.DRA,
        price_per_gpu_hour=gpu.price,
        stock=Stock(nodes),
    )


def _make_profile(model: str, pool: Pool, rate: float, mix: LengthMix) -> Profile:
    """A profile whose planned capacity is that rate: Shoal's margin and knee are taken out, as AIBrix has none.

    Several replicas are planned at 1/(1 + KNEE_ERROR) of the knee each: that is made the rate. One alone is planned at
    0.9 of it, 3 % below what AIBrix is told.
    """
    facts = model_facts(model)
    assert facts is not None  # read_gpus has asked before
    kv = kv_tokens(pool, facts, tensor_parallel=1, engines_per_gpu=1)
    row = ProfileRow(1, 1, MOST_SEQUENCES, 8192, kv, mix, overload_rate=rate * (1 + KNEE_ERROR) / KNEE)
    return Profile(
        name=pool.name.lower(),
        namespace=KEY.namespace,
        model=model,
        accelerator=pool.accelerator,
        engine="vllm",
        engine_version=ENGINE_VERSION,
        source=Source.SIMULATED,
        facts=facts,
        rows=(row,),
        link=Link.NONE,
    )
