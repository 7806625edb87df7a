"""When the target may move.

Written for one placement: n replicas of capacity C; `lam` the observed rate, `se` its standard error, `fut` the
forecast.

    eps = 3*se/lam, between 0.03 and 0.25     h = (1 - eps)/(1 + eps)
    wait    when the rate is just changing: the tick in which it did holds both, and is not its size
    grow    when fut - se > n*C, or n < stuck + ceil((fut - se)/(0.98*X_sat)):
            to max(ceil(fut/C), ceil((1 + eps)*n) if n >= 10, stuck + ceil(fut/(0.95*X_sat))), at once
    stuck   replicas whose queue will exceed the TTFT objective when a new replica is ready (assess.py)
    shrink  when no queue exceeds it, nothing is starting, there is no upward trend, the rate has lasted and the last
            move lies back for the shrink window, and everything is fresh:  to max(min, ceil(lam/(h*C)));
            of a rate that has steadily fallen for ten minutes to max(min, ceil(mean of the last five/C))

With several placements n*C is the sum over replicas, derated as they are; C of one replica alone is less than that of
each of several (credit.py, pooling).

**Bound on moves under stationary noise.** Let the rate be lam0 and suppose that every estimate stays within a factor
1 ± e of it, with no false change of rate, no slope believed, nothing stuck, C constant, and eps >= e in every plan (eps
itself may move: the dispersion is measured anew in each). A shrink to k replicas happened at an estimate
lam <= h*k*C, so lam0 <= lam/(1 - e) <= h*k*C/(1 - eps) = k*C/(1 + eps), so every later estimate is at most
(1 + e)*lam0 <= k*C, and growth needs more than k*C: **no growth follows a shrink.** Before the first shrink every
growth adds a replica and none goes beyond ceil((1 + e)*lam0/C), or the one step of (1 + eps)*n; after it every shrink
takes one at least. With H the largest 1/h and h0 = (1 - e)/(1 + e), moves are at most
2 + ceil(2*e*lam0/C) + ceil(((1 + e)*H - (1 - e)/h0)*lam0/C), however long the episode lasts; where eps = e is constant
the last term is ceil(2*e*lam0/(h*C)). tests/planner/test_stabilise_bounds.py tries every sequence an adversary has: the
graph of all moves that some estimate allows has no cycle, and its longest path is within the bound.

Growth by other replicas than the cheapest rate of its own (growth.py) is by (1 + eps) at least, so that a small replica
does not come in small steps. After the first such growth the plan carries (1 - e)*lam0, and after the fourth
(1 - e)*(1 + e)**3*lam0 > (1 + e)*lam0: there are at most four before the first shrink, and none after it.

**Steady falls** are outside that episode: a rate within 1 ± 0.03 of a constant has no slope beyond 3*0.03*lam0/T
(demand.py), so none is believed. While one lasts, the mean of the last five minutes is above the rate by half of what
fell in them, more than 0.02*lam; growth after such a shrink needs that mean to rise by se, against the fall. Nothing is
taken away below the mean of the last minute, so that a fall which has just ended is not overshot. Tested with falls of
at most a twentieth in two minutes (tests/planner/test_trends.py); at the end of steeper ones a replica may come back.

A change of mix needs a saving that exceeds what both variants cost while they overlap, in three successive plans (ten
seconds), with no move in flight. The saving counts for as long as the last move lies back, an hour at most.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from shoal.domain.configuration import Placement
from shoal.domain.plan import Demand
from shoal.domain.reasons import HoldReason
from shoal.domain.service import Memory
from shoal.planner.bounds import cost_frontier
from shoal.planner.candidates import HORIZON_SECONDS, Wish, move_cost
from shoal.planner.demand import WINDOW_SECONDS, rate_now, slope_bound, uncertainty
from shoal.planner.frontier import Offer
from shoal.planner.growth import cheapest_growth
from shoal.planner.ledger import Room
from shoal.planner.rollout import can_arrive
from shoal.planner.sizing import (
    ENOUGH,
    Counts,
    Fleets,
    Sized,
    shrink,
    size,
    sized,
    total_cost,
    total_gpus,
    total_rate,
    trim,
)
from shoal.planner.standby import with_headroom
from shoal.planner.thermal import vouched_fleet

MANY: Final = 10  # from so many replicas on, growth is at least by the uncertainty, so that it comes in few moves
NEARLY_SATURATED: Final = 0.95  # share of overloaded throughput that newcomers are sized for while a queue drains
OVERTAXED: Final = 0.98  # share from which on more are added: an estimate that wanders makes no second move
SURE_SLOPE: Final = 1.5  # times what is believed: a fall that may be disbelieved in the next plan takes nothing away
MIX_PATIENCE_SECONDS: Final = 10.0  # three successive plans, five seconds apart
MIX_INTERVAL_SECONDS: Final = 600.0
LEAST_SAVING: Final = 0.05  # of the present cost


class Change(enum.Enum):
    """What happens to the target."""

    NONE = "none"
    FIRST = "first"
    GROW = "grow"
    SHRINK = "shrink"
    MIX = "mix"
    FORCED = "forced"  # a placement may no longer be used
    TRIM = "trim"  # limits, quota, stock or priority leave less


@dataclass(frozen=True, slots=True)
class Situation:
    """What the choice of a target depends on.

    `present` is the target so far (or what runs); `demand` None: nothing is known. `starting`: replicas on their way.
    `moving`: what runs is not the target yet. `may_move` False: too many services are moving already. `held_gpus` are
    those of ready replicas. `slower`: engines are, right now, much slower than what is planned with. `max_loss`:
    share of the capacity that may be given back at once. `headroom`: times the demand to plan for (standby.py).
    `offer`: what the fleets are options of.
    """

    now: float
    present: Mapping[Placement, int]
    fleets: Fleets
    room: Room
    demand: Demand | None
    least: int
    memory: Memory
    shrink_after: float
    startup_seconds: float
    fresh: bool
    starting: bool
    moving: bool
    may_move: bool
    held_gpus: int
    slower: bool = False
    max_loss: float = 1.0
    offer: Offer | None = None
    lasting_queues: Mapping[Placement, int] = field(default_factory=dict)
    headroom: float = 1.0

    @property
    def planned(self) -> Demand | None:
        """The demand to size for; `demand` is what must be carried for the plan to be enough."""
        return with_headroom(self.demand, self.headroom)


@dataclass(frozen=True, slots=True)
class Choice:
    """The target, and why. `cheaper` is a mix that would cost less but is not worth the move, or not yet.

    What any other target for the same wish would have to do: carry `wanted` (requests per second) and contain `kept`.
    """

    counts: Mapping[Placement, int]
    change: Change
    enough: bool
    hold: HoldReason | None = None
    mix_wanted_since: float | None = None
    cheaper: Sized | None = None
    wanted: float = 0.0
    kept: Mapping[Placement, int] = field(default_factory=dict)


def choose_target(situation: Situation) -> Choice:
    """The target for this situation: what must change, then growth, then shrinking, then a better mix."""
    if not any(situation.present.values()):
        return _first(situation)
    usable = {p: n for p, n in situation.present.items() if n > 0 and p in situation.fleets}
    base = trim(situation.fleets, usable, situation.room)
    change = Change.NONE
    if usable != {p: n for p, n in situation.present.items() if n > 0}:
        change = Change.FORCED
    elif base != usable:
        change = Change.TRIM
    kept, wanted = base, _wanted(situation, base)
    grown = _grow(situation, base, wanted)
    if grown != base:
        wanted = _finer(situation, base, wanted)
        base, change = grown, Change.FORCED if change is Change.FORCED else Change.GROW
    if change is Change.FORCED and not situation.fresh:
        base = kept = _not_smaller(situation, base)
    choice = Choice(base, change, is_enough(situation, base), wanted=wanted, kept=kept)
    if not situation.fresh or situation.demand is None:
        return replace(choice, hold=HoldReason.METRICS_STALE) if change is Change.NONE else choice
    return choice if change is not Change.NONE else _settle(situation, choice)


def needed_rate(demand: Demand) -> float:
    """Rate a target must carry to count as enough: the forecast less its standard error."""
    return max(0.0, demand.forecast - demand.standard_error)


def _first(situation: Situation) -> Choice:
    rate = situation.planned.forecast if situation.planned else 0.0
    sized = size(situation.fleets, rate, situation.least, situation.room)
    change = Change.FIRST if sized.counts else Change.NONE
    return Choice(sized.counts, change, is_enough(situation, sized.counts), wanted=rate)


def is_enough(situation: Situation, counts: Mapping[Placement, int]) -> bool:
    """Whether these replicas carry what is needed and keep the floor."""
    rate = needed_rate(situation.demand) if situation.demand else 0.0
    return total_rate(counts, situation.fleets) >= rate * ENOUGH and sum(counts.values()) >= situation.least


def _wanted(situation: Situation, base: Counts) -> float:
    """Rate the target shall carry by the law of growth. Stale inputs grow from what is known, without a trend."""
    demand = situation.planned
    if demand is None or demand.changing:
        return 0.0
    carried = total_rate(base, situation.fleets)
    seen = situation.demand or demand
    enough = carried >= needed_rate(demand) * ENOUGH
    if enough and carried >= _beside_stuck(situation, base, needed_rate(seen), OVERTAXED) * ENOUGH:
        return 0.0
    beside = _beside_stuck(situation, base, seen.forecast, NEARLY_SATURATED)
    return beside if enough else max(demand.forecast, beside, _at_least_uncertainty(demand, base, carried))


def _grow(situation: Situation, base: Counts, wanted: float) -> Counts:
    """What carries the wanted rate, and the floor."""
    if wanted <= total_rate(base, situation.fleets) and sum(base.values()) >= situation.least:
        return base
    if not base:
        return dict(size(situation.fleets, wanted, situation.least, situation.room).counts)
    wish = Wish(situation.fleets, wanted, situation.least, situation.room, base)
    return dict(cheapest_growth(wish, _finer(situation, base, wanted), situation.offer).counts)


def _finer(situation: Situation, base: Counts, wanted: float) -> float:
    """Rate that growth by other replicas than one's own shall carry: beyond what stationary noise asks for next."""
    demand = situation.planned
    carried = total_rate(base, situation.fleets)
    return wanted if demand is None or wanted <= carried else max(wanted, (1 + uncertainty(demand)) * carried)


