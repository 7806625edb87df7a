"""The benches of capacity and of the law run, and their fluid is what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.capacity.__main__ import find_errors
from bench.capacity.holdout import hold_out
from bench.law.fluid import Fluid, Setting, clairvoyant_gpu_seconds, run
from bench.law.scenarios import read_scenarios, run_all

RESULTS = Path(__file__).parents[2] / "bench" / "results"
SETTING = Setting(capacity=12.0, startup=90.0, tick=5.0, ttft=0.5)


def test_a_sample_of_the_law() -> None:
    rows = list(run_all(read_scenarios(), quick=True))
    assert {row.scenario for row in rows} == {"constant", "step", "diurnal"}
    for row in rows:
        if row.scenario == "constant":
            assert row.moves <= 1
            assert abs(row.final - row.needed) <= 1
        elif row.scenario == "step":
            assert row.bound - 0.02 < row.attainment <= row.bound
        else:
            assert 1.0 <= row.gpu_hours / row.bound < 1.10


def test_hold_out_errors_are_those_of_the_documentation() -> None:
    """Real runs and fixed fits: the same numbers on every machine."""
    written = json.loads((RESULTS / "capacity.json").read_text())["errors"]
    real = [errors.to_dict() for errors in hold_out()]
    assert real == written[: len(real)]
    steady = [entry for entry in real if "steady" in entry["kind"] and "out of KV" not in entry["kind"]]
    assert max(abs(entry["worst"]) for entry in steady) < 0.11


def test_every_comparison_runs() -> None:
    found = list(find_errors(quick=True))
    assert all(errors.pairs and math.isfinite(errors.rms) for errors in found)
    kinds = {errors.kind for errors in found}
    assert {"saturation from mean ITL", "p95 ITL at a point left out", "simulated: saturation"} <= kinds


@pytest.mark.parametrize(
    ("counts", "start", "attainment"),
    [
        ([50.0] * 20, 1, 1.0),  # 10 of 12 requests per second: nothing waits
        ([0.0] * 20, 1, 1.0),
        ([200.0], 1, 0.5 / (200 / (12 / 0.9 / 0.93) / 5 - 1) / 5),  # the queue reaches 0.5 s after 0.28 s
    ],
)
def test_the_fluid(counts: list[float], start: int, attainment: float) -> None:
    assert run(Fluid(SETTING, start=start), counts).attainment == pytest.approx(attainment)


def test_the_clairvoyant_takes_the_cheapest_misses() -> None:
    assert clairvoyant_gpu_seconds([12.0, 12.0], SETTING, 0.0) == pytest.approx(10)
    assert clairvoyant_gpu_seconds([13.0, 12.0], SETTING, 0.0) == pytest.approx(15)
    assert clairvoyant_gpu_seconds([13.0, 12.0], SETTING, 5.0) == pytest.approx(10)  # one request each second for 5 s
    assert clairvoyant_gpu_seconds([13.0, 12.0], SETTING, 2.5) == pytest.approx(12.5)
