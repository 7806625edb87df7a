"""Who may write: leader election over a Lease, with a loop of our own around the client's LeaseLock.

The client's own loop uses the wall clock and requests without a limit of time; both let two leaders write at once.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from kubernetes.aio.client import V1Lease, V1ObjectMeta
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from shoal.reconciler.clock import Now, steady
from shoal.reconciler.parts import is_asked_to_end

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
RENEWAL_DEADLINE_SECONDS = 10.0  # below the lease, so that the old leader stops before a new one can start
RETRY_SECONDS = 2.0
REQUEST_SECONDS = 3.0


class NotLeaderError(Exception):
    """A write was refused: this process does not (or no longer) hold the lease."""


class WritePermit(Protocol):
    """Asked before every write."""

    def check(self) -> None:
        """Raise NotLeaderError when writing is not allowed now."""


class Guard:
    """The permission to write: valid for 10 s after the start of the last renewal that succeeded.

    It reads a clock that goes on while the process or machine sleeps: a leader that was stopped past its lease is
    refused with its first write after waking.
    """

    def __init__(self, now: Now = steady) -> None:
        self._now = now
        self._renewed_at: float | None = None
        self.obstacle: str | None = None
        """Why nothing may be written though we lead; None: nothing is in the way."""

    def renewed(self, at: float) -> None:
        """Note a renewal that was begun `at` and has succeeded."""
        self._renewed_at = at

    def revoke(self) -> None:
        """Note that the lease is lost or given back."""
        self._renewed_at = None

    @property
    def is_leader(self) -> bool:
        """Whether a write begun now is allowed."""
        return self._renewed_at is not None and self._now() - self._renewed_at < RENEWAL_DEADLINE_SECONDS

    def check(self) -> None:
        """Raise NotLeaderError unless a write begun now is allowed."""
        if not self.is_leader:
            raise NotLeaderError("this operator does not hold the lease")
        if self.obstacle is not None:
            raise NotLeaderError(self.obstacle)


class Elector:
    """Tries for ever to hold the lease; `guard` says whether it does; `acquired` is set while so, `lost` while not."""

    def __init__(self, lock: LeaseLock, guard: Guard, now: Now = steady) -> None:
        self._lock = lock
        self._guard = guard
        self._now = now
        self._seen: str | None = None
        self._seen_at = 0.0
        self.acquired = asyncio.Event()
        self.lost = asyncio.Event()
        self.lost.set()
        self.transitions = 0

    async def run(self) -> None:
        """Acquire, renew, acquire again. Never raises but for cancellation; then the lease is given back."""
        try:
            while True:
                began = self._now()
                self._note(held=False, began=began)  # after a long sleep: what was planned before it is void
                self._note(held=await self._attempt(), began=began)
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            await self._release()

    def _note(self, *, held: bool, began: float) -> None:
        if held:
            self._guard.renewed(began)
        if self._guard.is_leader and not self.acquired.is_set():
            logger.info("leading: %s holds the lease %s", self._lock.identity, self._lock.name)
            self.transitions += 1
            self.lost.clear()
            self.acquired.set()
        elif not self._guard.is_leader and self.acquired.is_set():
            logger.warning("no longer leading: the lease %s was not renewed in time", self._lock.name)
            self._guard.revoke()
            self.acquired.clear()
            self.lost.set()

    async def _attempt(self) -> bool:
        """Try once to take or renew the lease; True when we hold it now."""
        try:
            return await self._take_or_renew()
        except (Exception, asyncio.CancelledError) as error:
            if is_asked_to_end():
                raise
            logger.warning("the lease could not be renewed: %s", str(error) or type(error).__name__)
            return False

    async def _take_or_renew(self) -> bool:
        lock = self._lock
        found, answer = await asyncio.wait_for(lock.get(lock.name, lock.namespace), REQUEST_SECONDS)
        if not found:
            if not isinstance(answer, ApiException) or answer.status != 404:
                raise RuntimeError(f"reading the lease: {getattr(answer, 'reason', answer)}")
            await asyncio.wait_for(self._create(), REQUEST_SECONDS)
            return True
        record = cast(LeaderElectionRecord, answer)
        if self._is_held_by_other(record):
            self._guard.revoke()
            return False
        return await asyncio.wait_for(lock.update(lock.name, lock.namespace, self._record(record)), REQUEST_SECONDS)

    async def _create(self) -> None:
        """Create the Lease; LeaseLock.create of kubernetes 37.0 fails on its own argument `pretty`."""
        lease = V1Lease(metadata=V1ObjectMeta(name=self._lock.name), spec=self._lock.update_lease(self._record(None)))
        await self._lock.api_instance.create_namespaced_lease(self._lock.namespace, lease)

    def _is_held_by_other(self, record: LeaderElectionRecord) -> bool:
        """Whether somebody else holds the lease, judged by our clock alone: from when we saw its last change."""
        observed = self._lease().metadata.resource_version
        if observed != self._seen:
            self._seen, self._seen_at = observed, self._now()
        if not record.holder_identity or record.holder_identity == self._lock.identity:
            return False
        duration = float(record.lease_duration or LEASE_SECONDS)
        return self._now() - self._seen_at < duration

    def _record(self, previous: LeaderElectionRecord | None) -> LeaderElectionRecord:
        now = datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
        ours = previous is not None and previous.holder_identity == self._lock.identity
        acquired = previous.acquire_time if ours and previous is not None else now
        return LeaderElectionRecord(self._lock.identity, str(int(LEASE_SECONDS)), acquired, now)

    def _lease(self) -> Any:
        """The Lease as last read; the client's generated types allow for everything being absent."""
        return self._lock.lease_reference

    async def _release(self) -> None:
        """Let the next one start at once: a lease of one second, held by nobody."""
        if not self._guard.is_leader:
            return
        self._guard.revoke()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._lock.get(self._lock.name, self._lock.namespace)
                lease = self._lease()
                lease.spec.holder_identity = None
                lease.spec.lease_duration_seconds = 1
                await self._lock.api_instance.replace_namespaced_lease(self._lock.name, self._lock.namespace, lease)
            logger.info("gave back the lease %s", self._lock.name)
        except Exception as error:
            logger.warning("the lease was not given back: %s", error)
