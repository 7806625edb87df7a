"""Which configurations need not be measured, because earlier ones already tell. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from shoal.profiler.measured import Measured, Shape

NO_GAIN: Final = 1.02  # capacity per GPU up to this factor of another's is no gain: less than runs differ
NEVER_FULL: Final = 0.6  # of the batch limit, or of the KV cache: what was never more in use does not bind


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

    @property
    def per_gpu(self) -> float | None:
        """Requests per second and GPU at the knee; None: not known."""
        bracket, shape = self.measured.bracket, self.candidate.shape
        knee = bracket.knee if bracket is not None else None
        return None if knee is None else knee / shape.tensor_parallel

    @property
    def floor_ms(self) -> float | None:
        """The gap between tokens of a lonely request."""
        return next((p.gap_ms for p in self.measured.points if p.spec.name == "idle"), None)

    def most(self, name: str) -> float | None:
        """The largest reading of an engine's gauge over all points; None without any."""
        return max((p.engine[name] for p in self.measured.points if name in p.engine), default=None)


def why_skip(candidate: Candidate, known: Sequence[Known]) -> str | None:
    """The reason why nothing is to be gained by this one; None: measure it."""
    newest = {one.candidate: one for one in known}
    known = [one for one in newest.values() if one.measured.saturation is not None]
    for rule in (_larger_batch, _more_kv, _more_engines, _more_gpus):
        if (reason := rule(candidate, known)) is not None:
            return reason
    return None


def _same_but(candidate: Candidate, other: Candidate, **changes: object) -> bool:
    return replace(other.shape, kv_cache_tokens=None, **changes) == replace(candidate.shape, kv_cache_tokens=None)  # type: ignore[arg-type]


def _larger_batch(candidate: Candidate, known: Sequence[Known]) -> str | None:
    for one in known:
        limit, most = one.candidate.shape.max_num_seqs, one.most("runningMost")
        if one.candidate.kv_bytes != candidate.kv_bytes or limit >= candidate.shape.max_num_seqs or most is None:
            continue
        used = most / one.candidate.shape.engines_per_gpu
        if _same_but(candidate, one.candidate, max_num_seqs=candidate.shape.max_num_seqs) and used < NEVER_FULL * limit:
            return f"at most {used:.0f} of {limit} requests ran at once: a larger batch limit changes nothing"
    return None


def _more_kv(candidate: Candidate, known: Sequence[Known]) -> str | None:
    for one in known:
        less = one.candidate.kv_bytes
        if less is None or candidate.kv_bytes is None or less >= candidate.kv_bytes:
            continue
        used = one.most("kvUsageMost")
        if _same_but(candidate, one.candidate) and used is not None and used < NEVER_FULL:
            return f"at most {used:.0%} of a smaller KV cache was used: more of it changes nothing"
    return None


def _more_engines(candidate: Candidate, known: Sequence[Known]) -> str | None:
    return _no_gain(candidate, known, "engines_per_gpu", lambda known: {}, "engines on a GPU")


def _more_gpus(candidate: Candidate, known: Sequence[Known]) -> str | None:
    """More TP is dominated only where the smaller step brought neither capacity per GPU nor a shorter gap."""
    return _no_gain(candidate, known, "tensor_parallel", lambda known: {"floor": known.floor_ms}, "GPUs per engine")


def _no_gain(
    candidate: Candidate,
    known: Sequence[Known],
    axis: str,
    others: Callable[[Known], Mapping[str, float | None]],
    words: str,
) -> str | None:
    """The last two steps along an axis: where the second was no better than the first, a third will not be."""
    wanted = getattr(candidate.shape, axis)
    along = sorted(
        (
            one
            for one in known
            if getattr(one.candidate.shape, axis) < wanted
            and _same_but(candidate, one.candidate, **{axis: wanted, "mps": candidate.shape.mps})
            and (one.candidate.shape.mps == candidate.shape.mps or one.candidate.shape.engines_per_gpu == 1)
        ),
        key=lambda one: int(getattr(one.candidate.shape, axis)),
    )
    if len(along) < 2:
        return None
    first, second = along[-2:]
    if first.per_gpu is None or second.per_gpu is None or second.per_gpu > NO_GAIN * first.per_gpu:
        return None
    for name, value in others(second).items():
        before = others(first)[name]
        if value is None or before is None or value < before / NO_GAIN:
            return None
    counts = [getattr(one.candidate.shape, axis) for one in (first, second)]
    return (
        f"{counts[1]} {words} carried {second.per_gpu:.3g}/s per GPU, {counts[0]} {first.per_gpu:.3g}/s: more of them "
        "is no gain"
    )
