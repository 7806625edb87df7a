"""`python -m bench.gpu_session.judge_blind JOURNALS PREDICTIONS`: what was predicted beside what was measured.

Every journal with the length mix of a prediction is a line, the bad ones too. Three answers stand beside it: the frozen
one (from an earlier session's profile), the planner's from the profile of the same session (its row of CHAT; not
frozen, but from code and points that did not see the mix), and AIConfigurator's.

The measured rate within the objective is a bracket: the highest rate that was within it below the lowest that was not.
No rate above 1.05 times what was ever served counts as within it. Where the bracket is narrow its middle is what an
error is told against; where it is wide, an answer inside it is neither right nor wrong ("inside", left out of the
medians), and outside it the nearer end is what counts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.gpu_session.plans import CHAT
from bench.gpu_session.predict import MIXES, knee_of, rate
from bench.gpu_session.results import NAMES
from shoal.api.convert import row_to_domain
from shoal.domain.profile import Link, ProfileRow
from shoal.profiler.journal import Journal, read_journal
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.measured import Measured, Shape, Subject
from shoal.profiler.points import Point
from shoal.profiler.rows import make_row
from shoal.profiler.specs import Kind, Objective, Settings

NARROW: Final = 1.3  # high over low of a bracket whose middle counts as the rate
OPTIMISTIC: Final = 0.20
SERVED: Final = 1.05  # of the highest throughput seen: a window's chance
SAME_KV: Final = 1.15  # times more or less KV cache that still is the same configuration
ANSWERS: Final = ("frozen", "same session", "AIConfigurator")


@dataclass(frozen=True, slots=True)
class Key:
    """A configuration, without its KV cache."""

    model: str
    accelerator: str
    tensor_parallel: int
    engines: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Run:
    """One journal. `mps`: its engines shared a GPU under MPS, which no profile is made of."""

    name: str
    key: Key
    mps: bool
    measured: Measured

    @property
    def mix(self) -> str | None:
        """The name of its length mix; None when nothing was predicted for it."""
        return next((name for name, text in MIXES.items() if text == self.measured.settings.lengths), None)

    @property
    def kv_tokens(self) -> float:
        """Of one engine."""
        return float(self.measured.shape.kv_cache_tokens or math.nan)


@dataclass(frozen=True, slots=True)
class Bracket:
    """The highest rate within the objective lies between; `high` None: no rate that was tried missed it."""

    low: float
    high: float | None

    @property
    def told(self) -> bool:
        """Whether the rate is known well enough for a middle."""
        return self.high is not None and self.low > 0 and self.high <= NARROW * self.low

    def error(self, predicted: float) -> float | None:
        """Predicted over measured, less 1; None inside a wide bracket."""
        if self.told and self.high is not None:
            return predicted / math.sqrt(self.low * self.high) - 1
        if self.low > predicted:
            return predicted / self.low - 1
        return predicted / self.high - 1 if self.high is not None and predicted > self.high else None

    def __str__(self) -> str:
        return f"{self.low:.1f} to {self.high:.1f}" if self.high is not None else f"{self.low:.1f} or more"


def read_run(path: Path, gpu: str) -> Run | None:
    """A journal with load at a rate; None for another kind of file. Raises ProfilerError."""
    journal = read_journal(path)
    settings = json.loads(path.read_text(encoding="utf-8").partition("\n")[0])["settings"]
    facts = journal.facts
    if not journal.points or not {"model", "kvCacheTokens"} <= facts.keys():
        return None
    tensor_parallel = int(facts["tensorParallel"])
    key = Key(
        NAMES.get(facts["model"], facts["model"]),
        gpu,
        tensor_parallel,
        settings["engines"],
        settings["chunk"],
    )
    mps = "-mps" in path.stem
    return Run(path.stem, key, mps, _measured(journal, settings, tensor_parallel, mps=mps))


def _measured(journal: Journal, settings: Mapping[str, Any], tensor_parallel: int, *, mps: bool) -> Measured:
    shape = Shape(
        tensor_parallel=tensor_parallel,
        engines_per_gpu=settings["engines"],
        max_num_seqs=settings["batch"],
        max_num_batched_tokens=settings["chunk"],
        kv_cache_tokens=journal.facts["kvCacheTokens"][0],
        mps=mps,
    )
    known = Settings(**{**settings, "objective": Objective(**settings["objective"])})
    return Measured(shape, known, tuple(journal.points), complete=True, facts=dict(journal.facts))


def within(point: Point, objective: Objective) -> bool:
    """Whether the percentiles of an open-loop point are within the objective.

    By percentiles and not by counts of late requests: journals of the first session count answers of one token, which
    have no gap, as late.
    """
    if point.stopped or not point.keeps_up or point.ttft is None or point.itl is None:
        return False
    return point.ttft.p95 <= (objective.ttft_ms or math.inf) and point.itl.p95 <= (objective.itl_ms or math.inf)


def bracket_of(measured: Measured) -> Bracket | None:
    """Where the highest rate within the objective lies; None when no rate was tried."""
    tried: dict[float, list[bool]] = {}
    for point in measured.points:
        if point.spec.kind is Kind.OPEN and point.spec.rate and not point.client_failed:
            tried.setdefault(point.spec.rate, []).append(within(point, measured.settings.objective))
    if not tried:
        return None
    missed = [at for at, votes in tried.items() if 2 * sum(votes) <= len(votes)]
    high = min(missed, default=None)
    served = [at for at in tried if at not in missed and (high is None or at < high)]
    low = max(served, default=0.0)
    return Bracket(low, None if high is None else min(high, max(low, SERVED * _most_served(measured))))


def _most_served(measured: Measured) -> float:
    """The highest throughput of any rate that was tried."""
    return max(point.throughput for point in measured.points if point.spec.kind is Kind.OPEN and not point.stopped)


def subject_of(run: Run) -> Subject:
    """What was measured."""
    return Subject(run.key.model, run.key.accelerator, run.measured.facts["engineVersion"], link=Link.NVLINK)


def fitted(run: Run) -> ProfileRow | None:
    """The row a profile of this session would have."""
    row = make_row([run.measured], subject_of(run))
    return None if row is None else row_to_domain(row)


def base_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run of the same configuration at CHAT that saw saturation, the one with the most points."""
    found = [
        other
        for other in runs
        if other.key == run.key
        and other.mps == run.mps
        and other.measured.settings.lengths == CHAT
        and other.measured.saturation is not None
        and is_same_cache(other.kv_tokens, run.kv_tokens)
    ]
    return max(found, key=lambda other: len(other.measured.points), default=None)


