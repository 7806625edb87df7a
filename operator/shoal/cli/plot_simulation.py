"""The picture of `shoal simulate`: rate, replicas and latency of each service over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from shoal.api.errors import ApiError
from shoal.sim.door import SimRequest
from shoal.sim.quantiles import percentile
from shoal.sim.result import Result
from shoal.sim.scenario import Scenario, ServiceSpec
from shoal.sim.timeline import Sample

_BINS: Final = 120  # latency is drawn in so many pieces of time


def plot_result(result: Result, scenario: Scenario, path: Path) -> None:
    """Write one column for each service. Raises ApiError."""
    figure = Figure(figsize=(max(8, 7 * len(scenario.services)), 9), layout="constrained")
    figure.suptitle(
        f"{result.scenario}, policy {result.policy} (simulated): {result.attainment:.1%} within the SLO, "
        f"{result.gpu_hours:.2f} GPU-hours, {len(result.moves)} moves"
    )
    axes = figure.subplots(3, len(scenario.services), sharex="col", squeeze=False)
    for column, spec in enumerate(scenario.services):
        samples = [sample for sample in result.timeline if sample.service == spec.name]
        _draw_rate(axes[0][column], spec, samples)
        _draw_replicas(axes[1][column], samples)
        _draw_latency(axes[2][column], spec, result.requests.get(spec.name, ()), result.seconds)
        for row in axes:
            _mark(row[column], result, scenario, spec)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ApiError(f"cannot be written: {error}", where=str(path), advice="Name a .png, .svg or .pdf") from error


def _draw_rate(axes: Any, spec: ServiceSpec, samples: Sequence[Sample]) -> None:
    pairs = [(one, two) for one, two in pairwise(samples) if two.at > one.at]
    rates = [(two.arrived - one.arrived) / (two.at - one.at) for one, two in pairs]
    axes.plot([two.at for _, two in pairs], rates, linewidth=0.8)
    axes.set(title=spec.name, ylabel="arrivals, requests/s")
    axes.set_ylim(bottom=0)


def _draw_replicas(axes: Any, samples: Sequence[Sample]) -> None:
    at = [sample.at for sample in samples]
    axes.step(at, [sample.desired for sample in samples], where="post", label="replicas wanted")
    axes.step(at, [sample.ready for sample in samples], where="post", label="replicas that serve")
    axes.step(at, [sample.gpus for sample in samples], where="post", label="GPUs held", linestyle=":", color="grey")
    axes.set(ylabel="number")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", fontsize="small")


def _draw_latency(axes: Any, spec: ServiceSpec, requests: Iterable[SimRequest], seconds: float) -> None:
    answered = [request for request in requests if request.answered]
    width = max(seconds / _BINS, 1e-9)
    for name, colour, objective, value in (
        ("p95 TTFT", "tab:blue", spec.objective.ttft_ms, lambda r: r.ttft_ms),
        ("p95 ITL", "tab:orange", spec.objective.itl_ms, lambda r: r.itl_ms),
    ):
        points = _p95_over_time(answered, width, value)
        axes.plot([at for at, _ in points], [v for _, v in points], color=colour, label=name, linewidth=0.9)
        if objective is not None:
            axes.axhline(objective, color=colour, linestyle="--", linewidth=0.8)
    axes.set(ylabel="ms, by time sent (dashed: SLO)", xlabel="seconds", yscale="log")
    axes.legend(loc="upper right", fontsize="small")


def _p95_over_time(
    requests: Iterable[SimRequest], width: float, value: Callable[[SimRequest], float | None]
) -> list[tuple[float, float]]:
    bins: dict[int, list[float]] = defaultdict(list)
    for request in requests:
        if (latency := value(request)) is not None:
            bins[int(request.at / width)].append(latency)
    return [((number + 0.5) * width, percentile(sorted(bins[number]), 0.95)) for number in sorted(bins)]


def _mark(axes: Any, result: Result, scenario: Scenario, spec: ServiceSpec) -> None:
    """Moves as lines, incidents as bands."""
    for move in result.moves:
        if move.service == spec.name:
            axes.axvline(move.at, color="tab:green", linewidth=0.5, alpha=0.6)
    for incident in scenario.incidents:
        axes.axvspan(incident.at, min(incident.until or result.seconds, result.seconds), color="tab:red", alpha=0.08)
