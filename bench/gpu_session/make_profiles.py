"""`python -m bench.gpu_session.make_profiles [--check]`: profiles/measured from the journals of a session.

Left out are the mixes that predictions are held against, engines under MPS (a pod's engines share without it), the
engine that was starved of KV on purpose, and the one that was never saturated.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from bench.gpu_session.plans import Task
from bench.gpu_session.results import RESULTS, Result, read_session
from bench.real_engine.make_profiles import OUT
from shoal.api.model_profile import Provenance
from shoal.domain.profile import Link, Profile, ProfileRow
from shoal.profiler.profiles import Subject, clock_under_load, make_profile, make_row
from shoal.sim.profile_files import render_profile

SESSIONS = ("h200-2026-11-28",)
HEADER = "Made by python -m bench.gpu_session.make_profiles"
LEFT_OUT = ("opt-13b-starved", "opt-13b-tp2")  # starved on purpose; never saturated
NOTES = (
    "Real vLLM, dummy weights (speed does not depend on their values), prompts of random token ids, gamma lengths, "
    "open-loop Poisson over HTTP from 5 client processes on cores of their own, windows of 12 s after 3 s of warm-up, "
    "one run each: no spread is known. Other servers were on the GPU, idle. "
)


def make_profiles() -> Iterator[tuple[str, str]]:
    """File name and YAML text of every profile."""
    for session in SESSIONS:
        by_model: dict[str, list[Result]] = defaultdict(list)
        for result in read_session(RESULTS / session):
            if result.job.task is Task.PROFILE and not result.mps and result.job.name not in LEFT_OUT:
                by_model[result.model].append(result)
        for results in by_model.values():
            profile, provenance = _make_profile(results)
            yield f"{profile.name}.yaml", render_profile(profile, provenance, HEADER)


def subject_of(result: Result) -> Subject:
    """What a job measured."""
    facts = result.measured.facts
    return Subject(result.model, facts["gpu"]["name"].replace(" ", "-"), facts["engineVersion"], link=Link.NVLINK)


def fitted_row(subject: Subject, result: Result) -> ProfileRow | None:
    """The row of a job, with step times."""
    measured = result.measured
    return make_row(measured, measured.fit(subject.datasheet_steps(measured.shape)))


def _make_profile(results: Sequence[Result]) -> tuple[Profile, Provenance]:
    subject = subject_of(results[0])
    rows = [row for result in results if (row := fitted_row(subject, result)) is not None]
    # The lowest: a configuration that runs at its power cap as it always does must not look derated.
    clocks = [clock for result in results if (clock := clock_under_load(result.measured)) is not None]
    profile = make_profile(subject, rows, min(clocks, default=None))
    return profile, _make_provenance(results)


def _make_provenance(results: Sequence[Result]) -> Provenance:
    facts = results[0].measured.facts
    began = min(point.began for result in results for point in result.measured.points)
    partial = [result.job.name for result in results if not result.measured.complete]
    notes = NOTES + (f"The budget ended before every step was taken for: {', '.join(partial)}." if partial else "")
    return Provenance(
        tool="bench.gpu_session",
        version="0.1.0",
        gpu_name=facts["gpu"]["name"],
        driver=facts["gpu"]["driver"],
        date=datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        host=f"{facts['cores']} CPU cores, half of them for each GPU, shared by servers and clients",
        command=f"vllm {facts['engineVersion']}, {' '.join(facts['arguments'][0][1:])}",
        notes=notes,
    )


def main() -> int:
    """Write the profiles, or compare; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a file differs")
    check = parser.parse_args().check
    for name, text in make_profiles():
        path = OUT / name
        if check and (not path.exists() or path.read_text() != text):
            print(f"profiles/measured/{name} differs: run python -m bench.gpu_session.make_profiles", file=sys.stderr)
            return 1
        if not check:
            path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
