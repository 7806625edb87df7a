"""Which configurations need not be measured, because those before them already tell. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from shoal.domain.configuration import Configuration

NO_GAIN: Final = 1.02  # capacity per GPU up to this factor of another's is no gain: less than runs differ
NEVER_FULL: Final = 0.6  # of the batch limit, or of the KV cache: what was never more in use does not bind


@dataclass(frozen=True, slots=True)
class Trial:
    """A configuration that is about to be measured. `kv_bytes` per engine; None: as the engine finds it."""

    configuration: Configuration
    kv_bytes: int | None = None
    mps: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a trial that reached saturation showed. None: not known.

    `rate`: requests per second at the knee, of all engines. `floor_ms`: the gap between tokens of a lonely request.
    `most_running` of all engines, `most_kv_usage` of 1: the largest that was seen.
    """

    trial: Trial
    rate: float | None = None
    floor_ms: float | None = None
    most_running: float | None = None
    most_kv_usage: float | None = None

    @property
    def per_gpu(self) -> float | None:
        """Requests per second and GPU at the knee."""
        return None if self.rate is None else self.rate / self.trial.configuration.gpus_per_replica


def why_needless(trial: Trial, found: Sequence[Finding]) -> str | None:
    """The reason why nothing is to be gained by this one; None: measure it."""
    for rule in (_larger_batch, _more_kv, _more_engines, _more_gpus):
        if (reason := rule(trial, found)) is not None:
            return reason
    return None


def _same_but(trial: Trial, other: Trial, **changes: Any) -> bool:
    return replace(other.configuration, **changes) == replace(trial.configuration, **changes)


def _larger_batch(trial: Trial, found: Sequence[Finding]) -> str | None:
    for one in found:
        own = one.trial.configuration
        limit, most = own.max_num_seqs, one.most_running
        if limit >= trial.configuration.max_num_seqs or most is None:
            continue
        same = (one.trial.kv_bytes, one.trial.mps) == (trial.kv_bytes, trial.mps)
        used = most / own.engines_per_gpu
        if same and _same_but(trial, one.trial, max_num_seqs=limit) and used < NEVER_FULL * limit:
            return f"at most {used:.0f} of {limit} requests ran at once: a larger batch limit changes nothing"
    return None


def _more_kv(trial: Trial, found: Sequence[Finding]) -> str | None:
    for one in found:
        less, used = one.trial.kv_bytes, one.most_kv_usage
        if less is None or trial.kv_bytes is None or less >= trial.kv_bytes or used is None:
            continue
        if replace(one.trial, kv_bytes=None) == replace(trial, kv_bytes=None) and used < NEVER_FULL:
            return f"at most {used:.0%} of a smaller KV cache was used: more of it changes nothing"
    return None


def _more_engines(trial: Trial, found: Sequence[Finding]) -> str | None:
    return _no_gain(trial, found, "engines_per_gpu", lambda one: {}, "engines on a GPU")


def _more_gpus(trial: Trial, found: Sequence[Finding]) -> str | None:
    """More TP is dominated only where the smaller step brought neither capacity per GPU nor a shorter gap."""
    return _no_gain(trial, found, "tensor_parallel", lambda one: {"floor": one.floor_ms}, "GPUs per engine")


def _no_gain(
    trial: Trial,
    found: Sequence[Finding],
    axis: str,
    others: Callable[[Finding], Mapping[str, float | None]],
    words: str,
) -> str | None:
    """The last two steps along an axis: where the second was no better than the first, a third will not be.

    One engine alone is the beginning of the axis with MPS as of that without. KV caches shrink along it.
    """
    wanted = getattr(trial.configuration, axis)
    along = sorted(
        (
            one
            for one in found
            if getattr(one.trial.configuration, axis) < wanted
            and _same_but(trial, one.trial, **{axis: 1})
            and (one.trial.mps == trial.mps or one.trial.configuration.engines_per_gpu == 1)
        ),
        key=lambda one: int(getattr(one.trial.configuration, axis)),
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
    counts = [getattr(one.trial.configuration, axis) for one in (first, second)]
    return (
        f"{counts[1]} {words} carried {second.per_gpu:.3g}/s per GPU, {counts[0]} {first.per_gpu:.3g}/s: more of them "
        "is no gain"
    )
