"""Points of configurations -> a ModelProfile."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from shoal.api.convert import profile_from_domain, row_to_domain
from shoal.api.model_profile import ModelProfile, Provenance
from shoal.domain.profile import Profile, ProfileRow, Source
from shoal.planner.catalog import model_facts
from shoal.profiler.errors import ProfilerError
from shoal.profiler.measured import Measured, Shape, Subject
from shoal.profiler.rows import date_of, make_row, row_order
from shoal.profiler.versions import host_name, tool_version
from shoal.sim.profile_files import render_manifest

NAMESPACE: Final = "shoal-system"
LARGEST_BYTES: Final = 256 * 1024


def make_profile(subject: Subject, rows: Sequence[ProfileRow], clock_mhz: float | None) -> Profile:
    """The profile. Raises ProfilerError when nothing is known of the model's memory."""
    facts = model_facts(subject.model, subject.parameters)
    if facts is None:
        raise ProfilerError(f"nothing is known of the size of {subject.model}: give --parameters COUNT, as in 1.3e9")
    name = re.sub(r"[^a-z0-9]+", "-", f"{subject.model.rpartition('/')[2]}-{subject.accelerator}".lower()).strip("-")
    prefix = "simulated" if subject.simulated else "measured"
    return Profile(
        name=f"{prefix}-{name}"[:253],
        namespace=NAMESPACE,
        model=subject.model,
        accelerator=subject.accelerator,
        engine=subject.engine,
        engine_version=subject.engine_version,
        source=Source.SIMULATED if subject.simulated else Source.MEASURED,
        facts=facts,
        rows=tuple(rows),
        link=subject.link,
        clock_mhz=clock_mhz,
    )


def write_profile(path: Path, subject: Subject, measured: Sequence[Measured], command: str) -> ModelProfile | None:
    """Fit, pool repeats, and write the file. None when there is nothing to write. Raises ProfilerError."""
    groups: dict[tuple[Shape, str], list[Measured]] = defaultdict(list)
    for one in measured:
        groups[one.shape, one.settings.lengths].append(one)
    resource = make_resource(subject, list(groups.values()), make_provenance(measured, command))
    if resource is not None:
        write_manifest(path, resource, f"Made by {command}")
    return resource


def make_resource(
    subject: Subject,
    groups: Sequence[Sequence[Measured]],
    provenance: Provenance,
    *,
    clock: Callable[[Iterable[float]], float] = max,
) -> ModelProfile | None:
    """A profile with one row for each group of runs of one configuration; None when no row says anything.

    `clock` chooses the profile's from those of the rows. Raises ProfilerError, also when a configuration comes twice.
    """
    rows = sorted((row for runs in groups if (row := make_row(runs, subject)) is not None), key=row_order)
    if not rows:
        return None
    for one, other in itertools.pairwise(rows):
        if row_order(one) == row_order(other):
            raise ProfilerError(f"{subject.model}: two rows of one configuration and mix: {row_order(one)}")
    clocks = [row.provenance.clock_mhz for row in rows if row.provenance and row.provenance.clock_mhz]
    numbers = [row_to_domain(row) for row in rows]
    profile = make_profile(subject, numbers, clock(clocks) if clocks else None)
    resource = profile_from_domain(profile, provenance=provenance)
    return resource.model_copy(update={"spec": resource.spec.model_copy(update={"rows": tuple(rows)})})


def write_manifest(path: Path, resource: ModelProfile, header: str) -> None:
    """Write a file that the API server will take. Raises ProfilerError when it is too large."""
    text = render_manifest(resource, header)
    if len(text.encode()) > LARGEST_BYTES:
        raise ProfilerError(
            f"{path} would have {len(text.encode()) / 1024:.0f} KiB, and a profile may have "
            f"{LARGEST_BYTES // 1024}: write fewer rows into one file"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_provenance(measured: Sequence[Measured], command: str) -> Provenance:
    """How all of it came about; the rows have their own."""
    gpu = measured[0].facts.get("gpu") or {}
    partial = sum(not one.complete for one in measured)
    notes = "Open-loop Poisson over HTTP, prompts of random tokens; every row says more."
    if partial:
        notes += f" {partial} of {len(measured)} rows are PARTIAL: the budget ended first."
    return Provenance(
        tool="shoal profile",
        version=tool_version(),
        gpu_name=gpu.get("name"),
        driver=gpu.get("driver"),
        date=date_of([point for one in measured for point in one.points]),
        host=host_name()[:512],
        command=command[:2048],
        notes=notes,
    )
