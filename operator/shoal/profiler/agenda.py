"""What to measure next, from what was measured so far. Pure: the same points give the same step.

The order is that of worth: whoever runs out of budget has the most useful points. Two closed loops, saturation, the
knee, shares of it, probes for the step times, repetitions with other seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from shoal.profiler.knee import find_bracket, next_rate, overload_of, usable
from shoal.profiler.points import Point
from shoal.profiler.specs import Kind, Settings, Spec

SHARES: Final = (0.6, 0.2)  # of the knee
NEAR: Final = 0.25  # a point within this of a share counts as that share
OVERLOAD_SHARE: Final = 0.4  # of the horizon
OVERLOAD: Final = 1.3  # of what a full closed loop finishes
MORE: Final = 1.4  # where that was not yet too much
MOST_SEARCH: Final = 12
BURST_REQUESTS, BURST_TOKENS = 1000, 512
PREFILL_CONNECTIONS: Final = 32
DECODE_PROMPT, DECODE_OUTPUT = 32, 256

Stage = Callable[[Settings, Sequence[Point]], Spec | None]


def next_step(settings: Settings, points: Sequence[Point]) -> Spec | None:
    """The next step; None when there is nothing more to learn."""
    return next((spec for stage in _stages(settings) if (spec := stage(settings, points)) is not None), None)


def _stages(settings: Settings) -> Iterator[Stage]:
    yield from (_idle, _full, _overload, _search, _shares)
    if settings.probes:
        yield from (_prefill, _decode, _context)
    if settings.burst:
        yield _burst
    yield _repeat


def _has(points: Sequence[Point], name: str) -> bool:
    return any(point.spec.name == name for point in usable(points))


def _closed(
    settings: Settings, name: str, connections: int, lengths: str, seconds: float, *, fill: float = 0.5
) -> Spec:
    """A closed loop; `fill` is the share of its seconds that the batch gets to fill before they count."""
    return Spec(
        name=name,
        kind=Kind.CLOSED,
        seconds=seconds,
        warm_up=fill * seconds,
        seed=settings.seed,
        lengths=lengths,
        connections=connections,
    )


def _fill_seconds(points: Sequence[Point]) -> float:
    """Seconds until a batch that fills from nothing is as it stays: one answer's time in a full batch, and a half."""
    full = next((p for p in points if p.spec.name == "full" and p.gap_ms), None)
    return 0.0 if full is None or full.gap_ms is None else round(1.5 * full.gap_ms * full.output_mean / 1000, 1)


def _long_enough(settings: Settings, points: Sequence[Point]) -> float:
    """Seconds in which a full batch reaches its steady state: it is some three times slower than a lonely request."""
    lonely = next((p.gap_ms * p.output_mean / 1000 for p in points if p.spec.name == "idle" and p.gap_ms), 0.0)
    return max(settings.probe_seconds, round(4 * lonely, 1))


def _open(
    settings: Settings,
    name: str,
    rate: float,
    *,
    warm_up: float = 0.0,
    seed: int | None = None,
    seconds: float | None = None,
) -> Spec:
    return Spec(
        name=name,
        kind=Kind.OPEN,
        seconds=seconds or settings.horizon,
        warm_up=max(settings.warm_up, warm_up),
        seed=settings.seed if seed is None else seed,
        lengths=settings.lengths,
        rate=float(f"{rate:.6g}"),
    )


def _idle(settings: Settings, points: Sequence[Point]) -> Spec | None:
    if _has(points, "idle"):
        return None
    return _closed(settings, "idle", settings.engines, settings.lengths, settings.probe_seconds, fill=0.1)


def _full(settings: Settings, points: Sequence[Point]) -> Spec | None:
    if _has(points, "full"):
        return None
    return _closed(
        settings, "full", settings.batch * settings.engines, settings.lengths, _long_enough(settings, points)
    )


