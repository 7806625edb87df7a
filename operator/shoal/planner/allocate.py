"""Who gets what: the targets of all services from the pools they share.

What is frozen keeps its GPUs, then everybody has a floor. If each service can have its own cheapest target beside what
the others have, that is the answer. Otherwise the targets are chosen together (`contest.py`): the services are in an
order, by priority, then age, then name, and as many of the first ones as possible get all they need, at the least cost
in all. One that cannot be served in full gets what is left for it; then the rest is chosen for in the same way. Within
one priority nobody takes from another what that one has; a higher one takes from a lower one down to its floor, when
it must.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shoal.domain.plan import Quality
from shoal.domain.service import Mode, ServiceKey
from shoal.planner.assess import Assessment, World
from shoal.planner.book import Book, keeps_still, write_down
from shoal.planner.candidates import NARROW, WIDE, Breadth, Wish, find_plans
from shoal.planner.contest import settle
from shoal.planner.joint import MOST_EXACT
from shoal.planner.ledger import Room
from shoal.planner.sizing import total_cost
from shoal.planner.stabilise import Change, Choice


@dataclass(frozen=True, slots=True)
class Allocation:
    """The target of every service, the room it was chosen in, and how good all targets are together."""

    choices: Mapping[ServiceKey, Choice]
    rooms: Mapping[ServiceKey, Room]
    quality: Quality


def allocate(assessments: Sequence[Assessment], world: World) -> Allocation:
    """The targets of all services; `assessments` are in the order in which they are served."""
    active = [assessment for assessment in assessments if not keeps_still(assessment)]
    book = Book.with_present(assessments, world) or _trimmed(assessments, active, world)
    if _choose_apart(book, active):
        cost = sum(_money(book.choices[a.service.key], a) for a in active)
        return Allocation(book.choices, book.rooms, Quality(cost, cost, exact=True))
    shared = Book.with_floors(assessments, world)
    shared.moving = book.moving
    for assessment in assessments:
        if keeps_still(assessment):
            key = assessment.service.key
            shared.choices[key], shared.rooms[key] = book.choices[key], book.rooms[key]
    quality = settle(shared, book.choices, active)
    return Allocation(shared.choices, shared.rooms, quality)


def _trimmed(assessments: Sequence[Assessment], active: Sequence[Assessment], world: World) -> Book:
    """What everybody has as far as it still fits, in their order; floors first."""
    book = Book.with_floors(assessments, world)
    for assessment in active:
        book.reserve_present(assessment)
    return book


def _choose_apart(book: Book, active: Sequence[Assessment]) -> bool:
    """Everybody's own best target beside what the others have; whether these are enough and fit together."""
    for assessment in book.assessments:
        book.choose(assessment)
    if not all(book.choices[a.service.key].enough or not a.fleets for a in active) or write_down(book, active):
        return False
    new = [a for a in active if _is_open(book.choices[a.service.key], a)]
    changed = [a for a in new if _choose_cheapest(book, a, WIDE if len(new) <= MOST_EXACT else NARROW)]
    return not changed or not write_down(book, changed)


def _is_open(choice: Choice, assessment: Assessment) -> bool:
    """Whether a target is made from nothing, so that every plan is open to it."""
    manual = assessment.service.mode is Mode.MANUAL
    return choice.enough and not choice.kept and choice.change in (Change.FIRST, Change.FORCED) and not manual


def _choose_cheapest(book: Book, assessment: Assessment, breadth: Breadth) -> bool:
    """The cheapest of all its plans in place of a first guess; of equal ones the guess. Whether it was another."""
    key, fleets = assessment.service.key, assessment.fleets
    choice = book.choices[key]
    wish = Wish(fleets, choice.wanted, assessment.least, book.rooms[key])
    best = min(find_plans(wish, breadth), key=lambda plan: total_cost(plan, fleets), default=choice.counts)
    if total_cost(best, fleets) >= total_cost(choice.counts, fleets) * (1 - 1e-9):
        return False
    book.choices[key] = replace(choice, counts=best)
    return True


def _money(choice: Choice, assessment: Assessment) -> float:
    fleets = assessment.fleets
    return total_cost({p: n for p, n in choice.counts.items() if p in fleets}, fleets)
