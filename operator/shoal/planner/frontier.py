"""Every configuration of a pool: what it would carry for a service, or why it may not be used."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Generic, TypeVar

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.live import Evidence, Lesson
from shoal.domain.plan import FrontierPoint, RejectedOption
from shoal.domain.pool import Pool
from shoal.domain.profile import ModelFacts, Profile, ProfileRow
from shoal.domain.reasons import ProfileState, Rejection
from shoal.planner.alternatives import with_alternatives
from shoal.planner.capacity import LEAST_USE, Basis, Rating, rate_row
from shoal.planner.checks import Candidate, Needs, first_objection, is_possible
from shoal.planner.credit import is_learned, pooled_share
from shoal.planner.datasheets import find_datasheet
from shoal.planner.estimate import DEFAULT_MAX_NUM_BATCHED_TOKENS, DEFAULT_MAX_NUM_SEQS, estimate_row
from shoal.planner.ledger import node_size
from shoal.planner.memory import kv_tokens
from shoal.planner.rows import RowChoice, choose_rows, usable_facts

TENSOR: Final = (1, 2, 4, 8)
SHARED: Final = (2, 4)
KV_TOLERANCE: Final = 0.85  # our memory bound is rougher than what an engine reports: trust the report within this
FREE: Final = 1e-6  # stands for a price of 0, so that fewer GPUs still cost less

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Option:
    """A placement that could be used, with what one replica of it carries at full clock."""

    placement: Placement
    basis: Basis
    rating: Rating
    price: float  # of one GPU for an hour, never 0

    gpus: int = field(init=False)  # of one replica
    rate: float = field(init=False)  # requests per second of one replica within the objective
    overload_rate: float = field(init=False)  # requests per second of one replica when overloaded
    cost: float = field(init=False)  # price of one replica for an hour
    cost_of_rate: float = field(init=False)  # price of one request per second for an hour
    pooling: float = field(init=False)  # times its rate that a replica carries beside others

    def __post_init__(self) -> None:
        """Work out once what is asked for again and again."""
        engines, capacity = self.placement.configuration.engines_per_replica, self.rating.capacity
        gpus, rate = self.placement.configuration.gpus_per_replica, capacity.rate * engines
        cost = self.price * gpus
        object.__setattr__(self, "gpus", gpus)
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "overload_rate", capacity.overload_rate * engines)
        object.__setattr__(self, "cost", cost)
        object.__setattr__(self, "cost_of_rate", cost / rate if rate > 0 else math.inf)
        object.__setattr__(self, "pooling", pooled_share(capacity.margin))

    @property
    def estimated(self) -> bool:
        """Whether its capacity is an estimate, which may add replicas and nothing else."""
        return self.rating.capacity.source is ProfileState.ESTIMATED


@dataclass(frozen=True, slots=True)
class Survey:
    """What a pool offers a service. `too_slow` would fit but misses the objective even when idle."""

    options: tuple[Option, ...] = ()
    too_slow: tuple[Option, ...] = ()
    rejected: tuple[RejectedOption, ...] = ()


T = TypeVar("T")


class Same(Generic[T]):
    """A key by identity: profiles and options are large, and the same objects come back in every decision."""

    __slots__ = ("it",)

    def __init__(self, it: T) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.it is self.it


@dataclass(frozen=True, slots=True)
class BarePool:
    """A pool without what changes from one decision to the next.

    `island`: GPUs that can serve one engine together; `energy_price`: of a kilowatt-hour.
    """

    pool: Pool
    island: int
    energy_price: float = 0.0


def make_bare(pool: Pool, energy_price: float = 0.0) -> BarePool:
    """What of a pool configurations depend on."""
    bare = replace(
        pool, stock=None, admissions=(), max_gpus=None, price_per_gpu_hour=_usable_price(pool.price_per_gpu_hour)
    )
    return BarePool(bare, largest_island(pool), _usable_price(energy_price))


def _usable_price(price: float) -> float:
    """A price that is none counts as nothing."""
    return price if math.isfinite(price) and price > 0 else 0.0


@lru_cache(maxsize=256)
def intern_bare(bare: BarePool) -> BarePool:
    """The first one that was equal: equal pools of different decisions become one object."""
    return bare


@dataclass(frozen=True, eq=False)
class Offer:
    """What all pools together offer a service: a survey of each, its options in the order of their placements."""

    options: tuple[Option, ...]
    too_slow: tuple[Option, ...]
    rejected: tuple[RejectedOption, ...]
    frontier: tuple[FrontierPoint, ...]


Kept = tuple[tuple[Configuration, ...], ...]


@lru_cache(maxsize=16384)
def _first(key: Same[T]) -> Same[T]:
    return key


def make_key(it: T) -> Same[T]:
    """The key of an object, one and the same each time: keys that are one object are equal without being asked."""
    return _first(Same(it))


@lru_cache(maxsize=8192)
def make_offer(
    needs: Needs, kept: Kept, pools: tuple[Same[BarePool], ...], profiles: tuple[Same[Profile], ...]
) -> Offer:
    """All configurations of these (interned) pools for one service.

    `profiles` are those of its model, own namespace first; `kept` the configurations of each pool that may go on with
    an estimate. Remembered: it does not depend on rates or on who holds what. Where all that is kept is offered anyway,
    the offer is that of a service which keeps nothing: a first move makes no new one.
    """
    special = tuple(
        () if _offers_all(_survey(needs, pool.it, profiles), own) else own
        for own, pool in zip(kept, pools, strict=True)
    )
    return _make_offer(needs, special, pools, profiles)


def _offers_all(survey: Survey, kept: tuple[Configuration, ...]) -> bool:
    return not kept or {*kept} <= {option.placement.configuration for option in survey.options}


@lru_cache(maxsize=8192)
def _make_offer(
    needs: Needs, kept: Kept, pools: tuple[Same[BarePool], ...], profiles: tuple[Same[Profile], ...]
) -> Offer:
    surveys = [
        _survey(replace(needs, kept=own) if own else needs, pool.it, profiles)
        for own, pool in zip(kept, pools, strict=True)
    ]
    options = sorted((option for survey in surveys for option in survey.options), key=lambda option: option.placement)
    return Offer(
        options=tuple(options),
        too_slow=tuple(option for survey in surveys for option in survey.too_slow),
        rejected=tuple(rejection for survey in surveys for rejection in survey.rejected),
        frontier=frontier_of(options),
    )


def largest_island(pool: Pool) -> int:
    """GPUs that can serve one engine together: those of the largest node, at most an island."""
    return min(node_size(pool), pool.island_size or node_size(pool))


def frontier_of(options: Iterable[Option]) -> tuple[FrontierPoint, ...]:
    """The options no other one beats on capacity per GPU, latency and cost, best capacity per GPU first."""
    merits = [(option, _merits(option)) for option in options]
    best = [option for option, own in merits if not any(_beats(other, own) for _, other in merits)]
    best.sort(key=lambda option: (-option.rate / option.gpus, option.placement))
    return tuple(
        FrontierPoint(
            placement=option.placement,
            capacity=option.rating.capacity,
            rate_per_gpu=option.rate / option.gpus,
            cost_per_million_requests=option.cost_of_rate / 3600 * 1e6,
        )
        for option in best
    )


@lru_cache(maxsize=16384)
def _survey(needs: Needs, bare: BarePool, keys: tuple[Same[Profile], ...]) -> Survey:
    pool, island = bare.pool, bare.island
    profiles = tuple(key.it for key in keys)
    chosen = choose_rows(profiles, pool.accelerator, needs.engine, needs.required, needs.lengths, mps=pool.mps)
    chosen = with_alternatives(chosen, needs.engine, needs.lengths, needs.objective)
    options: list[Option] = []
    too_slow: list[Option] = []
    rejected: list[RejectedOption] = []
    for candidate in _candidates(needs, pool, island, chosen):
        placement = Placement(pool.name, candidate.configuration)
        objection = first_objection(candidate)
        option = None if objection else _make_option(candidate, bare.energy_price)
        if objection is None and option is None:
            objection = (Rejection.NOT_MEASURED, "the profile's numbers for this configuration cannot be used")
        if option is not None and option.rating.floor is not None:
            too_slow.append(option)
            objection = _too_slow(option)
        if objection is not None:
            rejected.append(RejectedOption(placement, *objection))
        elif option is not None:
            options.append(option)
    kept, dominated = _without_dominated(options, needs.kept)
    return Survey(tuple(kept), tuple(too_slow), (*rejected, *dominated))


def _candidates(needs: Needs, pool: Pool, island: int, chosen: dict[Configuration, RowChoice]) -> list[Candidate]:
    shapes: set[Shape] = {(tensor, 1) for tensor in (*TENSOR, *needs.parallelism.tensor)}
    shapes |= {(1, engines) for engines in (*SHARED, *needs.parallelism.engines_per_gpu)}
    candidates = []
    configurations = {c for shape in shapes if (c := _default(pool, shape)) is not None}
    profiled_shapes = {_shape(c) for c in chosen}
    configurations = {c for c in configurations if _shape(c) not in profiled_shapes} | set(chosen)
    configurations |= {c for c in needs.kept if c.accelerator == pool.accelerator}
    for configuration in sorted(configurations):
        choice = chosen.get(configuration)
        facts = needs.facts or (usable_facts(choice.profile.facts) if choice else _any_facts(chosen))
        candidates.append(Candidate(needs, pool, island, configuration, choice, facts))
    smallest = min(
        (c.configuration.tensor_parallel for c in candidates if _unshared(c) and is_possible(c)), default=None
    )
    return [replace(c, smallest=smallest, profiled=bool(chosen)) for c in candidates]


def _default(pool: Pool, shape: Shape) -> Configuration | None:
    if min(shape) != 1:
        return None
    return Configuration(pool.accelerator, *shape, DEFAULT_MAX_NUM_SEQS, DEFAULT_MAX_NUM_BATCHED_TOKENS)


def _shape(configuration: Configuration) -> Shape:
    return configuration.tensor_parallel, configuration.engines_per_gpu


def _unshared(candidate: Candidate) -> bool:
    return candidate.configuration.engines_per_gpu == 1


def _any_facts(chosen: dict[Configuration, RowChoice]) -> ModelFacts | None:
    known = (usable_facts(choice.profile.facts) for choice in chosen.values())
    return next((facts for facts in known if facts), None)


def _make_option(candidate: Candidate, energy_price: float) -> Option | None:
    c, needs, pool, choice = candidate.configuration, candidate.needs, candidate.pool, candidate.choice
    facts = candidate.facts
    shape = {"tensor_parallel": c.tensor_parallel, "engines_per_gpu": c.engines_per_gpu}
    bound = kv_tokens(pool, facts, **shape) if facts else float("inf")
    if choice is not None:
        row, state = choice.row, choice.state
        kv = row.kv_cache_tokens if bound >= KV_TOLERANCE * row.kv_cache_tokens else max(bound, 1.0)
    elif facts is not None:
        kv, state = max(bound, 1.0), ProfileState.ESTIMATED
        row = estimate_row(facts, find_datasheet(pool)[0], needs.lengths, kv_cache_tokens=kv, **shape)
        row = replace(row, mps=pool.mps and c.engines_per_gpu > 1)
    else:
        return None
    row, state, evidence, drift = _with_lesson(needs.lesson(c), row, state)
    basis = Basis(
        row=row,
        state=state,
        profile=choice.name if choice else None,
        clock_mhz=choice.profile.clock_mhz if choice and pool.derate else None,
        lengths=needs.lengths,
        objective=needs.objective,
        kv_cache_tokens=kv,
        api_servers=max(c.api_servers, needs.engine.api_servers),
        chunk=c.max_num_batched_tokens if choice is not None else None,
        evidence=evidence,
        drift=drift,
    )
    rating = rate_row(basis)
    if rating is None or (rating.capacity.rate <= 0 and rating.floor is None):
        return None
    energy = energy_price * watts_at(row, rating.capacity.rate) / 1000 / c.gpus_per_replica
    return Option(Placement(pool.name, c), basis, rating, max(pool.price_per_gpu_hour + energy, FREE))


def watts_at(row: ProfileRow, rate: float) -> float:
    """Mean power of a replica's GPUs at a rate of each engine, between the row's points; 0 where nobody measured it."""
    known = [(point.rate, point.watts) for point in row.points if point.watts is not None and point.watts >= 0]
    if not known:
        return 0.0
    place = bisect_left(known, (rate, 0.0))
    if place == 0 or place == len(known):
        return known[min(place, len(known) - 1)][1]
    (low, least), (high, most) = known[place - 1], known[place]
    return least + (most - least) * (rate - low) / (high - low)


def _with_lesson(
    lesson: Lesson | None, row: ProfileRow, state: ProfileState
) -> tuple[ProfileRow, ProfileState, Evidence | None, float]:
    """What live traffic makes of a row: of an estimate a learned one, of a trusted one that has drifted a stale one."""
    if lesson is None:
        return row, state, None, 1.0
    if state is ProfileState.ESTIMATED:
        if lesson.row is None or lesson.row.mps != row.mps:
            return row, state, None, 1.0
        learned = ProfileState.LEARNED if is_learned(lesson.evidence) else state
        return lesson.row, learned, lesson.evidence, 1.0
    if lesson.evidence.drift is None:
        return row, state, None, 1.0
    return row, ProfileState.STALE, None, max(1.0, lesson.evidence.drift)


def _too_slow(option: Option) -> tuple[Rejection, str]:
    rating, objective = option.rating, option.basis.objective
    rejection = rating.floor or Rejection.ITL_FLOOR
    ttft, itl = rating.curve.latencies(LEAST_USE * rating.curve.saturation)
    is_ttft = rejection is Rejection.TTFT_FLOOR
    name, least, asked = ("TTFT", ttft, objective.ttft_ms) if is_ttft else ("ITL", itl, objective.itl_ms)
    return rejection, f"p{objective.percentile} {name} is {least:.4g} ms even at a low rate; {asked:g} ms asked"


def _without_dominated(
    options: list[Option], kept: tuple[Configuration, ...]
) -> tuple[list[Option], list[RejectedOption]]:
    """Within one pool the dominated can go: whatever they could do, another does with fewer or as many GPUs."""
    best: list[Option] = []
    gone: list[RejectedOption] = []
    merits = [(option, _merits(option)) for option in options]
    for option, own in merits:
        better = next((other for other, its in merits if _beats(its, own)), None)
        if better is None or option.placement.configuration in kept:
            best.append(option)
        else:
            message = (
                f"{option.rate / option.gpus:.3g} req/s per GPU; {better.placement.configuration.shape} with "
                f"{better.placement.configuration.max_num_seqs} sequences has {better.rate / better.gpus:.3g} "
                "and is no slower"
            )
            gone.append(RejectedOption(option.placement, Rejection.DOMINATED, message))
    return best, gone


def _merits(option: Option) -> tuple[float, ...]:
    capacity = option.rating.capacity
    return (
        option.rate / option.gpus,
        -option.cost_of_rate,
        -option.cost,
        -(capacity.ttft_ms or 0.0),
        -(capacity.itl_ms or 0.0),
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
