"""What is left of the pools while services take their share: GPUs, whole nodes or islands, quotas, limits.

A tensor-parallel group of g GPUs must lie within one node or island. For powers of two, groups fit if and only if for
every k in 1, 2, 4, 8: `sum over groups of at least k GPUs of g/k <= sum over islands of floor(free/k)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

from shoal.domain.configuration import Placement
from shoal.domain.pool import Pool
from shoal.domain.service import ServiceKey

GROUPS: Final = (1, 2, 4, 8)
UNBOUNDED: Final = 10**9

Groups = tuple[int, int, int, int]
NO_GROUPS: Final[Groups] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Use:
    """GPUs of one pool held by one replica: `node` None: not yet on any."""

    pool: str
    gpus: int
    node: str | None = None


@dataclass(frozen=True, slots=True)
class PoolRoom:
    """GPUs of a pool one service may hold in all, by each kind of bound, and the linked groups that can be made."""

    stock: int
    pool_limit: int = UNBOUNDED
    quota: int = UNBOUNDED
    groups: Groups = NO_GROUPS

    @property
    def gpus(self) -> int:
        """GPUs within every bound."""
        return max(0, min(self.stock, self.pool_limit, self.quota))

    def beside(self, taken: Mapping[int, int]) -> PoolRoom:
        """What is left beside replicas of these sizes."""
        gpus = sum(size * count for size, count in taken.items())
        one, two, four, eight = (
            max(0, free - busy) for free, busy in zip(self.groups, groups_taken(taken), strict=True)
        )
        return PoolRoom(self.stock - gpus, self.pool_limit - gpus, self.quota - gpus, (one, two, four, eight))

    def most_groups(self, gpus: int) -> int:
        """Replicas of so many linked GPUs that fit when nothing else is taken."""
        if gpus == 1:
            return self.groups[0]
        padded = padded_size(gpus)
        return min(free * group // padded for group, free in zip(GROUPS, self.groups, strict=True) if group <= padded)


@dataclass(frozen=True)
class Room:
    """What one service may take: per pool, and in all (its own limit)."""

    pools: Mapping[str, PoolRoom]
    limit: int = UNBOUNDED

    def most(self, placement: Placement, taken: Mapping[Placement, int]) -> int:
        """How many more replicas of a placement fit beside those already taken from this room."""
        room = self.pools.get(placement.pool)
        if room is None:
            return 0
        size = placement.configuration.gpus_per_replica
        if not taken:
            return max(0, min(room.gpus // size, self.limit // size, room.most_groups(size)))
        in_all = sum(count * p.configuration.gpus_per_replica for p, count in taken.items())
        here = _sizes(taken, placement.pool)
        used = sum(gpus * count for gpus, count in here.items())
        most = min((room.gpus - used) // size, (self.limit - in_all) // size)
        padded = padded_size(size)
        for group, free, busy in zip(GROUPS, room.groups, groups_taken(here), strict=True):
            if group <= padded:
                most = min(most, (free - busy) * group // padded)
        return max(0, most)

    @cached_property
    def full(self) -> frozenset[tuple[str, int]]:
        """Sizes of replicas (pool, GPUs) of which not even one fits, of the sizes that are accounted for."""
        return frozenset(
            size
            for name, room in self.pools.items()
            for size in _full_sizes(name, min(self.limit, room.gpus, GROUPS[-1]), room.groups)
        )

    def beside(self, taken: Mapping[Placement, int]) -> Room:
        """What is left of this room beside these replicas."""
        in_all = sum(count * placement.configuration.gpus_per_replica for placement, count in taken.items())
        pools = {name: room.beside(_sizes(taken, name)) for name, room in self.pools.items()}
        return Room(pools, max(0, self.limit - in_all))


@lru_cache(maxsize=1024)
def _full_sizes(pool: str, most: int, groups: Groups) -> tuple[tuple[str, int], ...]:
    return tuple((pool, size) for size, free in zip(GROUPS, groups, strict=True) if free < 1 or size > most)


def _sizes(taken: Mapping[Placement, int], pool: str) -> Counter[int]:
    """GPUs of a replica -> replicas, of those taken in one pool."""
    sizes: Counter[int] = Counter()
    for placement, count in taken.items():
        if placement.pool == pool:
            sizes[placement.configuration.gpus_per_replica] += count
    return sizes


def padded_size(gpus: int) -> int:
    """The next power of two, at most the largest group that is accounted for."""
    return next((group for group in GROUPS if group >= gpus), GROUPS[-1])


def groups_taken(replicas: Mapping[int, int]) -> list[int]:
    """Groups of 1, 2, 4, 8 GPUs that replicas of these sizes take: `sum of g/k` over those of at least k GPUs."""
    sizes = {padded_size(size): 0 for size in replicas}
    for size, count in replicas.items():
        sizes[padded_size(size)] += count
    return [sum(size // group * count for size, count in sizes.items() if size >= group) for group in GROUPS]


@dataclass
class _PoolBook:
    pool: Pool
    islands: dict[str, int] = field(default_factory=dict)  # node -> usable GPUs
    pinned: Counter[str] = field(default_factory=Counter)  # node -> GPUs of bound replicas
    floating: Counter[int] = field(default_factory=Counter)  # GPUs of a replica -> replicas bound nowhere
    groups: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    used: int = 0
    by_namespace: Counter[str] = field(default_factory=Counter)
    rooms: dict[str, PoolRoom] = field(default_factory=dict)  # namespace -> what is left, until something changes


class Ledger:
    """Who holds what. Built anew in every decision; reserving again replaces what a service had."""

    def __init__(self, pools: Iterable[Pool], held: Mapping[tuple[ServiceKey, str], int] | None = None) -> None:
        """`held`: GPUs that services have now, by pool; in an unreadable pool they keep these and get no more."""
        self._books = {pool.name: self._open(pool) for pool in pools}
        self._held = dict(held or {})
        self._uses: dict[ServiceKey, dict[Use, int]] = {}

    @staticmethod
    def _open(pool: Pool) -> _PoolBook:
        book = _PoolBook(pool)
        for node in pool.stock.nodes if pool.stock else ():
            book.islands[node.node] = book.islands.get(node.node, 0) + max(0, node.usable)
        totals = [*(_island_groups(pool.island_size, free) for free in book.islands.values()), _groups_to_come(pool)]
        book.groups = [sum(column) for column in zip(*totals, strict=True)]
        return book

    def reserve(self, key: ServiceKey, uses: Mapping[Use, int]) -> None:
        """Write down everything a service holds, in place of what was written before."""
        before, after = self._uses.get(key, {}), {use: count for use, count in uses.items() if count > 0}
        if before != after:
            self._book(key, before, -1)
            self._book(key, after, +1)
        self._uses[key] = after

    def uses(self, key: ServiceKey) -> Mapping[Use, int]:
        """What is written down for a service."""
        return self._uses.get(key, {})

    def held(self, key: ServiceKey) -> int:
        """GPUs written down for a service."""
        return sum(use.gpus * count for use, count in self.uses(key).items())

    def is_readable(self, pool: str) -> bool:
        """Whether the pool's GPUs could be listed."""
        return self._books[pool].pool.stock is not None

    @property
    def overdrawn(self) -> bool:
        """Whether more is written down than a pool, its linked groups or a quota has. Unreadable pools have nothing."""
        for book in self._books.values():
            quotas = [a for a in book.pool.admissions if a.gpu_quota is not None]
            if any(book.by_namespace[a.namespace] > a.gpu_quota for a in quotas if a.gpu_quota is not None):
                return True
            if book.used and (book.pool.stock is None or (book.pool.max_gpus or book.used) < book.used):
                return True
            if any(book.islands[node] < gpus for node, gpus in book.pinned.items()):
                return True
            floating = [*groups_taken(book.floating), sum(size * count for size, count in book.floating.items())]
            if any(free < busy for free, busy in zip([*book.groups, book.groups[0]], floating, strict=True)):
                return True
        return False

    def over_quota(self, key: ServiceKey, pool: str) -> int:
        """GPUs that the service's namespace holds in a pool beyond its quota."""
        book = self._books.get(pool)
        quota = _quota(book.pool, key.namespace) if book else None
        return 0 if book is None or quota is None else max(0, book.by_namespace[key.namespace] - quota)

    def room(self, key: ServiceKey, pools: Iterable[str], *, limit: int | None, beside_own: bool) -> Room:
        """What a service may hold in all, or (`beside_own`) take in addition to what is written down for it."""
        own = {} if beside_own else self._uses.get(key, {})
        kept = {name: self._books[name].rooms for name in {use.pool for use in own} if name in self._books}
        self._book(key, own, -1)
        bound = UNBOUNDED if limit is None else limit - (self.held(key) if beside_own else 0)
        rooms = {name: self._pool_room(self._books[name], key, beside_own) for name in pools if name in self._books}
        self._book(key, own, +1)
        for name, others in kept.items():  # all is as it was
            self._books[name].rooms = others
        return Room(rooms, max(0, bound))

    def _pool_room(self, book: _PoolBook, key: ServiceKey, beside_own: bool) -> PoolRoom:
        pool, known = book.pool, book.rooms.get(key.namespace)
        if known is not None:
            return known
        quota = _quota(pool, key.namespace)
        quota_left = UNBOUNDED if quota is None else quota - book.by_namespace[key.namespace]
        limit_left = UNBOUNDED if pool.max_gpus is None else pool.max_gpus - book.used
        if pool.stock is None:  # unreadable is not empty
            kept = 0 if beside_own else self._held.get((key, pool.name), 0)
            return PoolRoom(kept, limit_left, quota_left, (UNBOUNDED,) * 4)
        floating = groups_taken(book.floating)
        one, two, four, eight = (max(0, free - busy) for free, busy in zip(book.groups, floating, strict=True))
        stock = book.groups[0] - sum(size * count for size, count in book.floating.items())
        room = PoolRoom(max(0, stock), limit_left, quota_left, (one, two, four, eight))
        book.rooms[key.namespace] = room
        return room

    def _book(self, key: ServiceKey, uses: Mapping[Use, int], sign: int) -> None:
        for use, count in uses.items():
            book = self._books.get(use.pool)
            if book is None:
                continue
            book.rooms = {}
            book.used += sign * use.gpus * count
            book.by_namespace[key.namespace] += sign * use.gpus * count
            if use.node in book.islands and use.node is not None:
                self._pin(book, use.node, sign * use.gpus * count)
            else:
                book.floating[use.gpus] += sign * count

    @staticmethod
    def _pin(book: _PoolBook, node: str, gpus: int) -> None:
        before = _island_groups(book.pool.island_size, max(0, book.islands[node] - book.pinned[node]))
        book.pinned[node] += gpus
        after = _island_groups(book.pool.island_size, max(0, book.islands[node] - book.pinned[node]))
        book.groups = [total + new - old for total, new, old in zip(book.groups, after, before, strict=True)]


