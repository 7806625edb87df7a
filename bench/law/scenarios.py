"""Traffic of the scenarios in scenarios.json, and what each run of one comes to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.law.fluid import Fluid, Outcome, Setting, clairvoyant_gpu_seconds, run

FILE = Path(__file__).with_name("scenarios.json")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One run: which it was, and what came out."""

    scenario: str
    case: str
    seed: int
    moves: int
    attainment: float
    gpu_hours: float
    final: int
    needed: int  # ceil(rate/C) at the end
    bound: float  # the ceiling of attainment (step), GPU-hours of the clairvoyant (others)

    def to_dict(self) -> dict[str, Any]:
        """As the result file holds it."""
        return {
            "scenario": self.scenario,
            "case": self.case,
            "seed": self.seed,
            "moves": self.moves,
            "attainment": round(self.attainment, 5),
            "gpuHours": round(self.gpu_hours, 4),
            "final": self.final,
            "needed": self.needed,
            "bound": round(self.bound, 5),
        }


def read_scenarios() -> dict[str, Any]:
    """The fixed scenarios and seeds."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def make_setting(scenarios: dict[str, Any]) -> Setting:
    """The replica of every scenario."""
    replica = scenarios["replica"]
    return Setting(
        replica["capacity"], replica["startupSeconds"], replica["tickSeconds"], replica["ttftMilliseconds"] / 1000
    )


def run_all(scenarios: dict[str, Any], *, quick: bool = False) -> Iterator[Row]:
    """Every run, in order; quick: one seed of each, and the first cases."""
    setting = make_setting(scenarios)
    yield from _constant(scenarios["constant"], setting, 1 if quick else None)
    yield from _step(scenarios["step"], setting, 1 if quick else None)
    yield from _diurnal(scenarios["diurnal"], setting, 1 if quick else None)


def _constant(scenario: dict[str, Any], setting: Setting, most: int | None) -> Iterator[Row]:
    """Poisson arrivals at a rate that wanders a little."""
    ticks = int(scenario["seconds"] / setting.tick)
    knots = int(scenario["seconds"] / scenario["wanderSeconds"]) + 1
    for start in scenario["starts"][:most]:
        for rate in scenario["rates"][: most and 4]:
            for seed in scenario["seeds"][:most]:
                rng = np.random.default_rng((seed, int(100 * rate)))
                wander = rng.uniform(-scenario["wander"], scenario["wander"], knots)
                times = (np.arange(ticks) + 0.5) * setting.tick / scenario["wanderSeconds"]
                rates = rate * (1 + np.interp(times, np.arange(knots), wander))
                needed = math.ceil(rate / setting.capacity)
                fluid = Fluid(setting, start=needed if start == "sized" else 1)
                outcome = run(fluid, _poisson(rates, setting, rng))
                yield _row("constant", f"{rate:g} req/s, {start}", seed, outcome, setting, needed)


def _step(scenario: dict[str, Any], setting: Setting, most: int | None) -> Iterator[Row]:
    """Low, high, low again, from one replica. Nobody who sees only the past can start earlier than a tick after it."""
    phase = int(scenario["phaseSeconds"] / setting.tick)
    low, high = scenario["low"], scenario["high"]
    rates = np.repeat([low, high, low], phase)
    total = float(rates.sum()) * setting.tick
    ceiling = 1 - high * (setting.startup + setting.tick) / total
    for seed in scenario["seeds"][:most]:
        rng = np.random.default_rng(seed)
        outcome = run(Fluid(setting, start=1), _poisson(rates, setting, rng))
        needed = math.ceil(low / setting.capacity)
        row = _row("step", f"{low:g}-{high:g}-{low:g} req/s", seed, outcome, setting, needed)
        yield Row(**{**{f: getattr(row, f) for f in Row.__slots__}, "bound": ceiling})


def _diurnal(scenario: dict[str, Any], setting: Setting, most: int | None) -> Iterator[Row]:
    """A sine with Poisson arrivals, from the replicas that its start needs."""
    for case in scenario["cases"][:most]:
        mean, amplitude, period = case["mean"], case["amplitude"], case["periodSeconds"]
        times = (np.arange(int(scenario["periods"] * period / setting.tick)) + 0.5) * setting.tick
        rates = mean * (1 - amplitude * np.cos(2 * math.pi * times / period))
        for seed in scenario["seeds"][:most]:
            rng = np.random.default_rng((seed, int(mean), int(period)))
            first = math.ceil(rates[0] / setting.capacity)
            fluid = Fluid(setting, start=first)
            outcome = run(fluid, _poisson(rates, setting, rng))
            name = f"{mean:g} req/s ±{amplitude:.0%}, {period / 3600:g} h"
            yield _row("diurnal", name, seed, outcome, setting, math.ceil(rates[-1] / setting.capacity))


def _poisson(rates: Floats, setting: Setting, rng: np.random.Generator) -> list[float]:
    return [float(count) for count in rng.poisson(rates * setting.tick)]


def _row(scenario: str, case: str, seed: int, outcome: Outcome, setting: Setting, needed: int) -> Row:  # noqa: PLR0917
    misses = outcome.requests - outcome.good
    return Row(
        scenario=scenario,
        case=case,
        seed=seed,
        moves=outcome.moves,
        attainment=outcome.attainment,
        gpu_hours=outcome.gpu_seconds / 3600,
        final=outcome.targets[-1],
        needed=needed,
        bound=clairvoyant_gpu_seconds(outcome.rates, setting, misses) / 3600,
    )
