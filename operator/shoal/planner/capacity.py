"""Capacity of one engine: the highest rate within the objective, for a profile row, a length mix and a clock.

Order of trust: measured knee, then the step model; each with one margin, which do not stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from shoal.domain.live import Evidence
from shoal.domain.plan import Capacity
from shoal.domain.profile import LengthMix, ProfileRow, Quantiles
from shoal.domain.reasons import ProfileState, Rejection
from shoal.domain.service import Objective
from shoal.planner.credit import (
    MARGIN_ESTIMATED,
    MARGIN_MEASURED,
    MARGIN_MODELLED,
    credited_rate,
    planned_rate,
    usable_ttft_ratio,
)
from shoal.planner.curves import KNEE, Curve, Line, make_line
from shoal.planner.latency import MEAN, EngineModel, modelled_curve
from shoal.planner.validity import LOOSE_TTFT_MS, MARGIN_OUTSIDE, Use, find_notes, outside

FAR: Final = 0.25  # log-distance of length mixes from which a measured knee counts as modelled
SAME: Final = 0.03  # below this distance a mix is the row's own
LEAST_USE: Final = 0.02  # an objective met only below this share of saturation is out of reach
OVERLOADED: Final = 0.97  # points above this share of saturation show the queue, not the engine
_RESAMPLED: Final = (0.2, 0.4, 0.6, 0.75, 0.85, KNEE)  # shares of saturation at which a slowed engine is looked at
CLOCK_GRID: Final = 20  # clock ratios are rounded to twentieths: a flapping clock is not a new plan each time
# p95 TTFT was 1.5-2.4 times the mean; the larger value, and the same spread for the other percentiles.
_TTFT_OVER_MEAN: Final = ((50, 1.0), (90, 1.9), (95, 2.4), (99, 4.0))
# Over requests, mean gaps spread less than single gaps (whose p95 was twice that of requests).
_ITL_OVER_MEAN: Final = ((50, 1.0), (90, 1.2), (95, 1.3), (99, 1.6))


@dataclass(frozen=True, slots=True)
class Basis:
    """Everything a capacity depends on, besides the clock. `kv_cache_tokens` is what the pool's memory leaves.

    `evidence` is what live traffic said of the row, if that is learned; `drift` how many times slower than a trusted
    row it has been for long.
    `api_servers` and `chunk` (prompt and output tokens of one step; None: the row's) are those of the configuration.
    """

    row: ProfileRow
    state: ProfileState
    profile: str | None
    clock_mhz: float | None
    lengths: LengthMix
    objective: Objective
    kv_cache_tokens: float
    api_servers: int = 1
    evidence: Evidence | None = None
    drift: float = 1.0
    chunk: int | None = None

    @property
    def is_carried(self) -> bool:
        """Whether the row was measured with another chunk or fewer API servers."""
        return self.chunk not in (None, self.row.max_num_batched_tokens) or self.api_servers > self.row.api_servers


@dataclass(frozen=True, slots=True)
class Rating:
    """A capacity and the curve behind it. `floor`: even a nearly idle engine misses this objective; capacity is 0."""

    capacity: Capacity
    curve: Curve
    floor: Rejection | None = None


def clock_ratio(clock_mhz: float | None, profile_clock_mhz: float | None) -> float:
    """Share of the profile's clock that is left, in twentieths; 1 when either is unknown, as unknown is not slow."""
    if not clock_mhz or not profile_clock_mhz or not 0 < clock_mhz < profile_clock_mhz:
        return 1.0
    return max(1, round(CLOCK_GRID * clock_mhz / profile_clock_mhz)) / CLOCK_GRID


@lru_cache(maxsize=16384)
def rate_row(basis: Basis, ratio: float = 1.0) -> Rating | None:
    """What one engine carries at a share of its clock; None when the row says nothing that can be used."""
    if distance(basis.row.lengths, basis.lengths) <= SAME:
        basis = replace(basis, lengths=basis.row.lengths)
    curve = _engine_curve(basis, ratio)
    if curve is None:
        return None
    objective = basis.objective
    knee, limit = curve.highest_rate(objective.ttft_ms, objective.itl_ms)
    missed = knee < LEAST_USE * curve.saturation
    margin, credited = _margin(basis, curve, knee), None
    if basis.evidence is not None and not missed:
        gain = saturation_gain(basis)
        credited = credited_rate(knee, basis.evidence, gain)
        margin = planned_rate(knee, basis.evidence, gain) / knee
    rate = 0.0 if missed else margin * knee
    ttft, itl = curve.latencies(rate)
    floor = {"TTFT": Rejection.TTFT_FLOOR, "ITL": Rejection.ITL_FLOOR}.get(limit) if missed else None
    capacity = Capacity(
        rate=rate,
        overload_rate=curve.saturation,
        ttft_ms=ttft,
        itl_ms=itl,
        margin=margin,
        source=basis.state,
        profile=basis.profile,
        limit=limit,
        credited=credited,
        notes=find_notes(_use(basis)),
    )
    return Rating(capacity, curve, floor)


@lru_cache(maxsize=16384)
def mean_curve(basis: Basis) -> Curve | None:
    """Mean latencies of one engine against its rate: what live means are compared with."""
    return _engine_curve(replace(basis, objective=Objective(MEAN), evidence=None, drift=1.0), 1.0)


def saturation_gain(basis: Basis) -> float:
    """Saturation at the basis' lengths over that at its row's."""
    if basis.lengths == basis.row.lengths:
        return 1.0
    here, there = mean_curve(basis), mean_curve(replace(basis, lengths=basis.row.lengths))
    return here.saturation / there.saturation if here is not None and there is not None else 1.0


def distance(one: LengthMix, other: LengthMix) -> float:
    """How far apart two length mixes are: the larger of the logarithms of the ratios of their means."""
    return max(
        abs(math.log(max(one.input_mean, 1.0) / max(other.input_mean, 1.0))),
        abs(math.log(max(one.output_mean, 1.0) / max(other.output_mean, 1.0))),
    )


def quantile(values: Quantiles, percentile: int, spread: tuple[tuple[int, float], ...]) -> float:
    """The measured percentile, else the next higher measured one, else the mean times its usual spread."""
    if percentile == MEAN:
        return values.mean
    measured = ((50, values.p50), (90, values.p90), (95, values.p95), (99, values.p99))
    for known, value in measured:
        if known >= percentile and value is not None and math.isfinite(value):
            return max(value, 0.0)
    return values.mean * next((factor for known, factor in spread if known >= percentile), spread[-1][1])


def _margin(basis: Basis, curve: Curve, knee: float) -> float:
    if basis.state is ProfileState.ESTIMATED:
        return MARGIN_ESTIMATED
    row = basis.row
    measured = bool(row.points or row.overload_rate) and knee >= _lowest(row) * curve.saturation
    modelled = MARGIN_MODELLED - (MARGIN_MODELLED - MARGIN_OUTSIDE) * outside(_use(basis))
    if not measured or basis.state in (ProfileState.LEARNED, ProfileState.STALE):
        return modelled
    ttft = basis.objective.ttft_ms
    if ttft is not None and ttft < LOOSE_TTFT_MS and not curve.ttft.known:
        return MARGIN_ESTIMATED
    far = 1.0 if basis.is_carried else min(1.0, distance(row.lengths, basis.lengths) / FAR)
    return MARGIN_MEASURED - (MARGIN_MEASURED - modelled) * far


def _lowest(row: ProfileRow) -> float:
    """Share of saturation of the lowest rate that was measured; 0 where only the saturation was."""
    top = max((point.rate for point in row.points), default=0.0)
    saturation = row.overload_rate or top / KNEE
    return min((point.rate for point in row.points), default=0.0) / saturation if saturation else 0.0


def _use(basis: Basis) -> Use:
    return Use(basis.row, basis.lengths, basis.objective, basis.kv_cache_tokens, basis.is_carried)


def _engine_curve(basis: Basis, ratio: float) -> Curve | None:
    curve = _profiled_curve(basis, ratio)
    if curve is None:
        return None
    if basis.drift > 1:
        curve = _stretched(curve, 1 / basis.drift, basis.drift, basis.drift)
    if basis.evidence is not None:
        curve = replace(curve, ttft=_raised(curve.ttft, usable_ttft_ratio(basis.evidence)))
    return curve


def _raised(line: Line, factor: float) -> Line:
    return line if factor == 1 else Line(line.rates, tuple(value * factor for value in line.values))


def _profiled_curve(basis: Basis, ratio: float) -> Curve | None:
    row = basis.row
    modelled = _modelled(basis, basis.lengths, basis.kv_cache_tokens, ratio)
    if not row.points and not row.overload_rate:
        return modelled
    own = measured_curve(row, basis.objective.percentile)
    if row.steps is None:
        return _scaled_by_size(own, basis, ratio)
    as_measured = replace(basis, api_servers=row.api_servers, chunk=None)
    there = _modelled(as_measured, row.lengths, row.kv_cache_tokens, 1.0)
    own = _down_to_idle(own, there)
    if row.lengths != basis.lengths or basis.is_carried:
        here = _modelled(basis, basis.lengths, row.kv_cache_tokens, 1.0)
        if there is None or here is None:
            return None
        own = _moved(own, there, here)
    if ratio >= 1 and basis.kv_cache_tokens == row.kv_cache_tokens:
        return own
    full = _modelled(basis, basis.lengths, row.kv_cache_tokens, 1.0)
    if full is None or modelled is None:
        return None
    return _slowed(own, full, modelled)


def _modelled(basis: Basis, lengths: LengthMix, kv_cache_tokens: float, ratio: float) -> Curve | None:
    row = basis.row
    if row.steps is None:
        return None
    chunk = basis.chunk or row.max_num_batched_tokens
    engine = EngineModel(row.steps, row.max_num_seqs, chunk, kv_cache_tokens, ratio, basis.api_servers)
    return modelled_curve(engine, lengths, basis.objective.percentile)


def measured_curve(row: ProfileRow, percentile: int) -> Curve:
    """The row's own curve. Its knee is the measured one: 0.93 of the overloaded throughput, or the last point."""
    top = max((point.rate for point in row.points), default=0.0)
    saturation = row.overload_rate or top / KNEE
    itl = [(min(p.rate, saturation), quantile(p.itl, percentile, _ITL_OVER_MEAN)) for p in row.points]
    steady = [p for p in row.points if p.rate <= OVERLOADED * saturation]
    ttft = [(p.rate, quantile(p.ttft, percentile, _TTFT_OVER_MEAN)) for p in steady]
    return Curve(make_line(ttft), make_line(itl), saturation, KNEE * saturation, "measured knee")


def _down_to_idle(own: Curve, model: Curve | None) -> Curve:
    """ITL below the lowest rate that was measured: it falls as the step model's does, and not below that.

    Against one connection to ten real engines on H200: -12 to +59 %, and 2.3 times for one (0.5B); without it 1.2 to
    2.9 times.
    """
    low = LEAST_USE * own.saturation
    if model is None or not own.itl.known or own.itl.rates[0] <= low:
        return own
    first, value = own.itl.rates[0], own.itl.values[0]
    idle, there = (model.itl.at(rate / own.saturation * model.saturation, model.saturation) for rate in (low, first))
    least = min(value, max(idle, value * idle / there))
    line = Line((low, *own.itl.rates), (least, *own.itl.values))
    return replace(own, itl=line)


def _scaled_by_size(own: Curve, basis: Basis, ratio: float) -> Curve:
    """Without step times: work is taken as growing with both lengths, and never as getting less than measured."""
    row, lengths = basis.row, basis.lengths
    inputs = min(1.0, row.lengths.input_mean / lengths.input_mean)
    outputs = min(1.0, row.lengths.output_mean / lengths.output_mean)
    memory = min(1.0, basis.kv_cache_tokens / row.kv_cache_tokens)
    return _stretched(own, inputs * outputs * memory * ratio, 1 / (inputs * ratio), 1 / ratio)


def _stretched(curve: Curve, rates: float, ttft: float, itl: float) -> Curve:
    return Curve(
        Line(tuple(r * rates for r in curve.ttft.rates), tuple(v * ttft for v in curve.ttft.values)),
        Line(tuple(r * rates for r in curve.itl.rates), tuple(v * itl for v in curve.itl.values)),
        curve.saturation * rates,
        curve.ceiling * rates,
        curve.limit,
    )


def _moved(own: Curve, there: Curve, here: Curve) -> Curve:
    """A measured curve carried to another mix: at equal utilisation, scaled as the step model says."""
    gain = here.saturation / there.saturation

    def move(line: Line, of: str) -> Line:
        points = []
        for rate, value in zip(line.rates, line.values, strict=True):
            share = min(rate / own.saturation, KNEE)
            now, then = (getattr(c, of).at(share * c.saturation, c.saturation) for c in (here, there))
            points.append((rate * gain, value * now / then))
        return make_line(points)

    return Curve(move(own.ttft, "ttft"), move(own.itl, "itl"), own.saturation * gain, own.ceiling * gain, own.limit)


def _slowed(own: Curve, full: Curve, slow: Curve) -> Curve:
    """A measured curve with less clock or KV cache: at the same rate no faster, and never beyond the new saturation."""
    loss = min(1.0, slow.saturation / full.saturation)
    saturation = own.saturation * loss

    def slow_down(line: Line, of: str) -> Line:
        if not line.known:
            return line
        points = []
        for rate in {*(share * saturation for share in _RESAMPLED), *(r for r in line.rates if r < KNEE * saturation)}:
            at = rate / own.saturation * full.saturation
            now, then = (getattr(c, of).at(at, c.saturation) for c in (slow, full))
            points.append((rate, line.at(rate, own.saturation) * max(1.0, now / then)))
        return make_line(points)

    limit = own.limit if loss >= 1 else slow.limit
    return Curve(slow_down(own.ttft, "ttft"), slow_down(own.itl, "itl"), saturation, KNEE * saturation, limit)