def is_same_cache(one: float, other: float) -> bool:
    """Whether two KV caches are about equally large."""
    return 1 / SAME_KV <= one / other <= SAME_KV


@dataclass(frozen=True, slots=True)
class Answer:
    """What one way of predicting has: per second, of all engines; `planned` with the margin, where there is one."""

    saturation: float
    knee: float
    planned: float | None = None
    state: str = ""


def from_session(run: Run, runs: Sequence[Run]) -> Answer | None:
    """The planner's answer from the same session's row of another mix."""
    base = base_of(run, runs)
    row = fitted(base) if base is not None and run.measured.settings.lengths != CHAT else None
    settings = run.measured.settings
    rating = rate(row, parse_lengths(settings.lengths).mix(settings.longest)) if row is not None else None
    if rating is None:
        return None
    engines, capacity = settings.engines, rating.capacity
    return Answer(engines * capacity.overload_rate, engines * knee_of(rating), engines * capacity.rate)


def from_file(run: Run, entries: Sequence[Mapping[str, Any]]) -> Answer | None:
    """The entry of a predictions file for this configuration and mix, with about as much KV cache."""
    key = run.key
    asked = (key.model, key.accelerator, key.tensor_parallel, key.engines, key.chunk, run.mix)
    names = ("model", "accelerator", "tensorParallel", "enginesPerGPU", "maxNumBatchedTokens", "mix")
    for entry in entries:
        if tuple(entry[name] for name in names) == asked and "saturation" in entry:
            if run.mps or not is_same_cache(entry["kvCacheTokens"], run.kv_tokens):
                continue
            return Answer(entry["saturation"], entry["knee"], entry.get("planned"), entry.get("state", ""))
    return None


@dataclass(frozen=True, slots=True)
class Line:
    """One journal with the answers."""

    run: Run
    saturation: float | None
    bracket: Bracket | None
    answers: Mapping[str, Answer | None]

    def saturation_error(self, answer: str) -> float | None:
        """Predicted over measured, less 1."""
        told = self.answers[answer]
        return None if told is None or self.saturation is None else told.saturation / self.saturation - 1

    def knee_error(self, answer: str) -> float | None:
        """The same of the highest rate within the objective."""
        told = self.answers[answer]
        return None if told is None or self.bracket is None else self.bracket.error(told.knee)


