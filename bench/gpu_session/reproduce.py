"""`python -m bench.gpu_session.reproduce [JOURNALS] [--known OTHER]`: the simulated engine beside real ones' journals.

Nothing that is compared was seen by what it is compared with. The step times of a point are fitted to its journal's
other points; those of another mix, or of a journal without probes, to the journal of the profile's mix. The front end
(shoal.sim.front_end) is fitted to the journals of the other models. With --known all of that comes from another
session, and everything replayed is unseen. A replay has the arrivals, lengths and window of the real step
(bench.gpu_session.replay).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from bench.gpu_session.judge_blind import Run, base_of, read_runs, subject_of
from bench.gpu_session.replay import BLOCK_TOKENS, Played, play
from bench.gpu_session.results import RESULTS
from bench.sim_validation.spread import summarise
from shoal.domain.profile import StepModel
from shoal.profiler.fit import fit_steps
from shoal.profiler.points import Point
from shoal.profiler.specs import Kind
from shoal.sim.engine import EngineLimits
from shoal.sim.front_end import FrontEnd

SESSION: Final = RESULTS / "h200-2026-11-28"
USUAL_MS: Final = 10.0  # added to the delays by which a fit weighs them
FIGURES: Final = (
    ("ttft", "mean"),
    ("ttft", "p50"),
    ("ttft", "p95"),
    ("itl", "mean"),
    ("itl", "p50"),
    ("itl", "p95"),
)


@dataclass(frozen=True, slots=True)
class Replay:
    """One real point and its replay. `unseen`: what the fit did not know: the rate, the mix, or the session."""

    run: Run
    point: Point
    unseen: str
    played: Played

    @property
    def overloaded(self) -> bool:
        """Whether more arrived than was served."""
        return not self.point.keeps_up

    @property
    def real_rate(self) -> float:
        """Output tokens per second, as the engines count them."""
        return self.point.engine.get("outputRate") or self.point.output_rate

    def rate_error(self) -> float:
        """Simulated over real throughput, less 1."""
        return self.played.output_rate / self.real_rate - 1

    def latency(self, kind: str, name: str) -> tuple[float, float] | None:
        """Real and simulated, ms; None where either has none."""
        statistic, simulated = getattr(self.point, kind), self.played.of(kind, name)
        return None if statistic is None or simulated is None else (getattr(statistic, name), simulated)


class Session:
    """A session's journals, and what is fitted to parts of them, or to those of another session."""

    def __init__(self, runs: Sequence[Run], known: Sequence[Run] = ()) -> None:
        self.runs = [run for run in runs if run.mix is not None]
        self.apart = bool(known)
        self.profiles = [run for run in known or self.runs if _is_profile(run)]
        self.front_end = cache(self._front_end)

    def replays(self, run: Run) -> Iterator[Replay]:
        """Every open-loop point of a journal that can be compared."""
        base = run if run in self.profiles else base_of(run, self.profiles)
        if base is None:
            return
        unseen = ("session" if self.apart else "rate") if run.mix == base.mix else "mix"
        for point in comparable(run):
            steps = fit(base, without=point)
            if steps is not None:
                front_end = self.front_end(run.key.model)
                yield Replay(run, point, unseen, play(steps, limits(run), run.measured.settings, point.spec, front_end))

    def _front_end(self, model: str) -> FrontEnd:
        return fit_front_end([run for run in self.profiles if run.key.model != model])


def _is_profile(run: Run) -> bool:
    """Whether step times can be fitted: with probes, and not only of the knee."""
    return run.mix == "chat" and {"idle", "overload"} <= {point.spec.name for point in run.measured.points}


def comparable(run: Run) -> list[Point]:
    """Open-loop points that ran to their end and whose clients were quick enough."""
    return [p for p in run.measured.points if p.spec.kind is Kind.OPEN and not p.invalid and not p.stopped and p.ttft]


def fit(run: Run, without: Point | None = None) -> StepModel | None:
    """Step times from a journal's points but one; None when they are too few."""
    shape, settings = run.measured.shape, run.measured.settings
    points = [point for point in run.measured.points if point is not without]
    datasheet = subject_of(run).datasheet_steps(shape)
    found = fit_steps(points, chunk=shape.max_num_batched_tokens, engines=settings.engines, datasheet=datasheet)
    return None if found is None else found.steps


