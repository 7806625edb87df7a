"""The queue on a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from objects import until

from shoal.reconciler.workqueue import RateLimit, RequeueError, WorkFailedError, WorkQueue


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


async def take(queue: WorkQueue[str]) -> str | None:
    """The next key that is due now."""
    try:
        return await asyncio.wait_for(queue.get(), 0.02)
    except TimeoutError:
        return None


async def test_a_key_is_there_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a"):
        queue.add(key)
    assert (await take(queue), await take(queue), await take(queue)) == ("a", "b", None)


async def test_a_key_is_worked_on_by_one_at_a_time() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await take(queue) == "a"
    queue.add("a")
    assert await take(queue) is None
    queue.done("a", failed=False)
    assert await take(queue) == "a"
    queue.done("a", failed=False)
    assert await take(queue) is None


async def test_later_means_later_and_sooner_wins() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(now=clock)
    queue.add_after("a", 60)
    queue.add_after("a", 5)
    queue.add_after("a", 30)
    assert await take(queue) is None
    clock.time += 5.1
    assert await take(queue) == "a"
    queue.done("a", failed=False)
    clock.time += 60
    assert await take(queue) is None


async def test_failures_come_back_ever_later_until_success() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(now=clock)
    waits = []
    queue.add("a")
    for _ in range(12):
        began = clock.time
        while await take(queue) is None:
            clock.time += 0.15 if clock.time - began < 2 else 2
        waits.append(clock.time - began)
        queue.done("a", failed=True)
    assert waits[1] < 0.5
    assert 40 < waits[-1] < 80
    assert queue.failures("a") == 12
    clock.time += 100
    assert await take(queue) == "a"
    queue.done("a", failed=False)
    assert queue.failures("a") == 0


def test_rate_limit_lets_a_burst_through_and_then_the_rate() -> None:
    clock = Clock()
    limit = RateLimit(10, 3, clock)
    assert [limit.reserve() for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    clock.time += 10
    assert limit.reserve() == 0


@asynccontextmanager
async def worker(queue: WorkQueue[str], outcomes: list[Exception | None]) -> AsyncIterator[list[str]]:
    seen: list[str] = []

    async def handle(key: str) -> None:
        seen.append(key)
        if outcomes and (error := outcomes.pop(0)) is not None:
            raise error

    task = asyncio.create_task(queue.work(handle))
    yield seen
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("error", [ValueError("broken"), WorkFailedError("told"), RequeueError(0.01, "again")])
async def test_no_error_ends_a_worker(error: Exception) -> None:
    queue: WorkQueue[str] = WorkQueue()
    async with worker(queue, [error]) as seen:
        queue.add("a")
        queue.add("b")
        await until(lambda: seen.count("a") == 2 and "b" in seen)
    assert queue.stats.failed == (0 if isinstance(error, RequeueError) else 1)


async def test_stats() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(now=clock)
    queue.add("a")
    clock.time += 3
    assert (queue.depth, queue.oldest_wait) == (1, 3)
    await take(queue)
    clock.time += 2
    queue.done("a", failed=False)
    assert (queue.stats.latency_seconds, queue.stats.work_seconds, queue.stats.advanced_at) == (3, 2, clock.time)
    assert (queue.depth, queue.oldest_wait) == (0, 0)
