"""Measurements of one configuration -> a row of a ModelProfile, with how well its numbers are known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from shoal.api.convert import row_from_domain
from shoal.api.model_profile import ProfileRowSpec, RowErrors, RowProvenance, StepErrors
from shoal.domain.profile import Link, ProfileRow, Quantiles, RatePoint, Source, StepModel
from shoal.profiler.errors import ProfilerError
from shoal.profiler.fit import NAMES, StepFit
from shoal.profiler.knee import overload_of
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.measured import Measured, Subject
from shoal.profiler.points import Point
from shoal.profiler.specs import Kind
from shoal.profiler.versions import tool_version

MOST_POINTS: Final = 32
BUSY: Final = 0.8  # of the saturation: points from here on show the clock under load
SAME_RATE: Final = 1.01  # rates that differ by less are one point
_TERMS: Final = dict(
    zip(
        NAMES,
        ("alpha_ms", "beta_ms_per_token", "gamma_ms_per_kv_token", "floor_small_ms", "floor_large_ms", ""),
        strict=True,
    )
)


def make_row(runs: Sequence[Measured], subject: Subject) -> ProfileRowSpec | None:
    """One row, per engine, of all runs of one configuration; None when nothing in it is of use.

    Raises ProfilerError when the size of the KV cache is unknown.
    """
    fit = pool_fits(runs, subject.datasheet_steps(runs[0].shape))
    row = make_numbers(pool(runs), fit, _saturation(runs))
    if row is None:
        return None
    found = {"step_errors": make_step_errors(fit), "errors": make_errors(runs)}
    return row_from_domain(row).model_copy(update={**found, "provenance": make_row_provenance(runs, subject)})


def pool(runs: Sequence[Measured]) -> Measured:
    """All runs as if they were one; the size of the KV cache is their mean."""
    if len(runs) == 1:
        return runs[0]
    sizes = [run.shape.kv_cache_tokens for run in runs if run.shape.kv_cache_tokens is not None]
    return replace(
        runs[-1],
        shape=replace(runs[-1].shape, kv_cache_tokens=statistics.mean(sizes) if sizes else None),
        points=tuple(point for run in runs for point in run.points),
        complete=any(run.complete for run in runs),
    )


def pool_fits(runs: Sequence[Measured], datasheet: StepModel | None) -> StepFit | None:
    """Step times of all points together; their errors are at least what the runs by themselves disagree by."""
    fit = pool(runs).fit(datasheet)
    if fit is None or len(runs) == 1:
        return fit
    each = [found.steps for run in runs if (found := run.fit(datasheet)) is not None]
    errors = {name: _larger(error, _disagreement(each, name)) for name, error in fit.errors.items()}
    return replace(fit, errors=errors)


def _disagreement(each: Sequence[StepModel], name: str) -> float | None:
    values = [steps.api_tokens_per_second if not _TERMS[name] else getattr(steps, _TERMS[name]) for steps in each]
    return _standard_error([value for value in values if value])


def _standard_error(values: Sequence[float]) -> float | None:
    """Of their mean; None for fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _larger(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None) if one is not None else None


def make_numbers(measured: Measured, fit: StepFit | None, saturation: float | None) -> ProfileRow | None:
    """The numbers of a row; `saturation` of all engines together. Raises ProfilerError: the KV cache is unknown."""
    shape, settings = measured.shape, measured.settings
    points = make_rate_points(measured)
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
        mps=shape.mps and shape.engines_per_gpu > 1,
    )


def make_rate_points(measured: Measured) -> tuple[RatePoint, ...]:
    """Latencies at each rate, means over repetitions. Points that were broken off or are invalid are left out."""
    groups: list[list[Point]] = []
    for point in sorted((p for p in measured.points if _is_good(p)), key=lambda point: point.spec.rate or 0.0):
        rate = point.spec.rate or 0.0
        if groups and rate <= SAME_RATE * (groups[-1][0].spec.rate or 0.0):
            groups[-1].append(point)
        else:
            groups.append([point])
    engines = measured.settings.engines
    made = [
        RatePoint(
            rate=(_mean([p.spec.rate or 0.0 for p in group]) or 0.0) / engines,
            ttft=_mean_quantiles([p.ttft.quantiles for p in group if p.ttft]),
            itl=_mean_quantiles([p.itl.quantiles for p in group if p.itl]),
            watts=_mean([p.gpu["watts"] for p in group if p.gpu.get("watts")]),
        )
        for group in groups
    ]
    return tuple(made[-MOST_POINTS:])


