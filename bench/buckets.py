"""Several GPU types for one service, each for the prompts it serves cheapest: what routing by length would cost.

Requests fall into buckets of prompt length. A mixed-integer program gives fractions x of each bucket to the options:
`sum over options of x = 1`, `sum over buckets of rate * share * x / capacity <= replicas`, least cost. Capacity per
bucket is not additive (long prompts slow the short ones beside them), so the mixture that each option would get is
looked up in the latency model again; where it carries less, the option's work is raised by as much, and the program is
solved anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Final

import highspy
import numpy as np

from shoal.domain.configuration import Placement
from shoal.domain.profile import LengthMix
from shoal.planner.capacity import rate_row
from shoal.planner.exact import make_solver
from shoal.planner.frontier import Option
from shoal.planner.ledger import Room
from shoal.planner.problem import Floats
from shoal.planner.sizing import Counts

QUANTILES: Final = (0.0, 0.5, 0.8, 0.95, 1.0)  # where buckets of prompt length begin and end
MOST_LOOKS: Final = 6  # at the mixtures
HARDLY: Final = 1e-6  # smaller fractions are rounding
_NORMAL: Final = NormalDist()
_P95: Final = _NORMAL.inv_cdf(0.95)
_TOP: Final = 0.999  # quantile that stands for the longest prompt


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests with prompts of up to `upper` tokens (and longer than those of the bucket before): `share` of all."""

    upper: float
    share: float
    lengths: LengthMix


@dataclass(frozen=True, slots=True)
class ByLength:
    """Replicas of each placement, and for each bucket the share of its requests that each placement gets."""

    counts: Mapping[Placement, int]
    weights: tuple[Mapping[Placement, float], ...]
    cost: float


def make_buckets(lengths: LengthMix) -> tuple[Bucket, ...]:
    """Buckets of a lognormal with the mix's mean and 95th percentile of prompts; answers alike in all of them."""
    spread = _spread(lengths)
    median = lengths.input_mean / math.exp(spread**2 / 2)

    def quantile(share: float) -> float:
        return float(median * math.exp(spread * _NORMAL.inv_cdf(min(max(share, 1 - _TOP), _TOP))))

    buckets = []
    for low, high in pairwise(QUANTILES):
        below = [_NORMAL.cdf(_NORMAL.inv_cdf(q) - spread) if 0 < q < 1 else q for q in (low, high)]
        mean = lengths.input_mean * (below[1] - below[0]) / (high - low)
        inside = replace(lengths, input_mean=mean, input_p95=max(mean, quantile(low + 0.95 * (high - low))))
        buckets.append(Bucket(quantile(high), high - low, inside))
    return tuple(buckets)


def split_by_length(
    options: Sequence[Option], rate: float, buckets: Sequence[Bucket], room: Room, least: int = 1
) -> ByLength | None:
    """The cheapest replicas when the router sends each bucket where it costs least; None when they do not fit."""
    times = np.array([[_time(option, bucket.lengths) for option in options] for bucket in buckets])
    work = times * rate * np.array([bucket.share for bucket in buckets])[:, None]
    factors = np.ones(len(options))
    for _ in range(MOST_LOOKS):
        found = _solve(options, work * factors, room, least)
        if found is None:
            return None
        counts, shares = found
        short = _shortage(options, rate, buckets, counts, shares)
        if (short <= 1 + 1e-9).all():
            return _answer(options, counts, shares)
        factors = factors * np.maximum(short, 1.0)
    return None


def _spread(lengths: LengthMix) -> float:
    """Standard deviation of the logarithm of prompt lengths, from mean and 95th percentile."""
    ratio = math.log(max(1.0, lengths.input_p95 / lengths.input_mean))
    return max(0.05, _P95 - math.sqrt(max(0.0, _P95**2 - 2 * ratio)))


def _time(option: Option, lengths: LengthMix) -> float:
    """Replica-seconds that one request of these lengths takes; infinite where the objective is out of reach."""
    rating = rate_row(replace(option.basis, lengths=lengths))
    engines = option.placement.configuration.engines_per_replica
    rate = rating.capacity.rate * engines if rating is not None and rating.floor is None else 0.0
    return 1 / rate if rate > 0 else math.inf


def _shortage(
    options: Sequence[Option], rate: float, buckets: Sequence[Bucket], counts: Floats, shares: Floats
) -> Floats:
    """How many times too much work each option's mixture is for its replicas, by the latency model."""
    flows = rate * np.array([bucket.share for bucket in buckets])[:, None] * shares
    short = np.ones(len(options))
    for place, option in enumerate(options):
        total = float(flows[:, place].sum())
        if total > HARDLY * rate:
            short[place] = total * _time(option, _mixed(buckets, flows[:, place])) / max(counts[place], 1.0)
    return short


def _mixed(buckets: Sequence[Bucket], flows: Floats) -> LengthMix:
    """Lengths of what flows together: the mean, and the 95th percentile between the buckets' own."""
    shares = flows / flows.sum()
    mean = float(sum(share * bucket.lengths.input_mean for share, bucket in zip(shares, buckets, strict=True)))
    longest = next(i for i in reversed(range(len(buckets))) if shares[i:].sum() >= 0.05 - HARDLY)
    tail = max(mean, buckets[longest].lengths.input_p95)
    return replace(buckets[0].lengths, input_mean=mean, input_p95=tail)


def _answer(options: Sequence[Option], counts: Floats, shares: Floats) -> ByLength:
    chosen: Counts = {o.placement: round(n) for o, n in zip(options, counts, strict=True) if round(n) > 0}
    weights = tuple({o.placement: float(x) for o, x in zip(options, row, strict=True) if x > HARDLY} for row in shares)
    return ByLength(chosen, weights, sum(o.cost * chosen.get(o.placement, 0) for o in options))


def _solve(options: Sequence[Option], work: Floats, room: Room, least: int) -> tuple[Floats, Floats] | None:
    """Replicas of each option, and fractions [buckets, options]; None when the program has no answer.

    `work`: replicas that each bucket [buckets, options] keeps busy, infinite where it may not go.
    """
    few, many = work.shape
    solver = make_solver()
    infinity = highspy.kHighsInf
    most = [room.most(option.placement, {}) for option in options]
    for option, bound in zip(options, most, strict=True):
        solver.addCol(option.cost, 0.0, float(bound), 0, [], [])
        solver.changeColIntegrality(solver.getNumCol() - 1, highspy.HighsVarType.kInteger)
    for bucket in range(few):
        for place in range(many):
            solver.addCol(0.0, 0.0, 1.0 if math.isfinite(work[bucket, place]) else 0.0, 0, [], [])
    column = np.arange(many * few).reshape(few, many) + many
    for bucket in range(few):
        solver.addRow(1.0, 1.0, many, column[bucket], np.ones(many))
    busy = np.where(np.isfinite(work), work, 0.0)
    for place in range(many):
        solver.addRow(-infinity, 0.0, few + 1, [place, *column[:, place]], [-1.0, *busy[:, place]])
    solver.addRow(float(least), infinity, many, np.arange(many), np.ones(many))
    gpus = np.array([float(option.gpus) for option in options])
    solver.addRow(-infinity, float(room.limit), many, np.arange(many), gpus)
    for name, pool in room.pools.items():
        own = [place for place, option in enumerate(options) if option.placement.pool == name]
        solver.addRow(-infinity, float(pool.gpus), len(own), own, gpus[own])
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    values = np.array(solver.getSolution().col_value)
    return values[:many].round(), values[many:].reshape(few, many)