def _overload(settings: Settings, points: Sequence[Point]) -> Spec | None:
    tried = [point for point in usable(points) if point.spec.name == "overload"]
    if overload_of(points) is not None or len(tried) >= 4:
        return None
    full = next(point for point in points if point.spec.name == "full")
    if full.throughput <= 0:
        return None
    rate = OVERLOAD * full.throughput * MORE ** len(tried)
    seconds = max(OVERLOAD_SHARE * settings.horizon, min(10.0, 2.5 * settings.horizon))
    return _open(settings, "overload", rate, warm_up=_fill_seconds(points), seconds=seconds)


def _search(settings: Settings, points: Sequence[Point]) -> Spec | None:
    if sum(point.spec.name == "search" for point in points) >= MOST_SEARCH:
        return None
    rate = next_rate(points, settings.objective, settings.tolerance, noise=settings.noise)
    return None if rate is None else _open(settings, "search", rate)


def _shares(settings: Settings, points: Sequence[Point]) -> Spec | None:
    bracket = find_bracket(points, settings.objective)
    over = overload_of(points)
    if bracket is None or over is None:
        return None
    knee = bracket.knee or over.throughput
    known = [p for p in usable(points) if p.spec.kind is Kind.OPEN and p.spec.rate]
    measured = [p.spec.rate for p in known if p.spec.rate and (p.spec.name == "share" or not p.stopped)]
    for share in SHARES:
        if not any(abs(rate / (share * knee) - 1) <= NEAR for rate in measured):
            return _open(settings, "share", share * knee)
    return None


def _prefill(settings: Settings, points: Sequence[Point]) -> Spec | None:
    if _has(points, "prefill"):
        return None
    prompt = min(0.7 * settings.longest, 4096)
    lengths = f"gamma:{prompt:.0f},16,0.3"
    connections = min(PREFILL_CONNECTIONS, settings.batch) * settings.engines
    return _closed(settings, "prefill", connections, lengths, _long_enough(settings, points))


def _decode(settings: Settings, points: Sequence[Point]) -> Spec | None:
    if _has(points, "decode"):
        return None
    lengths = f"gamma:{DECODE_PROMPT},{min(DECODE_OUTPUT, settings.longest // 2)},0.3"
    return _closed(settings, "decode", settings.batch * settings.engines, lengths, _long_enough(settings, points))


def _context(settings: Settings, points: Sequence[Point]) -> Spec | None:
    """Long contexts, as many as the KV cache holds without preemption: what one token of it costs."""
    if _has(points, "context"):
        return None
    prompt, output = 0.55 * min(settings.longest, 8192), min(0.2 * settings.longest, DECODE_OUTPUT)
    fits = (settings.kv_cache_tokens or 0.0) * 0.7 / (prompt + output)
    connections = max(1, min(settings.batch, int(fits) if settings.kv_cache_tokens else settings.batch))
    lengths = f"gamma:{prompt:.0f},{output:.0f},0.2"
    return _closed(settings, "context", connections * settings.engines, lengths, _long_enough(settings, points))


def _burst(settings: Settings, points: Sequence[Point]) -> Spec | None:
    if _has(points, "burst"):
        return None
    prompt = round(settings.longest / 4) if settings.longest < 4 * BURST_TOKENS else BURST_TOKENS
    tokens = min(BURST_TOKENS, settings.longest - prompt)
    return Spec(
        name="burst",
        kind=Kind.BURST,
        seconds=120.0,
        warm_up=0.0,
        seed=settings.seed,
        lengths=f"fixed:{prompt},{tokens}",
        connections=BURST_REQUESTS,
    )


def _repeat(settings: Settings, points: Sequence[Point]) -> Spec | None:
    """Both ends of the bracket again with another seed; where that moves it, `_search` goes on first."""
    bracket = find_bracket(points, settings.objective)
    if bracket is None or bracket.low is None:
        return None
    for turn in range(1, settings.repeats):
        seed = settings.seed + 1000 * turn
        for rate in (bracket.low, bracket.high):
            if not any(p.spec.seed == seed and p.spec.rate and abs(p.spec.rate / rate - 1) < 1e-5 for p in points):
                return _open(settings, "repeat", rate, seed=seed)
    return None