def _is_good(point: Point) -> bool:
    whole = not point.invalid and not point.stopped and point.ttft is not None and point.itl is not None
    return whole and point.spec.kind is Kind.OPEN and point.spec.rate is not None


def _saturation(runs: Sequence[Measured]) -> float | None:
    """Requests per second when overloaded, the mean of the runs, of all engines together."""
    return _mean([run.saturation for run in runs if run.saturation is not None])


def make_errors(runs: Sequence[Measured]) -> RowErrors | None:
    """Of what was measured directly, per engine: of the sample, or of the runs where those disagree more.

    A window of n requests whose answers vary by cv tells a throughput to sqrt((1 + cv^2) / n).
    """
    samples, rates = [], []
    for run in runs:
        over, engines = overload_of(run.points), run.settings.engines
        if over is None or over.throughput <= 0:
            continue
        variation = parse_lengths(run.settings.lengths).variation(run.settings.longest)
        count = over.throughput * over.spec.seconds
        rates.append(over.throughput / engines)
        samples.append(rates[-1] * math.sqrt((1 + variation**2) / count))
    sample = math.sqrt(sum(error**2 for error in samples)) / len(samples) if samples else None
    sizes = [size for run in runs for size in _sizes_told(run)]
    kv = _standard_error(sizes) or 0.0 if sizes else None
    if sample is None and kv is None:
        return None
    return RowErrors(overload_rate=_rounded(_larger(sample, _standard_error(rates))), kv_cache_tokens=_rounded(kv))


def _sizes_told(run: Measured) -> list[float]:
    """Tokens of KV cache as each engine told; none where a person gave them."""
    told = run.facts.get("kvCacheTokens")
    if told is None or run.facts.get("kvGiven"):
        return []
    return [float(size) for size in told] if isinstance(told, list) else [float(told)]


def make_step_errors(fit: StepFit | None) -> StepErrors | None:
    """How well the step times are known."""
    if fit is None:
        return None
    errors = {name: _rounded(value) for name, value in fit.errors.items()}
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


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def make_row_provenance(runs: Sequence[Measured], subject: Subject) -> RowProvenance:
    """How one row came about."""
    pooled = pool(runs)
    gpu, counted = pooled.facts.get("gpu") or {}, counted_points(runs)
    link = pooled.facts.get("link")
    return RowProvenance(
        tool=pooled.facts.get("tool") or f"shoal profile {tool_version()}",
        engine=f"{subject.engine} {subject.engine_version}",
        gpu_name=gpu.get("name"),
        driver=gpu.get("driver"),
        clock_mhz=clock_under_load(pooled),
        link=subject.link if link is None else Link(link),
        date=date_of(runs[-1].points),
        lengths=pooled.settings.lengths,
        source=Source.SIMULATED if subject.simulated else Source.MEASURED,
        runs=len(runs) if len(runs) > 1 else None,
        windows=len(counted),
        requests=sum(point.answered for point in counted),
        partial=None if pooled.complete else True,
        notes=make_note(pooled)[:512] or None,
    )


def counted_points(runs: Sequence[Measured]) -> list[Point]:
    """Points that count: their clients were quick enough, and nearly all requests were answered."""
    return [point for run in runs for point in run.points if not point.invalid]


def date_of(points: Sequence[Point]) -> str:
    """When the first of them began."""
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


def make_note(measured: Measured) -> str:
    """What a reader should know of a row, in words."""
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
    bad = sum(bool(point.invalid) for point in measured.points)
    if bad:
        parts.append(f"{bad} invalid points left out;")
    if not measured.complete:
        parts.append(f"PARTIAL: {measured.facts.get('stopped') or 'interrupted'}")
    return " ".join(parts)


def row_order(row: ProfileRowSpec) -> tuple[float, ...]:
    """Rows of a file, small configurations first."""
    return (
        row.tensor_parallel,
        row.engines_per_gpu,
        bool(row.mps),
        row.max_num_seqs,
        row.max_num_batched_tokens,
        row.input_tokens.mean,
        row.output_tokens.mean,
        row.kv_cache_tokens,
    )


def _mean_quantiles(found: Sequence[Quantiles]) -> Quantiles:
    if len(found) == 1:
        return found[0]
    names = ("mean", "p50", "p90", "p95", "p99")
    return Quantiles(**{name: sum(getattr(q, name) for q in found) / len(found) for name in names})


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
