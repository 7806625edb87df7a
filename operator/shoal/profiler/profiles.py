"""Points of configurations -> a ModelProfile."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from shoal.api.convert import profile_from_domain
from shoal.api.model_profile import ModelProfile, Provenance, RowProvenance, StepErrors
from shoal.domain.profile import Link, Profile, ProfileRow, Quantiles, RatePoint, Source, StepModel
from shoal.planner.catalog import model_facts
from shoal.profiler.errors import ProfilerError
from shoal.profiler.fit import StepFit, fit_steps
from shoal.profiler.knee import Bracket, find_bracket, overload_of
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.points import Point
from shoal.profiler.roofline import roofline_steps
from shoal.profiler.specs import Kind, Settings
from shoal.sim.profile_files import render_manifest

NAMESPACE: Final = "shoal-system"
MOST_POINTS: Final = 32
LARGEST_BYTES: Final = 256 * 1024
BUSY: Final = 0.8  # of the saturation: points from here on show the clock under load


@dataclass(frozen=True, slots=True)
class Shape:
    """One configuration as it ran. `kv_cache_tokens` of one engine, None: neither told nor given."""

    tensor_parallel: int = 1
    engines_per_gpu: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    kv_cache_tokens: float | None = None
    mps: bool = False

    @property
    def label(self) -> str:
        """A short name, fit for a file."""
        mps = "-mps" if self.mps else ""
        return (
            f"tp{self.tensor_parallel}-k{self.engines_per_gpu}{mps}-b{self.max_num_seqs}-c{self.max_num_batched_tokens}"
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that is known of one configuration. `complete`: nothing was left out for want of budget."""

    shape: Shape
    settings: Settings
    points: tuple[Point, ...]
    complete: bool
    facts: dict[str, Any]

    @property
    def bracket(self) -> Bracket | None:
        """The knee, of all engines together."""
        return find_bracket(self.points, self.settings.objective)

    @property
    def saturation(self) -> float | None:
        """Requests per second when overloaded, of all engines together."""
        over = overload_of(self.points)
        return over.throughput if over is not None else None

    def fit(self, datasheet: StepModel | None = None) -> StepFit | None:
        """Step times of one engine; what the points do not tell stays near the datasheet's."""
        shape, engines = self.shape, self.settings.engines
        return fit_steps(self.points, chunk=shape.max_num_batched_tokens, engines=engines, datasheet=datasheet)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured: the names under which a profile is looked up."""

    model: str
    accelerator: str
    engine_version: str
    engine: str = "vllm"
    link: Link = Link.NONE
    simulated: bool = False
    parameters: float | None = None

    def datasheet_steps(self, shape: Shape) -> StepModel | None:
        """What the GPU's datasheet says of this model's step times; None for simulated engines, which obey none."""
        if self.simulated:
            return None
        return roofline_steps(
            self.model,
            self.accelerator,
            parameters=self.parameters,
            tensor_parallel=shape.tensor_parallel,
            engines_per_gpu=shape.engines_per_gpu,
        )


def make_row(measured: Measured, fit: StepFit | None) -> ProfileRow | None:
    """One row, per engine; None when nothing in it is of use."""
    shape, settings = measured.shape, measured.settings
    saturation, points = measured.saturation, make_rate_points(measured)
    if shape.kv_cache_tokens is None:
        raise ProfilerError(
            "the server does not tell how large its KV cache is (no vllm:cache_config_info on /metrics): give "
            "--kv-tokens TOKENS"
        )
    if saturation is None and not points and fit is None:
        return None
    return ProfileRow(
        tensor_parallel=shape.tensor_parallel,
        engines_per_gpu=shape.engines_per_gpu,
        max_num_seqs=shape.max_num_seqs,
        max_num_batched_tokens=shape.max_num_batched_tokens,
        kv_cache_tokens=shape.kv_cache_tokens,
        lengths=parse_lengths(settings.lengths).mix(settings.longest),
        overload_rate=None if saturation is None else saturation / settings.engines,
        points=points,
        steps=None if fit is None else fit.steps,
    )


def make_rate_points(measured: Measured) -> tuple[RatePoint, ...]:
    """Latencies at each rate, means over repetitions. Points that were broken off or are invalid are left out."""
    groups: dict[float, list[Point]] = defaultdict(list)
    for point in measured.points:
        good = not point.invalid and not point.stopped and point.ttft is not None and point.itl is not None
        if point.spec.kind is Kind.OPEN and point.spec.rate is not None and good:
            groups[point.spec.rate].append(point)
    engines = measured.settings.engines
    made = [
        RatePoint(
            rate=rate / engines,
            ttft=_mean_quantiles([p.ttft.quantiles for p in group if p.ttft]),
            itl=_mean_quantiles([p.itl.quantiles for p in group if p.itl]),
            watts=_mean([p.gpu["watts"] for p in group if p.gpu.get("watts")]),
        )
        for rate, group in sorted(groups.items())
    ]
    return tuple(made[-MOST_POINTS:])


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
    """Fit, and write the file. None when there is nothing to write. Raises ProfilerError."""
    fitted = [(one, one.fit(subject.datasheet_steps(one.shape))) for one in measured]
    rows = [(one, fit, row) for one, fit in fitted if (row := make_row(one, fit)) is not None]
    if not rows:
        return None
    rows.sort(key=lambda found: _row_order(found[2]))
    clocks = [clock for one, _, _ in rows if (clock := clock_under_load(one)) is not None]
    profile = make_profile(subject, [row for _, _, row in rows], max(clocks, default=None))
    resource = profile_from_domain(profile, provenance=make_provenance([one for one, _, _ in rows], command))
    detailed = [
        row.model_copy(update={"step_errors": make_errors(fit), "provenance": make_row_provenance(one, subject)})
        for (one, fit, _), row in zip(rows, resource.spec.rows, strict=True)
    ]
    resource = resource.model_copy(update={"spec": resource.spec.model_copy(update={"rows": tuple(detailed)})})
    write_manifest(path, resource, f"Made by {command}")
    return resource


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


def _row_order(row: ProfileRow) -> tuple[float, ...]:
    return (
        row.tensor_parallel,
        row.engines_per_gpu,
        row.max_num_seqs,
        row.max_num_batched_tokens,
        row.lengths.input_mean,
        row.lengths.output_mean,
        row.kv_cache_tokens,
    )


def make_errors(fit: StepFit | None) -> StepErrors | None:
    """How well the step times are known."""
    if fit is None:
        return None
    errors = {name: None if value is None else float(f"{value:.3g}") for name, value in fit.errors.items()}
    return StepErrors(
        alpha_ms=errors["alpha"],
        beta_ms_per_token=errors["beta"],
        gamma_ms_per_kv_token=errors["gamma"],
        floor_small_ms=errors["floorSmall"],
        floor_large_ms=errors["floorLarge"],
        api_tokens_per_second=errors["apiLimit"],
        relative_rms=round(fit.rms, 4),
        relative_worst=round(fit.worst, 4),
    )


def make_row_provenance(measured: Measured, subject: Subject) -> RowProvenance:
    """How one row came about."""
    gpu = measured.facts.get("gpu") or {}
    return RowProvenance(
        tool=f"shoal profile {tool_version()}",
        engine=f"{subject.engine} {subject.engine_version}",
        gpu_name=gpu.get("name"),
        driver=gpu.get("driver"),
        clock_mhz=clock_under_load(measured),
        link=subject.link,
        date=_date(measured.points),
        lengths=measured.settings.lengths,
        source=Source.SIMULATED if subject.simulated else Source.MEASURED,
        partial=None if measured.complete else True,
        notes=make_note(measured)[:512],
    )


def _date(points: Sequence[Point]) -> str:
    began = min(point.began for point in points)
    return datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock_under_load(measured: Measured) -> float | None:
    """Mean SM clock of the busy points, in MHz."""
    top = measured.saturation
    clocks = [
        point.gpu["clock_mhz"]
        for point in measured.points
        if top and point.spec.rate and point.spec.rate >= BUSY * top and point.gpu.get("clock_mhz")
    ]
    return _mean(clocks)


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
        date=_date([point for one in measured for point in one.points]),
        host=host_name()[:512],
        command=command[:2048],
        notes=notes,
    )


def make_note(measured: Measured, fit: StepFit | None = None) -> str:
    """What a reader should know of a row, in words; with the step times, where there is no other place for them."""
    settings, bracket, parts = measured.settings, measured.bracket, []
    objective = settings.objective
    if bracket is not None and bracket.knee is not None and bracket.low is not None:
        asked = (
            f"ttft={objective.ttft_ms}, itl={objective.itl_ms} at p{objective.percentile}"
            if objective.is_set
            else "throughput"
        )
        engines = settings.engines
        parts.append(
            f"knee {bracket.knee / engines:.4g}/s per engine, between {bracket.low / engines:.4g} and "
            f"{bracket.high / engines:.4g} ({asked}; {settings.horizon:.0f} s after {settings.warm_up:.0f} s);"
        )
    if fit is not None:
        errors = (fit.errors["alpha"], fit.errors["beta"], fit.errors["gamma"])
        known = ", ".join("unknown" if error is None else f"{error:.2g}" for error in errors)
        parts.append(f"standard errors of alpha, beta, gamma {known}; fit rms {fit.rms:.1%}, worst {fit.worst:.1%};")
    if measured.shape.mps:
        parts.append("with MPS;")
    elif measured.shape.engines_per_gpu > 1:
        parts.append("without MPS;")
    bad = sum(bool(point.invalid) for point in measured.points)
    if bad:
        parts.append(f"{bad} invalid points left out;")
    if not measured.complete:
        parts.append(f"PARTIAL: {measured.facts.get('stopped') or 'interrupted'}")
    return " ".join(parts)


def tool_version() -> str:
    """Shoal's version; unknown where it runs from a bare checkout."""
    try:
        return version("shoal")
    except PackageNotFoundError:
        return "unknown"


def host_name() -> str:
    """The processor, and how many cores of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} CPUs{f', {names[0]}' if names else ''}, shared by server and clients"


def _mean_quantiles(found: Sequence[Quantiles]) -> Quantiles:
    if len(found) == 1:
        return found[0]
    names = ("mean", "p50", "p90", "p95", "p99")
    return Quantiles(**{name: sum(getattr(q, name) for q in found) / len(found) for name in names})


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def with_kv_tokens(shape: Shape, told: float | None, given: float | None) -> Shape:
    """The size of the KV cache: as given, else as the server tells."""
    return replace(shape, kv_cache_tokens=given or told)
