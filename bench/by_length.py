"""Whether routing by prompt length would pay: replicas for buckets of length against replicas with one mix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.buckets import make_buckets, split_by_length
from bench.run import Measured, Say
from bench.spread import make_figure
from shoal.domain.pool import ClaimKind, Datasheet, NodeStock, Pool, Stock
from shoal.domain.profile import LengthMix, Link, ModelFacts, Profile, ProfileRow, Source
from shoal.domain.service import EngineFacts, Objective, Service, ServiceKey, Workload
from shoal.domain.snapshot import Snapshot
from shoal.planner.assess import Assessment, assess, make_world
from shoal.planner.candidates import Wish, find_plans
from shoal.planner.estimate import estimate_steps
from shoal.planner.ledger import Ledger, Room
from shoal.planner.memory import kv_tokens
from shoal.planner.sizing import total_cost

TITLE = "What routing by prompt length would save"
TYPES: Final = {
    "l4": (0.70, 24e9, Datasheet(0.3e12, 121e12)),
    "a10g": (1.01, 24e9, Datasheet(0.6e12, 125e12)),
    "a100": (3.67, 80e9, Datasheet(2.0e12, 312e12)),
    "h100": (7.516, 80e9, Datasheet(3.35e12, 989e12)),
}
"""Published price of a GPU for an hour, its bytes, its datasheet."""
FACTS: Final = ModelFacts(7.6e9, 15.2e9, 57_344, 32_768)
MIXES: Final = {
    "short": LengthMix(100, 150, 250, 300),
    "mixed": LengthMix(600, 150, 2400, 300),
    "long": LengthMix(3000, 200, 7000, 400),
}
ENGINE: Final = EngineFacts("vllm", "0.30.1")


@dataclass(frozen=True, slots=True)
class Settings:
    """Rates in requests per second, objectives for ITL in milliseconds."""

    rates: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    itl_ms: tuple[float, ...] = (40, 120, 200)


QUICK = Settings((4, 16), (120,))


def run(settings: Settings, directory: Path, say: Say) -> Measured:
    """Measure."""
    figures = []
    unanswered = 0
    for name, lengths in MIXES.items():
        savings = []
        for itl in settings.itl_ms:
            for rate in settings.rates:
                saving = find_saving(rate, lengths, itl)
                unanswered += saving is None
                savings += [] if saving is None else [saving]
        say(f"{name}: {len(savings)} cases")
        figures.append(make_figure(f"saved, {name} prompts", "%", savings))
    return Measured(
        figures=tuple(figures),
        setting={"rates": list(settings.rates), "ITL objectives": list(settings.itl_ms), "without answer": unanswered},
        notes=(
            "Simulated: step times of a roofline on datasheets, a 7.6 B model. Below zero: the same objective in every "
            "bucket costs more than the objective over all requests, which is what a ModelService asks for.",
        ),
    )


def find_saving(rate: float, lengths: LengthMix, itl_ms: float) -> float | None:
    """Percent of the cheapest plan without buckets that one with buckets would save; None where either has none."""
    assessment, room = make_case(rate, lengths, itl_ms)
    fleets = assessment.fleets
    plans = find_plans(Wish(fleets, rate, assessment.least, room))
    options = [fleet.option for fleet in fleets.values()]
    split = split_by_length(options, rate, make_buckets(lengths), room)
    if assessment.nearest is not None or not plans or split is None:
        return None
    usual = min(total_cost(plan, fleets) for plan in plans)
    return 100 * (1 - split.cost / usual)


def make_case(rate: float, lengths: LengthMix, itl_ms: float, gpus: int = 2000) -> tuple[Assessment, Room]:
    """One service that may use all four types, and its room."""
    pools, profiles = [], []
    for name, (price, memory, sheet) in TYPES.items():
        stock = Stock(tuple(NodeStock(f"{name}-{node}", 8, 8) for node in range(gpus // 8)))
        pool = Pool(name, name.upper(), memory, 2e9, ClaimKind.DRA, price, stock, link=Link.NVLINK)
        kv = kv_tokens(pool, FACTS, tensor_parallel=1, engines_per_gpu=1)
        row = ProfileRow(1, 1, 256, 2048, kv, lengths, steps=estimate_steps(FACTS, sheet, 1))
        pools.append(pool)
        profiles.append(
            Profile(name, "ml", "model", name.upper(), "vllm", "0.30.1", Source.SIMULATED, FACTS, (row,), Link.NVLINK)
        )
    service = Service(
        key=ServiceKey("ml", "chat"),
        uid="1",
        generation=1,
        created_at=0.0,
        model="model",
        facts=FACTS,
        max_context_tokens=8192,
        objective=Objective(95, 8000, itl_ms),
        workload=Workload(rate, lengths),
        engine=ENGINE,
        pools=tuple(TYPES),
    )
    world = make_world(Snapshot(0.0, (service,), tuple(pools), tuple(profiles)))
    room = Ledger(pools).room(service.key, world.pools, limit=None, beside_own=False)
    return assess(service, world), room