def judge(runs: Sequence[Run], ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[Line]:
    """A line for every journal of a mix that was predicted."""
    return [
        Line(
            run,
            run.measured.saturation,
            bracket_of(run.measured),
            {
                "frozen": from_file(run, ours),
                "same session": from_session(run, runs),
                "AIConfigurator": from_file(run, theirs),
            },
        )
        for run in runs
        if run.mix is not None
    ]


def table(lines: Sequence[Line]) -> Iterator[str]:
    """Markdown."""
    yield (
        "| journal | mix | saturation | "
        + " | ".join(ANSWERS)
        + " | within the objective | "
        + " | ".join(ANSWERS)
        + " | planned for (frozen, same session) |"
    )
    yield "|---|---|---|" + "---|" * (2 * len(ANSWERS) + 2)
    for line in lines:
        saturation = f"{line.saturation:.1f}" if line.saturation else "not reached"
        planned = ", ".join(_planned(line.answers[name]) for name in ANSWERS[:2])
        cells = [
            line.run.name,
            line.run.mix or "",
            saturation,
            *(_cell(line, name, knee=False) for name in ANSWERS),
            str(line.bracket) if line.bracket else "not tried",
            *(_cell(line, name, knee=True) for name in ANSWERS),
            planned,
        ]
        yield f"| {' | '.join(cells)} |"


def _planned(answer: Answer | None) -> str:
    return "-" if answer is None or answer.planned is None else f"{answer.planned:.1f}"


def _cell(line: Line, name: str, *, knee: bool) -> str:
    told, error = line.answers[name], line.knee_error(name) if knee else line.saturation_error(name)
    if told is None:
        return "-"
    label = " (estimated)" if told.state == "Estimated" else ""
    unknown = " inside" if knee and line.bracket is not None else ""
    shown = f" {error:+.0%}" if error is not None else unknown
    return f"{told.knee if knee else told.saturation:.1f}{shown}{label}"


def summary(lines: Sequence[Line]) -> Iterator[str]:
    """Medians and the number that was too optimistic: other mixes, and the profile's own mix, each for itself."""
    yield "| lines | answer | figure | lines with an answer | median error | bias | worst | more than 20 % too high |"
    yield "|---|---|---|---|---|---|---|---|"
    groups = (
        ("other mixes", [line for line in lines if line.run.mix != "chat"]),
        ("the profile's mix, another run", [line for line in lines if line.run.mix == "chat"]),
    )
    for title, group in groups:
        for name in ANSWERS:
            for figure, of in (("saturation", Line.saturation_error), ("within the objective", Line.knee_error)):
                errors = [error for line in group if (error := of(line, name)) is not None]
                if errors:
                    yield f"| {title} | {name} | {figure} | {_figures(errors)} |"


def _figures(errors: Sequence[float]) -> str:
    median = statistics.median(abs(error) for error in errors)
    worst = max(errors, key=abs)
    return (
        f"{len(errors)} | {median:.1%} | {statistics.fmean(errors):+.1%} | {worst:+.0%} | "
        f"{sum(error > OPTIMISTIC for error in errors)}"
    )


def overcommitted(lines: Sequence[Line]) -> Iterator[str]:
    """Where more is planned for than was seen to be within the objective."""
    for line in lines:
        for name in ANSWERS[:2]:
            told = line.answers[name]
            most = line.bracket.high if line.bracket is not None else None
            if told is not None and told.planned is not None and most is not None and told.planned >= most:
                yield f"- {line.run.name}, {name}: plans {told.planned:.1f}, and {most:.1f} missed the objective"


def read_runs(directory: Path) -> list[Run]:
    """Every journal of a session, in the order of their names."""
    paths = [path for path in sorted(directory.glob("*.jsonl")) if is_journal(path)]
    gpu = gpu_of(paths)
    return [run for path in paths if (run := read_run(path, gpu)) is not None]


def gpu_of(paths: Sequence[Path]) -> str:
    """The accelerator of a session: journals of other mixes do not name it. Raises ValueError when none does."""
    for path in paths:
        if (gpu := read_journal(path).facts.get("gpu")) is not None:
            return str(gpu["name"]).replace(" ", "-")
    raise ValueError("no journal names its GPU: is this a session's directory?")


def is_journal(path: Path) -> bool:
    """Whether the first line says so; other files of a session have other lines."""
    with path.open(encoding="utf-8") as file:
        return '"settings"' in file.readline()


def main() -> int:
    """Print the tables; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journals", type=Path, help="a session's directory")
    parser.add_argument("predictions", type=Path, help="the frozen file; NAME-aiconfigurator.json is looked for")
    options = parser.parse_args()
    given = json.loads(options.predictions.read_text(encoding="utf-8"))
    beside = options.predictions.with_name(f"{options.predictions.stem}-aiconfigurator.json")
    theirs = json.loads(beside.read_text(encoding="utf-8"))["entries"] if beside.exists() else []
    runs = read_runs(options.journals)
    lines = judge(runs, given["entries"], theirs)
    began = min((point.began for run in runs for point in run.measured.points), default=math.inf)
    print(f"Predictions of {given['written']}, planner {given['plannerCommit']}.", _blindness(given["written"], began))
    print("", *table(lines), "", *summary(lines), "", *overcommitted(lines), sep="\n")
    return 0


def _blindness(written: str, began: float) -> str:
    first = datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if math.isfinite(began) else "never"
    kind = "Blind" if written < first else "NOT blind: the journals were there before"
    return f"{kind} (first point {first})."


if __name__ == "__main__":
    sys.exit(main())
