"""`python -m bench.gpu_session.checks SESSION`: knee against sweep, the clock's law, jobs seen in two sessions."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path

from bench.gpu_session.clock import Setting, fit_clock
from bench.gpu_session.plans import Task
from bench.gpu_session.report import best
from bench.gpu_session.results import RESULTS, planned, read_session, read_settings
from shoal.profiler.journal import Journal
from shoal.profiler.knee import find_bracket
from shoal.profiler.points import Point
from shoal.profiler.specs import Objective

CLOCK_HEADER = (
    "| model | prompt | clock, MHz | watts | time of a request, ms | share that follows the clock | residual, ms |\n"
    "|---|---|---|---|---|---|---|"
)
REPEAT_HEADER = (
    "| job | overloaded, req/s | again | difference | highest rate within the objective | again |\n"
    "|---|---|---|---|---|---|"
)


def late_share(point: Point) -> float:
    """Share of the window's requests that missed the objective, of what was seen when it was stopped."""
    return max(point.late_first, point.late_gap) / max(1, point.planned)


def swept_knee(points: Sequence[Point], allowed: float) -> tuple[float, float] | None:
    """The two neighbouring rates of a sweep between which more than `allowed` are late; None when all or none are."""
    rated = sorted((point for point in points if point.spec.rate), key=lambda point: point.spec.rate or 0.0)
    for below, above in pairwise(rated):
        if late_share(below) <= allowed < late_share(above) or (late_share(below) <= allowed and above.stopped):
            return below.spec.rate or 0.0, above.spec.rate or 0.0
    return None


def knee_lines(session: Path, engine: str) -> Iterator[str]:
    """What the search found, how long it took, and what the sweep shows."""
    search, sweep = (read_points(session / f"{engine}-{name}.jsonl") for name in ("knee", "sweep"))
    objective = Objective(**read_settings(session / f"{engine}-knee.jsonl")["objective"])
    bracket = find_bracket(search, objective)
    if bracket is None or bracket.knee is None:
        yield f"{engine}: the search found no knee"
        return
    took = search[-1].began + search[-1].took - search[0].began
    yield (
        f"{engine}: knee {bracket.knee:.1f} req/s (between {bracket.low or 0:.1f} and {bracket.high:.1f}) "
        f"after {len(search)} steps and {took:.0f} s"
    )
    for point in sorted(sweep, key=lambda point: point.spec.rate or 0.0):
        ttft, itl = (f"{s.p95:.1f}" if s else "-" for s in (point.ttft, point.itl))
        yield (
            f"  sweep {point.spec.rate:.1f} req/s: {late_share(point):.1%} late of {point.planned}, "
            f"p95 TTFT {ttft} ms, ITL {itl} ms{', stopped' if point.stopped else ''}"
        )
    tolerance = max(0.05, 2 * math.sqrt(2 / max(point.planned for point in sweep))) if sweep else 0.05
    swept = swept_knee(sweep, objective.allowed)
    yield f"  the sweep's knee is between {swept}; tolerated ±{tolerance:.1%}" if swept else "  the sweep has no knee"


def clock_lines(session: Path) -> Iterator[str]:
    """One line for each model and prompt length."""
    for path in sorted(session.glob("*-clock-settings.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        settings = [Setting(**{**line, "times_ms": tuple(line["times_ms"])}) for line in lines]
        for prompt, group in groupby(settings, key=lambda setting: setting.prompt):
            found = list(group)
            clocks, times = [s.clock for s in found], [s.time_ms for s in found]
            watts = [s.watts or 0.0 for s in found]
            law = fit_clock(found)
            share = f"{law.share:.0%} | {law.rms_ms:.2f}" if law else "the clock hardly moved | -"
            model = path.name.removesuffix("-clock-settings.jsonl")
            yield (
                f"| {model} | {prompt} | {min(clocks):.0f} to {max(clocks):.0f} | "
                f"{min(watts):.0f} to {max(watts):.0f} | {min(times):.1f} to {max(times):.1f} | {share} |"
            )


def repeat_lines(first: Path, second: Path) -> Iterator[str]:
    """Jobs that both sessions have, side by side."""
    before = {result.job.name: result for result in read_session(first)}
    for again in read_session(second):
        once = before.get(again.job.name)
        if once is None:
            continue
        rates = [result.measured.saturation for result in (once, again)]
        tops = [f"{top.spec.rate:.1f}" if (top := best(result)) else "-" for result in (once, again)]
        difference = f"{rates[1] / rates[0] - 1:+.1%}" if rates[0] and rates[1] else "-"
        shown = [f"{rate:.1f}" if rate else "not reached" for rate in rates]
        yield f"| {again.job.name} | {shown[0]} | {shown[1]} | {difference} | {tops[0]} | {tops[1]} |"


def read_points(path: Path) -> list[Point]:
    """A journal's points."""
    return Journal(path, read_settings(path)).points


def main() -> int:
    """Print everything of one session."""
    session = RESULTS / sys.argv[1]
    for engine in sorted({job.engines[0] for job, _, _ in planned() if job.task is Task.SWEEP}):
        if (session / f"{engine}-sweep.jsonl").exists():
            print(*knee_lines(session, engine), sep="\n")
    print("", CLOCK_HEADER, *clock_lines(session), sep="\n")
    for other in sorted(path for path in RESULTS.iterdir() if path.is_dir() and path < session):
        print("", f"Against {other.name}:", REPEAT_HEADER, *repeat_lines(other, session), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
