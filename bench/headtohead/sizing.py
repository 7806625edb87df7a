"""(b) AIConfigurator's recommendation and Shoal's plan for the same service, replayed under Poisson arrivals.

Both rest on the same step times (AIConfigurator's database). It computes from them; Shoal knows the profile that was
measured in the simulator. Only the aggregated recommendation counts: prefill and decode pools are not Shoal's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.headtohead.engines import AIC_BACKEND, AIC_VERSION, BLOCK_TOKENS, Engine
from bench.headtohead.policies import Schedule
from bench.headtohead.profiling import read_or_measure
from bench.headtohead.shoal_policy import make_profile, make_service, make_snapshot
from bench.headtohead.simulator import Run, Setting, simulate
from bench.headtohead.traffic import Lengths, Shape, Trace, make_trace
from shoal.domain.pool import NodeStock, Stock
from shoal.domain.service import Parallelism
from shoal.planner.catalog import model_facts
from shoal.planner.decide import decide

SYSTEM = "h100_sxm"


@dataclass(frozen=True, slots=True)
class Sizing:
    """Replicas of one tensor-parallel degree."""

    tensor_parallel: int
    replicas: int

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tensor_parallel * self.replicas

    def __str__(self) -> str:
        return f"{self.replicas}xTP{self.tensor_parallel}"


def make_engine(case: Mapping[str, Any], tensor_parallel: int) -> Engine:
    """The engine of a case; its KV cache as AIConfigurator estimates it."""
    from dynamo._internal.aic import estimate_num_gpu_blocks  # noqa: PLC0415

    lengths = Lengths(float(case["prompt"]), float(case["answer"]))
    name = f"{case['model'].rsplit('/', 1)[-1].lower()}-{case['prompt']}-{case['answer']}-tp{tensor_parallel}"
    engine = Engine(name, 1, lengths, str(case["model"]), SYSTEM, tensor_parallel)
    blocks = estimate_num_gpu_blocks(
        AIC_BACKEND,
        SYSTEM,
        str(case["model"]),
        tensor_parallel,
        BLOCK_TOKENS,
        engine.max_num_batched_tokens,
        backend_version=AIC_VERSION,
    )
    return Engine(name, int(blocks), lengths, str(case["model"]), SYSTEM, tensor_parallel)


def recommend(case: Mapping[str, Any], total_gpus: int) -> tuple[Sizing, dict[str, float]]:
    """AIConfigurator's first aggregated recommendation for the rate, and the latencies it expects (ms)."""
    from aiconfigurator.cli import api, main  # noqa: PLC0415

    logging.disable(logging.WARNING)
    tasks = main.build_default_tasks(
        model_path=case["model"],
        total_gpus=total_gpus,
        system=SYSTEM,
        backend=AIC_BACKEND,
        backend_version=AIC_VERSION,
        isl=case["prompt"],
        osl=case["answer"],
        ttft=float(case["ttftMs"]),
        tpot=float(case["itlMs"]),
    )
    agg = {"agg": tasks["agg"]}
    found = api._execute_and_wrap_result(agg, "default", top_n=1, target_request_rate=float(case["rate"]))
    best = found.best_configs["agg"].iloc[0]
    sizing = Sizing(int(best["tp"]) * int(best["pp"]), int(best["replicas_needed"]))
    return sizing, {"ttftMs": float(best["ttft"]), "itlMs": float(best["tpot"])}


def plan(case: Mapping[str, Any], engines: Mapping[int, Engine], tables: Mapping[int, Mapping[str, Any]]) -> Sizing:
    """What Shoal plans for the declared rate, with all tensor-parallel degrees to choose from."""
    profiles = [make_profile(engines[degree], tables[degree]) for degree in engines]
    facts = model_facts(str(case["model"]))
    rows = tuple(profile.rows[0] for profile in profiles)
    profile = replace(profiles[0], rows=rows, facts=facts or profiles[0].facts)
    service = replace(
        make_service(_setting(case, next(iter(engines.values())), 1), float(case["rate"])),
        parallelism=Parallelism(tuple(engines), (1,)),
        facts=facts,
    )
    snapshot = make_snapshot(0.0, service, profile)
    nodes = tuple(NodeStock(f"node-{number}", 8, 8) for number in range(4))
    snapshot = replace(snapshot, pools=(replace(snapshot.pools[0], stock=Stock(nodes)),))
    variants = decide(snapshot).decisions[service.key].plan.variants
    if len(variants) != 1:
        raise ValueError(f"{case['name']}: a plan of one variant was expected, not {variants}")
    return Sizing(variants[0].placement.configuration.tensor_parallel, variants[0].replicas)


def replay(case: Mapping[str, Any], engine: Engine, replicas: int, trace: Trace, cache: Path) -> Run:
    """So many replicas of an engine under a trace."""
    return simulate(_setting(case, engine, replicas), trace, Schedule(), cache)


def run_case(spec: Mapping[str, Any], case: Mapping[str, Any], folder: Path, cache: Path) -> dict[str, Any]:
    """Both answers of a case, and what came of them on every seed. One GPU fewer than ours is replayed as well."""
    engines = {int(degree): make_engine(case, int(degree)) for degree in spec["tensorParallel"]}
    tables = {degree: read_or_measure(engine, folder, cache) for degree, engine in engines.items()}
    theirs, expected = recommend(case, int(spec["totalGPUs"]))
    ours = plan(case, engines, tables)
    fewer = Sizing(ours.tensor_parallel, ours.replicas - 1)
    answers = {"aiconfigurator": theirs, "shoal": ours}
    if fewer.replicas:
        answers["shoal less one replica"] = fewer
    rate, lengths = float(case["rate"]), engines[ours.tensor_parallel].lengths
    shape = Shape(((float(spec["seconds"]), rate, rate),))
    traces = [make_trace(shape, lengths, int(seed)) for seed in spec["seeds"]]
    runs = {
        name: [replay(case, engines[s.tensor_parallel], s.replicas, trace, cache).to_dict() for trace in traces]
        for name, s in answers.items()
    }
    return {
        "key": str(case["name"]),
        "case": dict(case),
        "expected": expected,
        "answers": {name: {"sizing": str(sizing), "gpus": sizing.gpus} for name, sizing in answers.items()},
        "runs": runs,
    }


def _setting(case: Mapping[str, Any], engine: Engine, workers: int) -> Setting:
    return Setting(engine, 90.0, float(case["ttftMs"]), float(case["itlMs"]), workers)
