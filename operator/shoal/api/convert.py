"""ModelProfile <-> the domain's Profile."""

from __future__ import annotations

from shoal.api.base import Metadata
from shoal.api.defaults import TAIL_OVER_MEAN
from shoal.api.model_profile import (
    LatencyQuantiles,
    ModelProfile,
    ModelProfileSpec,
    ProfiledEngine,
    ProfiledModel,
    ProfilePoint,
    ProfileRowSpec,
    Provenance,
    StepTimes,
)
from shoal.api.workload import Lengths
from shoal.domain.profile import LengthMix, Link, ModelFacts, Profile, ProfileRow, Quantiles, RatePoint, StepModel


def profile_to_domain(resource: ModelProfile) -> Profile:
    """The planner's view of a ModelProfile. Total: whatever passed the schema converts."""
    spec = resource.spec
    return Profile(
        name=resource.metadata.name,
        namespace=resource.metadata.namespace or "",
        model=spec.model.name,
        accelerator=spec.accelerator,
        engine=spec.engine.name,
        engine_version=spec.engine.version,
        source=spec.source,
        facts=ModelFacts(
            parameters=spec.model.parameter_count,
            weights_bytes=spec.model.weights_bytes,
            kv_bytes_per_token=spec.model.kv_bytes_per_token,
            max_context_tokens=spec.model.max_context_tokens,
        ),
        rows=tuple(row_to_domain(row) for row in spec.rows),
        link=spec.link or Link.NONE,
        clock_mhz=spec.clock_mhz,
    )


def profile_from_domain(profile: Profile, *, provenance: Provenance | None = None) -> ModelProfile:
    """The resource that says what this profile says. Raises pydantic's ValidationError for numbers out of bounds."""
    facts = profile.facts
    return ModelProfile(
        metadata=Metadata(name=profile.name, namespace=profile.namespace or None),
        spec=ModelProfileSpec(
            model=ProfiledModel(
                name=profile.model,
                parameter_count=facts.parameters,
                weights_bytes=facts.weights_bytes,
                kv_bytes_per_token=facts.kv_bytes_per_token,
                max_context_tokens=facts.max_context_tokens,
            ),
            accelerator=profile.accelerator,
            engine=ProfiledEngine(name=profile.engine, version=profile.engine_version),
            link=profile.link,
            clock_mhz=profile.clock_mhz,
            source=profile.source,
            rows=tuple(row_from_domain(row) for row in profile.rows),
            provenance=provenance,
        ),
    )


def lengths_to_domain(inputs: Lengths, outputs: Lengths) -> LengthMix:
    """A length mix; an unknown p95 is taken as twice the mean."""
    return LengthMix(
        input_mean=inputs.mean,
        output_mean=outputs.mean,
        input_p95=inputs.p95 or TAIL_OVER_MEAN * inputs.mean,
        output_p95=outputs.p95 or TAIL_OVER_MEAN * outputs.mean,
    )


def row_to_domain(row: ProfileRowSpec) -> ProfileRow:
    """The planner's view of a row."""
    return ProfileRow(
        tensor_parallel=row.tensor_parallel,
        engines_per_gpu=row.engines_per_gpu,
        max_num_seqs=row.max_num_seqs,
        max_num_batched_tokens=row.max_num_batched_tokens,
        kv_cache_tokens=row.kv_cache_tokens,
        lengths=lengths_to_domain(row.input_tokens, row.output_tokens),
        overload_rate=row.overload_rate,
        points=tuple(_point_to_domain(point) for point in row.points or ()),
        steps=_steps_to_domain(row.steps) if row.steps else None,
        api_servers=row.api_servers or 1,
        mps=bool(row.mps),
    )


def row_from_domain(row: ProfileRow) -> ProfileRowSpec:
    """The row of a resource. Raises pydantic's ValidationError for numbers out of bounds."""
    lengths = row.lengths
    return ProfileRowSpec.model_validate(
        {
            "tensor_parallel": row.tensor_parallel,
            "engines_per_gpu": row.engines_per_gpu,
            "max_num_seqs": row.max_num_seqs,
            "max_num_batched_tokens": row.max_num_batched_tokens,
            "kv_cache_tokens": row.kv_cache_tokens,
            "input_tokens": Lengths(mean=lengths.input_mean, p95=lengths.input_p95),
            "output_tokens": Lengths(mean=lengths.output_mean, p95=lengths.output_p95),
            "overload_rate": row.overload_rate,
            "points": tuple(_point_from_domain(point) for point in row.points) or None,
            "steps": _steps_from_domain(row.steps) if row.steps else None,
            "api_servers": row.api_servers if row.api_servers > 1 else None,
            "mps": row.mps or None,
        }
    )


def _point_to_domain(point: ProfilePoint) -> RatePoint:
    return RatePoint(
        rate=point.requests_per_second,
        ttft=_quantiles_to_domain(point.ttft_milliseconds),
        itl=_quantiles_to_domain(point.itl_milliseconds),
        watts=point.watts,
    )


def _point_from_domain(point: RatePoint) -> ProfilePoint:
    return ProfilePoint(
        requests_per_second=point.rate,
        ttft_milliseconds=_quantiles_from_domain(point.ttft),
        itl_milliseconds=_quantiles_from_domain(point.itl),
        watts=point.watts,
    )


def _quantiles_to_domain(quantiles: LatencyQuantiles) -> Quantiles:
    return Quantiles(mean=quantiles.mean, p50=quantiles.p50, p90=quantiles.p90, p95=quantiles.p95, p99=quantiles.p99)


def _quantiles_from_domain(quantiles: Quantiles) -> LatencyQuantiles:
    return LatencyQuantiles(
        mean=quantiles.mean, p50=quantiles.p50, p90=quantiles.p90, p95=quantiles.p95, p99=quantiles.p99
    )


def _steps_to_domain(steps: StepTimes) -> StepModel:
    return StepModel(
        alpha_ms=steps.alpha_ms,
        beta_ms_per_token=steps.beta_ms_per_token,
        gamma_ms_per_kv_token=steps.gamma_ms_per_kv_token,
        floor_small_ms=steps.floor_small_ms or 0.0,
        floor_large_ms=steps.floor_large_ms or 0.0,
        api_tokens_per_second=steps.api_tokens_per_second,
    )


def _steps_from_domain(steps: StepModel) -> StepTimes:
    return StepTimes(
        alpha_ms=steps.alpha_ms,
        beta_ms_per_token=steps.beta_ms_per_token,
        gamma_ms_per_kv_token=steps.gamma_ms_per_kv_token,
        floor_small_ms=steps.floor_small_ms,
        floor_large_ms=steps.floor_large_ms,
        api_tokens_per_second=steps.api_tokens_per_second,
    )
