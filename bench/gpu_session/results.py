"""Reads a session's journals: one `Measured` for each job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_session.plans import PHASES, Engine, Job, Task
from shoal.profiler.journal import Journal
from shoal.profiler.measured import Measured, Shape
from shoal.profiler.specs import Objective, Settings

HERE = Path(__file__).parent
RESULTS = HERE / "results"
NAMES = {
    "opt-125m": "facebook/opt-125m",
    "opt-1.3b": "facebook/opt-1.3b",
    "opt-6.7b": "facebook/opt-6.7b",
    "opt-13b": "facebook/opt-13b",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One job of a session, as it was planned and as it went."""

    job: Job
    engine: Engine
    mps: bool
    measured: Measured

    @property
    def model(self) -> str:
        """The model's full name."""
        return NAMES[self.engine.model]

    @property
    def gpus(self) -> int:
        """GPUs that carried the load."""
        return len(self.engine.gpus)


def read_session(directory: Path) -> list[Result]:
    """Every job of the plan that has a journal there and measured what profiles hold, in the order of the plan."""
    once: dict[str, tuple[Job, Engine, bool]] = {}
    for job, engine, mps in planned():  # phases may share jobs
        once.setdefault(job.name, (job, engine, mps))
    return [
        Result(job, engine, mps, read_journal(path, engine, len(job.engines), mps=mps))
        for job, engine, mps in once.values()
        if job.task in (Task.PROFILE, Task.MIX) and (path := directory / f"{job.name}.jsonl").exists()
    ]


def planned() -> Iterator[tuple[Job, Engine, bool]]:
    """Jobs with the first of their engines, and whether MPS ran."""
    for lanes in PHASES.values():
        for stage in (stage for lane in lanes for stage in lane):
            engines = {engine.name: engine for engine in stage.engines}
            for job in stage.jobs:
                yield job, engines[job.engines[0]], stage.mps


def read_journal(path: Path, engine: Engine, engines: int, *, mps: bool) -> Measured:
    """One job's points. Raises ProfilerError for a file that is no journal."""
    settings = read_settings(path)
    journal = Journal(path, settings)
    shape = Shape(
        tensor_parallel=len(engine.gpus),
        engines_per_gpu=engines,
        max_num_seqs=engine.seqs,
        max_num_batched_tokens=engine.chunk,
        kv_cache_tokens=journal.facts["kvCacheTokens"][0],
        mps=mps,
    )
    known = {**settings, "objective": Objective(**settings["objective"])}
    complete = journal.facts.get("stopped") == ""
    return Measured(shape, Settings(**known), tuple(journal.points), complete, dict(journal.facts))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in the first line of a journal."""
    with path.open(encoding="utf-8") as file:
        found: dict[str, Any] = json.loads(file.readline())["settings"]
        return found
