"""Which profile rows count for a service on a GPU type, and which numbers in them are usable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from shoal.domain.configuration import Configuration
from shoal.domain.profile import LengthMix, ModelFacts, Profile, ProfileRow, Quantiles, RatePoint, Source, StepModel
from shoal.domain.reasons import ProfileState
from shoal.domain.service import EngineFacts, RequiredProfile
from shoal.planner.capacity import distance

LARGEST: Final = 1e15  # no rate, latency or number of tokens is larger, or smaller than one over it
_TRUST = (Source.MEASURED, Source.SIMULATED, Source.LEARNED, Source.ESTIMATED)
_STATES = {
    Source.MEASURED: ProfileState.MEASURED,
    Source.LEARNED: ProfileState.ESTIMATED,  # by another service: what this one learned comes as its lessons
    Source.SIMULATED: ProfileState.SIMULATED,
    Source.ESTIMATED: ProfileState.ESTIMATED,
}


@dataclass(frozen=True, slots=True)
class RowChoice:
    """A usable row, and how far it is to be trusted."""

    row: ProfileRow
    profile: Profile
    state: ProfileState

    @property
    def is_trusted(self) -> bool:
        """Whether somebody measured, so that more than adding replicas may rest on it."""
        return _STATES[self.profile.source] is not ProfileState.ESTIMATED

    @property
    def name(self) -> str:
        """namespace/name of the profile."""
        return f"{self.profile.namespace}/{self.profile.name}"


def choose_rows(
    profiles: tuple[Profile, ...],
    accelerator: str,
    engine: EngineFacts,
    required: RequiredProfile,
    lengths: LengthMix,
    *,
    mps: bool = False,
) -> dict[Configuration, RowChoice]:
    """For every configuration somebody profiled, the row to use: the most trusted profile's, then the nearest mix.

    `profiles` are those of one model, in the order of namespaces. Exact engine versions come before stale ones. Of
    engines that share a GPU, only rows that were measured with, or without, `mps` count.
    """
    ranked = sorted(
        (profile for profile in profiles if profile.accelerator == accelerator and profile.engine == engine.name),
        key=lambda p: (_is_stale(p, engine), profiles_rank(p, profiles), _TRUST.index(p.source), p.namespace, p.name),
    )
    chosen: dict[Configuration, RowChoice] = {}
    for profile in ranked:
        state = _STATES[profile.source]
        if state is not ProfileState.ESTIMATED and _is_stale(profile, engine):
            state = ProfileState.STALE
        if required is RequiredProfile.MEASURED and state is not ProfileState.MEASURED:
            continue
        for row in sorted(usable_rows(profile), key=lambda row: (distance(row.lengths, lengths), *_promise(row))):
            configuration = _configuration(accelerator, row)
            if configuration is not None and (row.engines_per_gpu == 1 or row.mps == mps):
                chosen.setdefault(configuration, RowChoice(row, profile, state))
    return chosen


def profiles_rank(profile: Profile, profiles: tuple[Profile, ...]) -> int:
    """Place of the profile's namespace in the order in which namespaces count."""
    return next(index for index, other in enumerate(profiles) if other.namespace == profile.namespace)


def usable_rows(profile: Profile) -> list[ProfileRow]:
    """Rows whose numbers can be used, cleaned: points with impossible values are dropped, the rest sorted."""
    return [row for row in (_clean(row) for row in profile.rows) if row is not None]


def usable_facts(facts: ModelFacts | None) -> ModelFacts | None:
    """The facts, if all their numbers are positive; else None: nothing is known."""
    if facts is None:
        return None
    numbers = (facts.parameters, facts.weights_bytes, facts.kv_bytes_per_token)
    return facts if all(_is_positive(number) for number in numbers) else None


def is_usable_mix(lengths: LengthMix) -> bool:
    """Whether all four lengths are positive numbers."""
    values = (lengths.input_mean, lengths.output_mean, lengths.input_p95, lengths.output_p95)
    return all(_is_positive(value) for value in values)


def _is_stale(profile: Profile, engine: EngineFacts) -> bool:
    return profile.engine_version.split(".")[:2] != engine.version.split(".")[:2]


def _configuration(accelerator: str, row: ProfileRow) -> Configuration | None:
    try:
        return Configuration(
            accelerator,
            row.tensor_parallel,
            row.engines_per_gpu,
            row.max_num_seqs,
            row.max_num_batched_tokens,
            row.api_servers,
        )
    except ValueError:
        return None


def _promise(row: ProfileRow) -> tuple[bool, float]:
    """Of rows that contradict each other, the one that was measured and promises least comes first."""
    return row.overload_rate is None, row.overload_rate or 0.0


def _clean(row: ProfileRow) -> ProfileRow | None:
    if not is_usable_mix(row.lengths) or not _is_positive(row.kv_cache_tokens):
        return None
    points = tuple(sorted((p for p in row.points if _is_usable_point(p)), key=lambda p: p.rate))
    overload = row.overload_rate if row.overload_rate is not None and _is_positive(row.overload_rate) else None
    steps = row.steps if row.steps is not None and _is_usable_model(row.steps) else None
    if not points and overload is None and steps is None:
        return None
    return replace(row, points=points, overload_rate=overload, steps=steps)


def _is_usable_point(point: RatePoint) -> bool:
    return _is_positive(point.rate) and _is_usable_latency(point.ttft) and _is_usable_latency(point.itl)


def _is_usable_latency(values: Quantiles) -> bool:
    measured = (values.p50, values.p90, values.p95, values.p99)
    return _is_positive(values.mean) and all(value is None or _is_positive(value) for value in measured)


def _is_usable_model(steps: StepModel) -> bool:
    numbers = (
        steps.alpha_ms,
        steps.beta_ms_per_token,
        steps.gamma_ms_per_kv_token,
        steps.floor_small_ms,
        steps.floor_large_ms,
    )
    api = steps.api_tokens_per_second
    return all(0 <= n < LARGEST for n in numbers) and (api is None or _is_positive(api))


def _is_positive(value: float) -> bool:
    return 1 / LARGEST < value < LARGEST
