"""`python -m bench.gpu_session.report`: the tables and plots of docs/real-engine.md from a session's journals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.gpu_session.make_profiles import fitted_row, subject_of
from bench.gpu_session.plans import Task
from bench.gpu_session.results import RESULTS, Result, read_session
from shoal.domain.plan import Capacity
from shoal.domain.reasons import ProfileState
from shoal.domain.service import Objective
from shoal.planner.capacity import Basis, rate_row
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.points import Point
from shoal.profiler.specs import Kind

DOCS = Path(__file__).resolve().parents[2] / "docs"
SESSION = "h200-2026-11-28"
HEADER = (
    "| job | engines x GPUs | overloaded, req/s | highest rate seen within the objective | there: p95 TTFT, ITL, ms | "
    "KV used | watts | MHz |\n|---|---|---|---|---|---|---|---|"
)

PREDICTED = (
    "| mix | saturation predicted | measured | error | planned for (margin taken) | highest rate seen within the "
    "objective |\n|---|---|---|---|---|---|"
)


def within(point: Point) -> bool:
    """Whether the 95th percentiles of an open-loop point are within its objective, and its queue did not grow."""
    return bool(point.ttft and point.itl and point.keeps_up and point.ttft.p95 <= 500 and point.itl.p95 <= 50)


def best(result: Result) -> Point | None:
    """The open-loop point of the highest rate that was within the objective."""
    points = [p for p in result.measured.points if p.spec.kind is Kind.OPEN and not p.invalid and within(p)]
    return max(points, key=lambda point: point.spec.rate or 0.0, default=None)


def row(result: Result) -> str:
    """One line of the table; rates are of all engines together."""
    top, measured = best(result), result.measured
    saturation = f"{measured.saturation:.1f}" if measured.saturation else "not reached"
    shape = f"{measured.settings.engines} x {result.gpus}"
    if top is None or top.ttft is None or top.itl is None:
        return f"| {result.job.name} | {shape} | {saturation} | - | - | - | - | - |"
    latency = f"{top.ttft.p95:.0f}, {top.itl.p95:.1f}"
    return (
        f"| {result.job.name} | {shape} | {saturation} | {top.spec.rate or 0.0:.1f} | {latency} | "
        f"{top.engine['kvUsageMost']:.0%} | {top.gpu['watts']:.0f} | {top.gpu['clock_mhz']:.0f} |"
    )


def foretell(base: Result, other: Result) -> Capacity | None:
    """What the planner has for another mix from the base's profile."""
    row, settings = fitted_row(subject_of(base), base), other.measured.settings
    if row is None:
        return None
    basis = Basis(
        row=row,
        state=ProfileState.MEASURED,
        profile=None,
        clock_mhz=None,
        lengths=parse_lengths(settings.lengths).mix(settings.longest),
        objective=Objective(95, 500.0, 50.0),
        kv_cache_tokens=row.kv_cache_tokens,
    )
    rating = rate_row(basis)
    return None if rating is None else rating.capacity


def prediction(base: Result, other: Result) -> str:
    """One line: the saturation at another mix as it was foretold, and as it was."""
    capacity, saturation = foretell(base, other), other.measured.saturation
    if capacity is None or saturation is None:
        return f"| {other.job.name} | - | - | - | - | - |"
    top = best(other)
    seen = f"{top.spec.rate or 0.0:.1f}" if top else "-"
    error = capacity.overload_rate / saturation - 1
    return (
        f"| {other.job.name} | {capacity.overload_rate:.1f} | {saturation:.1f} | {error:+.0%} | "
        f"{capacity.rate:.1f} | {seen} |"
    )


def plot(results: Sequence[Result], path: Path) -> None:
    """Power and clock against throughput, and p95 ITL against the share of saturation."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - heavy, and only for the documentation

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for result in results:
        points = sorted(
            (p for p in result.measured.points if p.spec.kind is Kind.OPEN and not p.invalid and not p.stopped),
            key=lambda point: point.output_rate,
        )
        if len(points) < 2 or result.mps or result.job.task is not Task.PROFILE:
            continue
        rates = [point.output_rate / result.gpus / 1000 for point in points]
        left.plot(rates, [p.gpu["watts"] / result.gpus for p in points], marker="o", ms=3, label=result.job.name)
        right.plot(rates, [p.itl.p95 if p.itl else None for p in points], marker="o", ms=3, label=result.job.name)
    left.set(xlabel="thousand output tokens/s per GPU", ylabel="watts per GPU")
    right.set(xlabel="thousand output tokens/s per GPU", ylabel="p95 ITL, ms", ylim=(0, 50))
    for axes in (left, right):
        axes.set_xscale("log")
    left.legend(fontsize=7, ncols=2)
    figure.suptitle("vLLM 0.26, NVIDIA H200, 512 + 128 tokens, one run each")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> int:
    """Print the table and write the plot."""
    results = read_session(RESULTS / SESSION)
    print(HEADER)
    for result in results:
        print(row(result))
    print()
    print(PREDICTED)
    by_name = {result.job.name: result for result in results}
    for result in results:
        if result.job.after is not None and result.job.task is Task.MIX:
            print(prediction(by_name[result.job.after], result))
    plot(results, DOCS / "images" / "h200-2026-11-28.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
