"""`python -m bench.gpu_session.make_profiles [--check]`: profiles/measured from the journals of all sessions.

Sessions are the directories of `results`, and the two runs of `bench.real_engine`. What several of them measured of one
configuration on one GPU type is pooled into one row. Left out are the mixes that predictions are held against, the
engine that was starved of KV on purpose, and configurations that were never saturated. Of runs that differ in the KV
cache alone, those that tell step times count, then those with the largest (the planner reckons down from there), and
what the others saw while their cache was not full.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.gpu_session.plans import CHAT, Task
from bench.gpu_session.results import RESULTS, Result, read_session
from bench.real_engine.results import read_runs
from shoal.api.convert import row_to_domain
from shoal.api.model_profile import ModelProfile, Provenance
from shoal.domain.profile import Link, ProfileRow
from shoal.profiler.measured import Measured, Shape, Subject
from shoal.profiler.profiles import make_resource
from shoal.profiler.rows import counted_points, date_of, make_row, pool_fits
from shoal.sim.profile_files import render_manifest

OUT: Final = Path(__file__).resolve().parents[2] / "profiles" / "measured"
HEADER = "Made by python -m bench.gpu_session.make_profiles"
STARVED = "starved"  # of KV on purpose
FULL = 0.9  # of the KV cache: below, its size changed nothing
UNRECORDED = "shoal profile 0.1.0 (commit not recorded)"  # journals that do not name their tool
NOTES = (
    "Real vLLM, dummy weights (speed does not depend on their values), prompts of random token ids, gamma lengths, "
    "open-loop Poisson over HTTP from client processes on the server's host, short windows (12 to 20 s). "
    "Other servers were on the GPU, idle. "
)


def make_profiles() -> Iterator[tuple[str, str]]:
    """File name and YAML text of every profile."""
    by_subject: dict[Subject, dict[Hashable, list[Measured]]] = defaultdict(lambda: defaultdict(list))
    for subject, measured in read_all():
        by_subject[subject][_configuration(measured)].append(measured)
    for subject, found in sorted(by_subject.items(), key=lambda item: (item[0].model, item[0].accelerator)):
        groups = {key: runs for key, runs in found.items() if any(run.saturation for run in runs)}
        resource = _make_resource(subject, groups)
        yield f"{resource.metadata.name}.yaml", render_manifest(resource, HEADER)


def read_all() -> Iterator[tuple[Subject, Measured]]:
    """Every run that profiles are made of, the oldest first."""
    yield from read_runs()
    folders = sorted(folder for folder in RESULTS.iterdir() if folder.is_dir())
    for result in sorted((result for folder in folders for result in read_session(folder)), key=_began):
        if is_for_profiles(result):
            facts = {"tool": UNRECORDED, **result.measured.facts}
            yield subject_of(result), replace(result.measured, facts=facts)


def is_for_profiles(result: Result) -> bool:
    """Whether a job measured what a service would run as it is."""
    name = result.job.name
    starved = name.endswith(STARVED) and result.gpus == 1  # two GPUs starve no more than a 40 GB GPU does
    task = result.job.task is Task.PROFILE and result.job.lengths == CHAT
    return task and not starved


def subject_of(result: Result) -> Subject:
    """What a job measured."""
    facts = result.measured.facts
    return Subject(result.model, facts["gpu"]["name"].replace(" ", "-"), facts["engineVersion"], link=Link.NVLINK)


def fitted_row(subject: Subject, result: Result) -> ProfileRow | None:
    """The row of a job by itself, with step times."""
    row = make_row([result.measured], subject)
    return None if row is None else row_to_domain(row)


def _began(result: Result) -> float:
    return min((point.began for point in result.measured.points), default=0.0)


def _configuration(measured: Measured) -> Hashable:
    """What must be the same for runs to be rows of their own."""
    return replace(measured.shape, kv_cache_tokens=None), measured.settings.lengths


def _choose(runs: Sequence[Measured], subject: Subject) -> Sequence[Measured]:
    """The runs of the largest KV cache (told within a block or two), and what others saw while theirs was not full."""
    sizes: dict[int, list[Measured]] = defaultdict(list)
    for run in runs:
        sizes[round((run.shape.kv_cache_tokens or 0.0) / 256)].append(run)
    datasheet = subject.datasheet_steps(runs[0].shape)
    largest = max(sizes.items(), key=lambda item: (pool_fits(item[1], datasheet) is not None, item[0]))[1]
    others = [_not_full(run, largest[0].shape) for run in runs if run not in largest]
    return [*(run for run in others if run.points), *largest]


def _not_full(run: Measured, shape: Shape) -> Measured:
    """The points that a larger KV cache would not have changed."""
    points = tuple(point for point in run.points if point.engine.get("kvUsageMost", 1.0) < FULL)
    facts = {name: value for name, value in run.facts.items() if name != "kvCacheTokens"}
    return replace(run, shape=shape, points=points, facts=facts)


def _make_resource(subject: Subject, groups: Mapping[Hashable, Sequence[Measured]]) -> ModelProfile:
    chosen = [_choose(runs, subject) for runs in groups.values()]
    provenance = _make_provenance([measured for runs in chosen for measured in runs])
    # The lowest clock: a configuration that runs at its power cap as it always does must not look derated.
    resource = make_resource(subject, chosen, provenance, clock=min)
    assert resource is not None, subject
    return resource


def _make_provenance(runs: Sequence[Measured]) -> Provenance:
    facts = runs[0].facts
    cores = " or ".join(sorted({str(run.facts["cores"]) for run in runs}, key=int))
    requests = sum(point.answered for point in counted_points(runs))
    return Provenance(
        tool="bench.gpu_session",
        version="0.1.0",
        gpu_name=facts["gpu"]["name"],
        driver=facts["gpu"]["driver"],
        date=date_of(runs[-1].points),
        host=f"{cores} CPU cores, shared by servers and clients",
        command=f"vllm {facts['engineVersion']}, {' '.join(facts['arguments'][0][1:])}",
        notes=f"{NOTES}{len(runs)} runs, {requests} requests; each row says what it is made of, and its errors.",
    )


def main() -> int:
    """Write the profiles, or compare; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a file differs")
    check = parser.parse_args().check
    made = dict(make_profiles())
    stale = [name for name, text in made.items() if not (OUT / name).exists() or (OUT / name).read_text() != text]
    stale += [path.name for path in OUT.glob("*.yaml") if path.name not in made]
    if check:
        for name in stale:
            print(f"profiles/measured/{name} differs: run python -m bench.gpu_session.make_profiles", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (OUT / name).unlink(missing_ok=True)
        if name in made:
            (OUT / name).write_text(made[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