def limits(run: Run) -> EngineLimits:
    """Those of each engine."""
    shape = run.measured.shape
    return EngineLimits(shape.max_num_seqs, shape.max_num_batched_tokens, int(run.kv_tokens // BLOCK_TOKENS))


def fit_front_end(runs: Sequence[Run]) -> FrontEnd:
    """Least squares of how much later first tokens came than the engine alone has them, by relative weight.

    Each point that keeps up gives `real - simulated mean TTFT = fixed + wait * N^2/T`, with the running sequences and
    the step that were measured.
    """
    rows, values, weights = [], [], []
    for run in runs:
        steps, engines = fit(run), run.measured.settings.engines
        for point in comparable(run):
            if steps is None or not point.keeps_up or point.ttft is None or not point.step_ms or not point.decoding:
                continue
            alone = play(steps, limits(run), run.measured.settings, point.spec).of("ttft", "mean") or 0.0
            late = point.ttft.mean - alone
            running = point.decoding / engines
            rows.append((1.0, running**2 / point.step_ms / 1000))
            values.append(late)
            weights.append(1 / (USUAL_MS + abs(late)))
    scale = np.array(weights)
    fixed, wait = np.linalg.lstsq(np.array(rows) * scale[:, None], np.array(values) * scale, rcond=None)[0]
    return FrontEnd(max(0.0, float(fixed)), max(0.0, float(wait)))


def point_table(replays: Sequence[Replay]) -> Iterator[str]:
    """Every point: real / simulated."""
    yield "| journal | unseen | requests/s | output tokens/s | TTFT p50, ms | TTFT p95 | ITL p50 | ITL p95 |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for replay in replays:
        over = ", overloaded" if replay.overloaded else ""
        rates = f"{replay.real_rate:.0f} / {replay.played.output_rate:.0f} ({replay.rate_error():+.0%})"
        cells = [_pair(replay, kind, name) for kind, name in FIGURES if name != "mean"]
        yield (
            f"| {replay.run.name} | {replay.unseen} | {replay.point.spec.rate:.1f}{over} | {rates} | "
            f"{' | '.join(cells)} |"
        )


def _pair(replay: Replay, kind: str, name: str) -> str:
    found = replay.latency(kind, name)
    if found is None:
        return "-"
    digits = 0 if kind == "ttft" else 1
    return f"{found[0]:.{digits}f} / {found[1]:.{digits}f}"


def error_table(replays: Sequence[Replay]) -> Iterator[str]:
    """Per model: throughput when overloaded, and latencies while it keeps up. Simulated over real, less 1."""
    yield "| model | figure | points | bias | rms | worst | worst point |"
    yield "|---|---|---:|---:|---:|---:|---|"
    by_model: dict[str, list[Replay]] = defaultdict(list)
    for replay in replays:
        by_model[replay.run.key.model].append(replay)
    for model, own in by_model.items():
        for figure, errors in _errors(own).items():
            if errors:
                told = summarise(errors)
                yield (
                    f"| {model} | {figure} | {told.runs} | {told.bias:+.0%} | {told.rms:.0%} | {told.worst:+.0%} | "
                    f"{told.worst_at} |"
                )


def _errors(replays: Sequence[Replay]) -> Mapping[str, list[tuple[str, float]]]:
    errors: dict[str, list[tuple[str, float]]] = {"overloaded tokens/s": []}
    for replay in replays:
        where = f"{replay.run.name} at {replay.point.spec.rate:.1f}"
        if replay.overloaded:
            errors["overloaded tokens/s"].append((where, replay.rate_error()))
            continue
        for kind, name in FIGURES:
            if (found := replay.latency(kind, name)) is not None:
                errors.setdefault(f"{kind.upper()} {name}", []).append((where, found[1] / found[0] - 1))
    return errors


def overall(replays: Sequence[Replay]) -> Iterator[str]:
    """Whether overloaded throughput is within 15 %, and medians of everything else."""
    over = [replay.rate_error() for replay in replays if replay.overloaded]
    if over:
        good = sum(abs(error) <= 0.15 for error in over)
        yield f"- overloaded throughput: {good} of {len(over)} points within 15 %, worst {max(over, key=abs):+.0%}"
    for figure, errors in _errors([replay for replay in replays if not replay.overloaded]).items():
        if errors:
            values = [error for _, error in errors]
            median = statistics.median(abs(value) for value in values)
            yield f"- {figure}: {len(values)} points, median error {median:.0%}, bias {statistics.fmean(values):+.0%}"


def main() -> int:
    """Print the tables; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journals", type=Path, nargs="?", default=SESSION, help="a session's directory")
    parser.add_argument("--known", type=Path, help="the session that step times and front ends are fitted to")
    options = parser.parse_args()
    session = Session(read_runs(options.journals), read_runs(options.known) if options.known else ())
    replays = [replay for run in session.runs for replay in session.replays(run)]
    told = {replay.run.name for replay in replays}
    for model in sorted({run.key.model for run in session.runs}):
        front_end = session.front_end(model)
        print(f"front end without {model}: {front_end.fixed_ms:.1f} ms, {front_end.wait_ms:.1f} ms per million")
    print(*overall(replays), "", *error_table(replays), "", *point_table(replays), sep="\n")
    print("\nToo few points to leave one out:", ", ".join(r.name for r in session.runs if r.name not in told) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