def _at_least_uncertainty(demand: Demand, base: Counts, carried: float) -> float:
    return (1 + uncertainty(demand)) * carried if sum(base.values()) >= MANY else 0.0


def _beside_stuck(situation: Situation, base: Counts, rate: float, share: float) -> float:
    """Capacity when newcomers alone carry a rate, at a share of saturation, while stuck replicas work off their queues.

    Stuck replicas count at most as often as the rate needs replicas: an objective that every request misses must not
    grow the service for ever.
    """
    if not base:
        return 0.0
    fleets = situation.fleets
    usual = fleets[max(base, key=lambda placement: (base[placement], placement))]
    held = sum(n * fleets[p].option.rate for p, n in situation.lasting_queues.items() if p in fleets)
    stuck = min(usual.pooling * held, usual.rate(max(1, usual.need(rate))))
    each = max(fleets[placement].option.rate / fleets[placement].option.overload_rate for placement in base)
    return stuck + usual.pooling * each * rate / share if held else 0.0


def _not_smaller(situation: Situation, base: Counts) -> Counts:
    """With stale inputs a forced change keeps at least the GPUs of the replicas that serve."""
    counts = dict(base)
    for placement in sorted(base):
        lacking = situation.held_gpus - total_gpus(counts)
        if lacking > 0:
            more = -(-lacking // placement.configuration.gpus_per_replica)
            counts[placement] += min(more, situation.room.most(placement, counts))
    return counts


def _settle(situation: Situation, choice: Choice) -> Choice:
    """Everything is known and nothing had to change: give back what is not needed, or move to a cheaper mix."""
    demand = situation.planned
    if demand is None or demand.changing or demand.stuck_replicas or situation.starting:
        return choice
    if max(demand.slope, demand.trend) > 0:
        return choice
    if situation.slower:
        return choice  # what is planned with is not true now: no time to take anything away
    smaller = _shrunk(situation, demand, choice)
    if smaller is not None:
        return smaller if situation.may_move else replace(choice, hold=HoldReason.MOVES_LIMITED)
    return _better_mix(situation, demand, choice)


def _safe_rate(demand: Demand) -> float:
    """Rate that a smaller plan must carry so that no later estimate within the uncertainty makes it grow again.

    Of a rate that steadily falls later estimates are lower, and the mean of the last minutes is above what it is now.
    A fall that has just ended is seen in the last minute.
    """
    eps = uncertainty(demand)
    falls = demand.slope < -SURE_SLOPE * slope_bound(demand)
    steady = (rate_now(demand) if falls else demand.rate) * (1 + eps) / (1 - eps)
    safe = min(steady, demand.recent) if demand.trend < 0 else steady
    return max(safe, demand.latest) if falls or demand.trend < 0 else safe


def _shrunk(situation: Situation, demand: Demand, choice: Choice) -> Choice | None:
    memory, window = situation.memory, situation.shrink_after
    if demand.observed and demand.window_seconds < min(window, WINDOW_SECONDS):
        return None
    if memory.last_move_at is not None and situation.now - memory.last_move_at < window:
        return None
    vouched = {placement: vouched_fleet(situation.fleets[placement]) for placement in choice.counts}
    if any(fleet.option.estimated for fleet in vouched.values()):
        return None  # an estimate may add replicas, never remove any
    smaller = _kept(situation, demand, choice.counts, vouched)
    if smaller.replicas >= sum(choice.counts.values()) or not smaller.enough:
        return None
    return Choice(smaller.counts, Change.SHRINK, is_enough(situation, smaller.counts))


def _kept(situation: Situation, demand: Demand, counts: Mapping[Placement, int], vouched: Fleets) -> Sized:
    """What is left when all that may be spared goes.

    Growth will ask for what is planned, so that must carry the safe rate. What live traffic vouches for, which is less,
    must carry the rate as it is: the credit is a bound on what an engine is tried with, and adds no uncertainty.
    """
    fleets, least = situation.fleets, situation.least
    left = _least_left(situation.max_loss, counts, vouched)
    safe = _safe_rate(demand)
    planned = shrink(fleets, counts, max(safe, left), least)
    credited = shrink(vouched, counts, max(min(safe, rate_now(demand)), left), least)
    kept = {placement: max(planned.counts.get(placement, 0), credited.counts.get(placement, 0)) for placement in counts}
    return replace(sized(kept, vouched, 0.0, least), enough=planned.enough and credited.enough)


def _least_left(max_loss: float, counts: Mapping[Placement, int], fleets: Fleets) -> float:
    """Rate that must be left after one decision, whatever the demand; one replica may go in any case."""
    if not 0 <= max_loss < 1:
        return 0.0
    carried = total_rate(counts, fleets)
    one_less = min(total_rate({**counts, placement: counts[placement] - 1}, fleets) for placement in counts)
    return max(0.0, min((1 - max_loss) * carried, one_less))


def _better_mix(situation: Situation, demand: Demand, choice: Choice) -> Choice:
    rate = max(demand.forecast, _safe_rate(demand))
    fleets = situation.fleets
    least_cost = _least_cost(situation, rate)
    if total_cost(choice.counts, fleets) * (1 - LEAST_SAVING) <= least_cost:
        return choice
    own = {placement: vouched_fleet(fleets[placement]) for placement in choice.counts}
    kept = shrink(own, choice.counts, rate, situation.least)
    if kept.cost * (1 - LEAST_SAVING) <= least_cost:
        return choice
    ideal = size({**fleets, **own}, rate, situation.least, situation.room)
    if not ideal.enough or any(fleets[placement].option.estimated for placement in ideal.counts):
        return choice
    saving = kept.cost - ideal.cost
    if saving <= 0 or ideal.counts == choice.counts:
        return choice
    if saving <= LEAST_SAVING * kept.cost or saving * _lasting(situation) <= _overlap_cost(situation, choice, ideal):
        return replace(choice, cheaper=ideal)
    since = situation.memory.mix_wanted_since
    waiting = replace(choice, cheaper=ideal, mix_wanted_since=situation.now if since is None else since)
    return _move_mix(situation, waiting, ideal)


def _move_mix(situation: Situation, waiting: Choice, ideal: Sized) -> Choice:
    since = waiting.mix_wanted_since
    last = situation.memory.last_mix_change_at
    if since is None or situation.now - since < MIX_PATIENCE_SECONDS:
        return waiting
    if last is not None and situation.now - last < MIX_INTERVAL_SECONDS:
        return waiting
    if not _can_arrive(situation, waiting, ideal):
        return replace(waiting, mix_wanted_since=None)
    if situation.moving:
        return replace(waiting, hold=HoldReason.MOVE_IN_FLIGHT)
    if not situation.may_move:
        return replace(waiting, hold=HoldReason.MOVES_LIMITED)
    return Choice(ideal.counts, Change.MIX, enough=True, cheaper=ideal, kept=waiting.counts)


def _lasting(situation: Situation) -> float:
    """How long the saving may be expected, as a share of the horizon: as long again as the last move lies back.

    Whoever pays for a move only when staying has cost as much never pays twice what the best hindsight would have, as
    with the rent of skis; and a step of the rate, which may go as it came, does not change the mix in its middle.
    """
    last = situation.memory.last_move_at
    return 1.0 if last is None else min(1.0, max(0.0, situation.now - last) / HORIZON_SECONDS)


def _can_arrive(situation: Situation, choice: Choice, ideal: Sized) -> bool:
    """Whether the move could be ended without missing the load or the floor: there must be room for its steps."""
    demand = situation.demand
    load = rate_now(demand) + demand.standard_error if demand else 0.0
    return can_arrive(
        choice.counts, dict(ideal.counts), situation.fleets, situation.room, load=load, least=situation.least
    )


def _least_cost(situation: Situation, rate: float) -> float:
    """A bound below any plan's cost: spares the search when nothing could be saved."""
    frontier = cost_frontier(situation.offer, situation.room.full) if situation.offer else None
    return frontier.cost(rate, situation.least) if frontier else 0.0


def _overlap_cost(situation: Situation, choice: Choice, ideal: Sized) -> float:
    return move_cost(choice.counts, ideal.counts, situation.fleets, situation.startup_seconds)
