"""The permission to write, and who gets it, on clocks that only the tests move."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord

from shoal.reconciler.leader import LEASE_SECONDS, RENEWAL_DEADLINE_SECONDS, Elector, Guard, NotLeaderError


@dataclass
class Clock:
    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


@dataclass
class Server:
    """One Lease."""

    holder: str | None = None
    version: int = 0
    away: bool = False
    error: type[BaseException] = TimeoutError  # what asking it raises while it is away


@dataclass
class Lock:
    """What Elector needs of LeaseLock."""

    server: Server
    identity: str
    name: str = "shoal-operator"
    namespace: str = "shoal-system"
    lease_reference: Any = None
    api_instance: Any = field(default_factory=SimpleNamespace)

    def __post_init__(self) -> None:
        self.api_instance.create_namespaced_lease = self._create
        self.api_instance.replace_namespaced_lease = self._replace

    async def get(self, name: str, namespace: str) -> tuple[bool, object]:
        if self.server.away:
            raise self.server.error
        if self.server.version == 0:
            return False, ApiException(status=404, reason="Not Found")
        self.lease_reference = SimpleNamespace(
            metadata=SimpleNamespace(resource_version=str(self.server.version)),
            spec=SimpleNamespace(holder_identity=self.server.holder, lease_duration_seconds=15),
        )
        return True, LeaderElectionRecord(self.server.holder, "15", "2026-01-01 00:00:00.0", "2026-01-01 00:00:00.0")

    async def update(self, name: str, namespace: str, record: LeaderElectionRecord) -> bool:
        if self.lease_reference.metadata.resource_version != str(self.server.version):
            return False
        self.server.holder, self.server.version = record.holder_identity, self.server.version + 1
        return True

    def update_lease(self, record: LeaderElectionRecord) -> object:
        return SimpleNamespace(holder=record.holder_identity)

    async def _create(self, namespace: str, lease: Any) -> None:
        self.server.holder, self.server.version = lease.spec.holder, 1

    async def _replace(self, name: str, namespace: str, lease: Any) -> None:
        self.server.holder, self.server.version = lease.spec.holder_identity, self.server.version + 1


class Candidate:
    def __init__(self, server: Server, identity: str, clock: Clock) -> None:
        self.guard = Guard(clock)
        self.elector = Elector(Lock(server, identity), self.guard, clock)  # type: ignore[arg-type]
        self._clock = clock

    async def step(self) -> bool:
        """One turn of the loop; whether it may write then."""
        began = self._clock()
        self.elector._note(held=False, began=began)
        self.elector._note(held=await self.elector._attempt(), began=began)
        return self.guard.is_leader


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated classes of a Lease add nothing here."""
    monkeypatch.setattr("shoal.reconciler.leader.V1Lease", SimpleNamespace)
    monkeypatch.setattr("shoal.reconciler.leader.V1ObjectMeta", SimpleNamespace)


def test_guard_refuses_after_the_deadline() -> None:
    clock = Clock()
    guard = Guard(clock)
    with pytest.raises(NotLeaderError):
        guard.check()
    guard.renewed(clock())
    clock.time += RENEWAL_DEADLINE_SECONDS - 0.1
    guard.check()
    clock.time += 0.2
    with pytest.raises(NotLeaderError):
        guard.check()


def test_guard_refuses_while_something_is_in_the_way() -> None:
    guard = Guard(Clock())
    guard.renewed(1000.0)
    guard.obstacle = "old schemas"
    with pytest.raises(NotLeaderError, match="old schemas"):
        guard.check()
    guard.obstacle = None
    guard.check()


def test_the_deadline_comes_before_the_lease_ends() -> None:
    assert RENEWAL_DEADLINE_SECONDS < LEASE_SECONDS


async def test_one_of_two_leads_and_the_other_follows_after_the_lease() -> None:
    clock, server = Clock(), Server()
    first, second = Candidate(server, "first", clock), Candidate(server, "second", clock)
    assert await first.step()
    assert not await second.step()
    for _ in range(20):
        clock.time += 2
        assert await first.step()
        assert not await second.step()
    # The first is stopped.
    took_over = 0.0
    while not await second.step():
        clock.time += 2
        took_over += 2
    assert LEASE_SECONDS <= took_over <= LEASE_SECONDS + 4
    assert not first.guard.is_leader
    assert not await first.step()
    assert server.holder == "second"


@pytest.mark.parametrize("error", [TimeoutError, asyncio.CancelledError])
async def test_a_leader_without_the_api_server_stops_before_another_starts(error: type[BaseException]) -> None:
    clock, server = Clock(), Server(error=error)
    leader = Candidate(server, "first", clock)
    assert await leader.step()
    server.away = True
    seconds = 0.0
    while await leader.step():
        clock.time += 1
        seconds += 1
    assert seconds <= RENEWAL_DEADLINE_SECONDS
    assert leader.elector.lost.is_set()
    server.away = False
    assert await leader.step()
    assert leader.elector.transitions == 2


async def test_a_long_sleep_is_a_new_term_even_if_nobody_took_over() -> None:
    """What was planned before the sleep is void, so the loss is told before the lease is taken again."""
    clock, server = Clock(), Server()
    leader = Candidate(server, "only", clock)
    await leader.step()
    clock.time += 3600
    assert await leader.step()
    assert leader.elector.transitions == 2


async def test_a_restarted_process_of_the_same_name_leads_at_once() -> None:
    clock, server = Clock(), Server()
    assert await Candidate(server, "pod-0", clock).step()
    assert await Candidate(server, "pod-0", clock).step()


async def test_the_lease_is_given_back() -> None:
    clock, server = Clock(), Server()
    first, second = Candidate(server, "first", clock), Candidate(server, "second", clock)
    await first.step()
    await first.elector._release()
    assert server.holder is None
    assert not first.guard.is_leader
    assert await second.step()
