"""Targets of services that cannot all have what each would choose for itself: chosen together, in their order.

As many services as possible, from the first one on, get all they need at the least cost in all, while the others keep
what they are owed: equals what they have, those of lower priority their floor. The next one gets what is left for it;
then the rest is chosen for in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np

from shoal.domain.configuration import Placement
from shoal.domain.plan import Quality
from shoal.domain.service import Mode, ServiceKey
from shoal.planner.assess import Assessment
from shoal.planner.book import Book, make_uses, write_down
from shoal.planner.candidates import NARROW, WIDE, Breadth, Wish, find_plans, move_cost
from shoal.planner.growth import UNTRIED
from shoal.planner.joint import MOST_EXACT, longest_prefix, solve
from shoal.planner.ledger import Ledger, Room
from shoal.planner.problem import Chosen, Problem
from shoal.planner.shares import Shares, stack
from shoal.planner.sizing import Counts, total_cost, trim
from shoal.planner.stabilise import Change, Choice, needed_rate

MOST_ATTEMPTS: Final = 12  # at one prefix, for as many services as are chosen for exactly; for more of them
FEW_ATTEMPTS: Final = 4
FEW_ROUNDS: Final = 1  # of many services; those that are left after so many take their turns


@dataclass(frozen=True)
class Contender:
    """One service in a contest: what it wants by the law of moves, and the plans that would do.

    `room` is what it could hold if the others had nothing they are not owed.
    """

    assessment: Assessment
    choice: Choice
    room: Room
    breadth: Breadth

    @cached_property
    def full(self) -> tuple[list[Counts], list[float]]:
        """Plans that are enough, with their costs (money per hour, the move included)."""
        choice, change = self.choice, self.choice.change
        own = [dict(choice.counts)] if choice.enough else []
        if change is Change.MIX:
            own.append(dict(choice.kept))
        manual = self.assessment.service.mode is Mode.MANUAL
        if manual or choice.hold is not None or change in (Change.MIX, Change.SHRINK):
            return own, [self.cost(plan) for plan in own]
        if change is Change.NONE and choice.enough:
            return own, [self.cost(plan) for plan in own]
        plans = [*own, *(plan for plan in self._found(choice.wanted) if plan not in own)]
        costs = [self.cost(plan) for plan in plans]
        if self.breadth is WIDE:
            scant = [plan for plan in self._found(self._needed) if plan not in plans]
            plans += scant
            costs += [2 * self.cost(plan) + 1.0 for plan in scant]
        return plans, costs

    @cached_property
    def kept(self) -> Counts:
        """What it has, as far as it may be used."""
        present = {p: n for p, n in self.assessment.present.items() if p in self.assessment.fleets}
        return trim(self.assessment.fleets, present, self.room)

    @cached_property
    def as_equal(self) -> list[Counts]:
        """Plans it falls back to while its equals are served: what it has, and its floor."""
        if sum(self.kept.values()) >= self.assessment.least:
            return [self.kept]
        return self._floors(self.kept) or [self.kept]

    @cached_property
    def as_lower(self) -> list[Counts]:
        """Plans it falls back to while others of higher priority are served: its floor."""
        floor: Counts = {}
        for placement, count in self.kept.items():
            floor[placement] = min(count, max(0, self.assessment.least - sum(floor.values())))
        floor = {placement: count for placement, count in floor.items() if count > 0}
        if sum(floor.values()) >= self.assessment.least:
            return [floor]
        return self._floors(floor) or [floor]

    @property
    def _needed(self) -> float:
        return needed_rate(self.assessment.demand) if self.assessment.demand else 0.0

    def _found(self, rate: float) -> list[Counts]:
        a = self.assessment
        return find_plans(Wish(a.fleets, rate, a.least, self.room, self.choice.kept), self.breadth)

    def _floors(self, start: Counts) -> list[Counts]:
        a = self.assessment
        return find_plans(Wish(a.fleets, 0.0, a.least, self.room, start), NARROW)

    def cost(self, plan: Mapping[Placement, int]) -> float:
        """Money per hour: the plan and its move; growth into placements it has not yet counts a little dearer."""
        a = self.assessment
        usable = {p: n for p, n in plan.items() if p in a.fleets}
        cost = total_cost(usable, a.fleets) + move_cost(a.present, usable, a.fleets, a.startup_seconds)
        if self.choice.change is Change.GROW and self.choice.kept:
            untried = {p: n for p, n in usable.items() if p not in self.choice.kept}
            cost += (UNTRIED - 1) * total_cost(untried, a.fleets)
        return cost


@dataclass
class Contest:
    """A contest in progress: the book, and those whose target is still open, in their order."""

    book: Book
    apart: Mapping[ServiceKey, Choice]
    open: list[Assessment]
    cost: float = 0.0
    bound: float = 0.0
    exact: bool = True
    taken_in_turn: bool = False
    level: int | None = None  # priority of those whose present replicas are reserved
    shares: Shares = field(init=False)
    breadth: Breadth = field(init=False)

    def __post_init__(self) -> None:
        """Lay out the rows."""
        namespaces = {a.service.key.namespace for a in self.open}
        self.shares = Shares(list(self.book.world.pools.values()), namespaces)
        self.breadth = WIDE if len(self.open) <= MOST_EXACT else NARROW

    @property
    def quality(self) -> Quality:
        """Of what was chosen jointly, and what was taken in turn counted as it is."""
        return Quality(self.cost, min(self.bound, self.cost), self.exact and not self.taken_in_turn)


def settle(book: Book, apart: Mapping[ServiceKey, Choice], active: Sequence[Assessment]) -> Quality:
    """Choose the targets of these services, in their order, into the book (which holds what is frozen, and floors)."""
    contest = Contest(book, apart, [a for a in active if a.fleets])
    for assessment in active:
        if not assessment.fleets:
            book.choose(assessment)
    many = len(contest.open) > MOST_EXACT
    rounds = 0
    while contest.open:
        rounds += 1
        if not many or rounds <= FEW_ROUNDS:
            _commit(contest, *_choose_prefix(contest))
            contest.level = None
        if contest.open:
            _take_turn(contest)
    return contest.quality


def _choose_prefix(contest: Contest) -> tuple[list[Contender], list[Counts]]:
    """As many as possible of those still open, and the plan of each."""
    bare = _without_open(contest)
    contenders = [_make_contender(contest, a, bare) for a in contest.open]
    most = next((i for i, c in enumerate(contenders) if not c.full[0]), len(contenders))
    if most == len(contenders):
        chosen, plans = _choose_all(contest, contenders)
        if chosen is not None:
            _count(contest, chosen, chosen.cost)
            return contenders, plans
        most -= 1
    attempts = MOST_ATTEMPTS if len(contenders) <= MOST_EXACT else FEW_ATTEMPTS
    problem, masks, plans_of = _problem_of_prefixes(contest, contenders, bare)

    def attempt(full: int) -> Chosen | None:
        level = contenders[full].assessment.priority if full < len(contenders) else None
        costs = np.full_like(problem.costs, np.inf)
        for place, contender in enumerate(contenders):
            kind = 0 if place < full else 1 if contender.assessment.priority == level else 2
            costs[place] = np.where(masks[place] == kind, problem.costs[place], np.inf)
        return solve(Problem(costs, problem.uses, problem.capacity))

    count, chosen = longest_prefix(attempt, most, attempts)
    if chosen is None or count == 0:
        return [], []
    plans = [own[plan] for own, plan in zip(plans_of, chosen.plans, strict=True)]
    for contender, plan in zip(contenders[count:], plans[count:], strict=True):
        contest.book.reserve(contender.assessment, plan)
    _count(contest, chosen, sum(problem.costs[place, chosen.plans[place]] for place in range(count)))
    return contenders[:count], plans[:count]


def _count(contest: Contest, chosen: Chosen, cost: float) -> None:
    contest.cost += cost
    contest.bound += cost - (chosen.cost - chosen.bound)
    contest.exact = contest.exact and chosen.exact


def _without_open(contest: Contest) -> Ledger:
    """A ledger of what is frozen or committed, as if those still open had nothing."""
    ledger = Ledger(contest.book.world.pools.values(), contest.book.held)
    still_open = {a.service.key for a in contest.open}
    for assessment in contest.book.assessments:
        key = assessment.service.key
        if key not in still_open:
            ledger.reserve(key, contest.book.ledger.uses(key))
    return ledger


def _make_contender(contest: Contest, assessment: Assessment, bare: Ledger) -> Contender:
    """What it wants: as it chose beside what others have, if that was enough; else as if it had what is left to all."""
    key, service = assessment.service.key, assessment.service
    choice = contest.apart[key]
    room = bare.room(key, assessment.pools, limit=service.limits.max_gpus, beside_own=False)
    if not choice.enough or choice.change is Change.TRIM:
        choice = contest.book.wish(assessment, room)
    return Contender(assessment, choice, room, contest.breadth)


def _choose_all(contest: Contest, contenders: Sequence[Contender]) -> tuple[Chosen | None, list[Counts]]:
    """Everybody in full, and nobody loses what it has: replicas that stay are on their nodes already."""
    ledger = _without_open(contest)
    pins = []
    for contender in contenders:
        plans = contender.full[0]
        kept = contender.choice.kept if len(plans) > 1 else plans[0]
        pins.append({p: min(n, contender.kept.get(p, 0)) for p, n in kept.items()})
        ledger.reserve(contender.assessment.service.key, make_uses(contender.assessment, pins[-1]))
    uses = [
        contest.shares.taken(c.assessment.service.key.namespace, c.full[0], pin)
        for c, pin in zip(contenders, pins, strict=True)
    ]
    problem = stack([c.full[1] for c in contenders], uses, contest.shares.left(ledger))
    chosen = solve(problem)
    if chosen is None:
        return None, []
    return chosen, [c.full[0][plan] for c, plan in zip(contenders, chosen.plans, strict=True)]


def _problem_of_prefixes(
    contest: Contest, contenders: Sequence[Contender], bare: Ledger
) -> tuple[Problem, list[np.ndarray], list[list[Counts]]]:
    """All plans of all: in full (0), as an equal (1), as one of lower priority (2), marked in the second result."""
    plans_of, costs, uses, marks = [], [], [], []
    for contender in contenders:
        plans, own = contender.full
        fallback = [*contender.as_equal, *contender.as_lower]
        plans_of.append([*plans, *fallback])
        costs.append([*own, *(contender.cost(plan) for plan in fallback)])
        uses.append(contest.shares.taken(contender.assessment.service.key.namespace, plans_of[-1], {}))
        marks.append([0] * len(plans) + [1] * len(contender.as_equal) + [2] * len(contender.as_lower))
    problem = stack(costs, uses, contest.shares.left(bare))
    width = problem.costs.shape[1]
    masks = [np.array(own + [-1] * (width - len(own))) for own in marks]
    return problem, masks, plans_of


def _commit(contest: Contest, contenders: Sequence[Contender], plans: Sequence[Counts]) -> None:
    """Write down what was chosen. Where the ledger, which knows the nodes, does not hold it, the service takes turn."""
    book = contest.book
    for contender, plan in zip(contenders, plans, strict=True):
        key = contender.assessment.service.key
        book.choices[key] = _with_plan(contender, plan)
        book.rooms[key] = contender.room
    committed = [contender.assessment for contender in contenders]
    done = {assessment.service.key for assessment in committed}
    contest.open = [assessment for assessment in contest.open if assessment.service.key not in done]
    for assessment in write_down(book, committed):
        contest.taken_in_turn = True
        book.choose(assessment)
        book.reserve(assessment, book.choices[assessment.service.key].counts)


def _with_plan(contender: Contender, plan: Counts) -> Choice:
    choice = contender.choice
    if plan == choice.counts:
        return choice
    if choice.change is Change.MIX:  # its move was given up for others'
        since = contender.assessment.service.memory.mix_wanted_since
        return replace(choice, counts=plan, change=Change.NONE, mix_wanted_since=since)
    return replace(choice, counts=plan, enough=True)


def _take_turn(contest: Contest) -> None:
    """The first one still open takes what is left for it beside what its equals have and the floors of others."""
    first = contest.open.pop(0)
    book = contest.book
    if contest.level != first.priority:
        contest.level = first.priority
        for other in (first, *contest.open):
            if other.priority == first.priority:
                book.reserve_present(other)
    choice = book.choose(first)
    book.reserve(first, choice.counts)
    cost = total_cost({p: n for p, n in choice.counts.items() if p in first.fleets}, first.fleets)
    contest.cost += cost
    contest.bound += cost
    contest.taken_in_turn = True