def _quota(pool: Pool, namespace: str) -> int | None:
    return next((a.gpu_quota for a in pool.admissions if a.namespace == namespace), None)


@lru_cache(maxsize=1024)
def _island_groups(island: int | None, free: int) -> Groups:
    """Groups of 1, 2, 4, 8 GPUs that `free` GPUs of a node can form, its islands filled one after the other."""
    size = island or max(free, 1)
    whole, rest = divmod(free, size)
    one, two, four, eight = (whole * (size // group) + rest // group for group in GROUPS)
    return one, two, four, eight


def _groups_to_come(pool: Pool) -> Groups:
    """Groups on what a node autoscaler may add, in nodes of the largest size there is."""
    if pool.stock is None or pool.max_gpus is None:
        return NO_GROUPS
    whole, rest = divmod(max(0, pool.max_gpus - pool.stock.existing), node_size(pool))
    full, last = _island_groups(pool.island_size, node_size(pool)), _island_groups(pool.island_size, rest)
    one, two, four, eight = (whole * each + more for each, more in zip(full, last, strict=True))
    return one, two, four, eight


def node_size(pool: Pool) -> int:
    """GPUs of the largest node that exists, or that may be expected where none does."""
    existing = max((node.existing for node in pool.stock.nodes), default=0) if pool.stock else 0
    return existing or pool.island_size or GROUPS[-1]
