"""What `shoal profile` and a ProfileRun tell `shoal.planner.needless` of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.domain.configuration import Configuration
from shoal.planner.needless import Finding, Trial, why_needless
from shoal.profiler.measured import Measured, Shape
from shoal.profiler.points import Point


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that is about to be measured. `kv_bytes` per engine; None: as the engine finds it."""

    shape: Shape
    kv_bytes: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """What was measured of one."""

    candidate: Candidate
    measured: Measured


def why_skip(candidate: Candidate, known: Sequence[Known]) -> str | None:
    """The reason why nothing is to be gained by this one; None: measure it."""
    newest = {one.candidate: one for one in known}
    found = [_make_finding(one) for one in newest.values() if one.measured.saturation is not None]
    return why_needless(_make_trial(candidate), found)


def floor_ms(points: Sequence[Point]) -> float | None:
    """The gap between tokens of a lonely request."""
    return next((point.gap_ms for point in points if point.spec.name == "idle"), None)


def most_seen(points: Sequence[Point], name: str) -> float | None:
    """The largest reading of an engine's gauge over all points; None without any."""
    return max((point.engine[name] for point in points if name in point.engine), default=None)


def _make_trial(candidate: Candidate) -> Trial:
    shape = candidate.shape
    configuration = Configuration(
        "", shape.tensor_parallel, shape.engines_per_gpu, shape.max_num_seqs, shape.max_num_batched_tokens
    )
    return Trial(configuration, candidate.kv_bytes, mps=shape.mps)


def _make_finding(known: Known) -> Finding:
    measured = known.measured
    bracket, points = measured.bracket, measured.points
    return Finding(
        trial=_make_trial(known.candidate),
        rate=bracket.knee if bracket is not None else None,
        floor_ms=floor_ms(points),
        most_running=most_seen(points, "runningMost"),
        most_kv_usage=most_seen(points, "kvUsageMost"),
    )
