"""Predicted beside observed, as metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.live import LiveSample, Residual
from shoal.domain.plan import Capacity, Demand, Explanation, Plan, PlannedVariant, Prediction, Scale
from shoal.domain.profile import LengthMix, ProfileRow
from shoal.domain.reasons import Binding, ProfileState
from shoal.domain.service import ServiceKey
from shoal.reconciler.metrics import ResidualMetrics
from shoal.reconciler.planloop import PlanLoop, Planned

KEY = ServiceKey("team", "chat")
TP1 = Placement("h100", Configuration("NVIDIA-H100-80GB-HBM3"))
LABELS = {"namespace": "team", "service": "chat", "pool": "h100", "configuration": "TP1"}


def collect(itl: float | None, credited: float | None) -> dict[tuple[str, str | None], float]:
    row = ProfileRow(1, 1, 256, 2048, 1e5, LengthMix(512, 128, 1024, 256))
    sample = LiveSample(0.0, 60.0, 1, 2.0, 120.0, ttft_mean_ms=180.0, itl_mean_ms=itl)
    residual = Residual(TP1, sample, row, True, 2.0, 150.0, 20.0, None if itl is None else itl / 20.0)
    capacity = Capacity(5.0, 8.0, None, None, 0.7, ProfileState.LEARNED, None, "ITL", credited)
    plan = Plan((PlannedVariant(TP1, 1, capacity),), Prediction(None, None, 0.5), 3.0, Binding.DEMAND)
    demand = Demand(2.0, 2.0, 0.1, 0.0, 300.0, observed=True)
    decision = Scale(KEY, plan, (), Explanation(demand, ProfileState.LEARNED, residuals=(residual,)), moved=False)
    planned = Planned(resource=cast(Any, None), decision=decision)
    loop = cast(PlanLoop, SimpleNamespace(plans={KEY: planned, ServiceKey("team", "new"): Planned(cast(Any, None))}))
    samples = [sample for family in ResidualMetrics(loop).collect() for sample in family.samples]
    assert all(LABELS.items() <= sample.labels.items() for sample in samples)
    return {(sample.name, sample.labels.get("latency")): sample.value for sample in samples}


def test_every_number_that_was_told() -> None:
    assert collect(30.0, 4.0) == {
        ("shoal_residual_time_ratio", None): 1.5,
        ("shoal_credited_requests_per_second", None): 4.0,
        ("shoal_predicted_latency_seconds", "ttft"): 0.15,
        ("shoal_predicted_latency_seconds", "itl"): 0.02,
        ("shoal_observed_latency_seconds", "ttft"): 0.18,
        ("shoal_observed_latency_seconds", "itl"): 0.03,
    }


def test_what_was_not_told_is_not_there() -> None:
    found = collect(None, None)
    assert ("shoal_observed_latency_seconds", "itl") not in found
    assert ("shoal_residual_time_ratio", None) not in found
    assert ("shoal_credited_requests_per_second", None) not in found
