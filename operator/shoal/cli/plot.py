"""The picture of `shoal plan`: which configurations no other one beats, and what each rate would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from shoal.api.errors import ApiError
from shoal.domain.plan import Decision, Infeasible
from shoal.domain.service import ServiceKey
from shoal.domain.snapshot import Snapshot
from shoal.planner.decide import decide

_STEPS: Final = 40
_BEYOND: Final = 2.0  # the costs are drawn up to so many times the rate asked for


def plot_plans(snapshot: Snapshot, decisions: Mapping[ServiceKey, Decision], path: Path) -> None:
    """Write one row for each service: its frontier on the left, cost against rate on the right. Raises ApiError."""
    figure = Figure(figsize=(11, 4 * len(decisions)), layout="constrained")
    axes = figure.subplots(len(decisions), 2, squeeze=False)
    for (left, right), decision in zip(axes, decisions.values(), strict=True):
        _draw_frontier(left, decision)
        _draw_cost(right, snapshot, decision)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ApiError(f"cannot be written: {error}", where=str(path), advice="Name a .png, .svg or .pdf") from error


def _draw_frontier(axes: Any, decision: Decision) -> None:
    used = {variant.placement for variant in decision.plan.variants}
    for point in decision.explanation.frontier:
        latency = point.capacity.itl_ms if point.capacity.itl_ms is not None else point.capacity.ttft_ms or 0.0
        chosen = point.placement in used
        axes.scatter(point.rate_per_gpu, latency, marker="*" if chosen else "o", s=160 if chosen else 40)
        axes.annotate(str(point.placement), (point.rate_per_gpu, latency), xytext=(6, 4), textcoords="offset points")
    axes.set(title=f"{decision.service}: frontier (* planned)", xlabel="requests/s per GPU", ylabel="latency, ms")
    axes.margins(0.25)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)


def _draw_cost(axes: Any, snapshot: Snapshot, decision: Decision) -> None:
    service = next(service for service in snapshot.services if service.key == decision.service)
    top = _BEYOND * max(service.workload.rate, 1.0)
    rates, costs, colours = [], [], []
    for step in range(_STEPS + 1):
        rate = top * step / _STEPS
        asked = replace(service, workload=replace(service.workload, rate=rate))
        others = tuple(asked if other.key == service.key else other for other in snapshot.services)
        answer = decide(replace(snapshot, services=others)).decisions[service.key]
        rates.append(rate)
        costs.append(answer.plan.cost_per_hour)
        colours.append("tab:red" if isinstance(answer, Infeasible) else "tab:blue")
    axes.step(rates, costs, where="post", color="lightgrey")
    axes.scatter(rates, costs, c=colours, s=12)
    axes.axvline(service.workload.rate, linestyle=":", color="grey")
    axes.set(title="cost (red: not all of it can be met)", xlabel="requests/s", ylabel="price per hour")
    axes.set_ylim(bottom=0)
