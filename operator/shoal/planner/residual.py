"""Predicted against observed: the newest window of each placement beside what its curve says for that rate.

Means are compared, as vLLM's buckets are too coarse for percentiles. All times of an engine whose steps are f times
slower scale with f, so its mean ITL at rate r is `f * ITL(f * r)`; `time_ratio` is the f for which that is the observed
mean. A plain ratio of the ITLs would be far off near saturation, where ITL rises steeply.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from shoal.domain.configuration import Placement
from shoal.domain.live import LiveSample, Residual
from shoal.domain.profile import LengthMix
from shoal.domain.reasons import ProfileState
from shoal.domain.service import Objective, ReplicaPhase, RunningVariant
from shoal.planner.capacity import FAR, clock_ratio, mean_curve, saturation_gain
from shoal.planner.curves import Curve
from shoal.planner.frontier import Option
from shoal.planner.thermal import Fleet

RATIO_BOUND: Final = 4.0  # a window that seems further off says something else than speed
LEAST_REQUESTS: Final = 5.0  # of fewer, a mean is one request's story
ENOUGH_REQUESTS: Final = 20.0  # from so many on one window alone may stop a shrink
SLOWER: Final = 1.3  # times slower than predicted: no time to give replicas back
_HALVINGS: Final = 40


def compare_all(
    running: Iterable[RunningVariant], fleets: Mapping[Placement, Fleet], asked: Objective
) -> tuple[Residual, ...]:
    """One residual for each placement that runs and told of its traffic.

    `asked` is the owner's objective, which is not always what is planned for: by hand, or when it is out of reach.
    """
    found: dict[Placement, Residual] = {}
    for variant in running:
        fleet = fleets.get(variant.placement)
        if fleet is None or variant.outdated or variant.observed is None or variant.placement in found:
            continue
        if not _is_slowed(variant, fleet.option):
            found[variant.placement] = compare(fleet.option, variant.observed, asked)
    return tuple(found.values())


def compare(option: Option, sample: LiveSample, asked: Objective) -> Residual:
    """The window beside its prediction. What cannot be told is None."""
    basis = option.basis
    estimated = basis.evidence is not None or basis.state is ProfileState.ESTIMATED
    residual = Residual(option.placement, sample, basis.row, estimated, sample.rate / saturation_gain(basis))
    means = mean_curve(basis)
    if means is None or sample.rate <= 0 or sample.requests < LEAST_REQUESTS or _is_other_mix(sample, basis.lengths):
        return residual
    ttft, itl = means.latencies(sample.rate)
    return replace(
        residual,
        predicted_ttft_ms=ttft,
        predicted_itl_ms=itl,
        time_ratio=_time_ratio(means, sample),
        within=_is_within(option, means, sample, asked),
    )


def is_slower(residual: Residual) -> bool:
    """Whether this window alone contradicts the prediction: much slower, by enough requests."""
    ratio = residual.time_ratio
    return ratio is not None and ratio > SLOWER and residual.sample.requests >= ENOUGH_REQUESTS


def _time_ratio(means: Curve, sample: LiveSample) -> float | None:
    observed = sample.itl_mean_ms
    if observed is None or observed <= 0 or not means.itl.known:
        return None
    low, high = -math.log(RATIO_BOUND), math.log(RATIO_BOUND)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        factor = math.exp(middle)
        if factor * means.itl.at(factor * sample.rate, means.saturation) < observed:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def _is_within(option: Option, means: Curve, sample: LiveSample, asked: Objective) -> bool | None:
    """Whether the objective's percentile, told from the mean by the curves' own ratio, was within the objective."""
    curve = option.rating.curve
    verdicts = []
    for bound, observed, of in (
        (asked.ttft_ms, sample.ttft_mean_ms, "ttft"),
        (asked.itl_ms, sample.itl_mean_ms, "itl"),
    ):
        tail, mean = getattr(curve, of), getattr(means, of)
        if bound is None:
            continue
        if observed is None or not tail.known or not mean.known:
            return None
        spread = tail.at(sample.rate, curve.saturation) / mean.at(sample.rate, means.saturation)
        verdicts.append(observed * max(1.0, spread) <= bound)
    return all(verdicts)


def _is_other_mix(sample: LiveSample, lengths: LengthMix) -> bool:
    """Whether the window's requests were of quite other lengths than the prediction is for."""
    tolerance = max(FAR, 3.0 / math.sqrt(sample.requests))
    pairs = ((sample.input_mean, lengths.input_mean), (sample.output_mean, lengths.output_mean))
    return any(seen is not None and abs(math.log(max(seen, 1.0) / max(told, 1.0))) > tolerance for seen, told in pairs)


def _is_slowed(variant: RunningVariant, option: Option) -> bool:
    """Whether a GPU of the variant runs below its profile's clock: that is heat, and says nothing of the profile."""
    return any(
        replica.phase is ReplicaPhase.READY and clock_ratio(replica.clock_mhz, option.basis.clock_mhz) < 1
        for replica in variant.replicas
    )
