"""Parts that run for ever: a defect in one ends neither it nor the process; being asked to end does."""

from __future__ import annotations

import asyncio

import pytest

from shoal.reconciler import parts
from shoal.reconciler.parts import keep_running, run_until


async def raise_defect() -> None:
    raise ValueError("a defect")


async def await_what_somebody_cancelled() -> None:
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    await cancelled


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("fail", [raise_defect, await_what_somebody_cancelled])
async def test_a_part_that_fails_starts_again_and_the_others_never_notice(fail: object) -> None:
    starts, stop, other = 0, asyncio.Event(), asyncio.Event()

    async def failing() -> None:
        nonlocal starts
        starts += 1
        if starts == 3:
            stop.set()
        await fail()  # type: ignore[operator]

    async def steady() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other.set()

    async with asyncio.timeout(10):
        await run_until(stop, [keep_running(failing), keep_running(steady)])
    assert starts >= 3
    assert other.is_set()


async def test_a_part_that_is_cancelled_ends() -> None:
    task = asyncio.create_task(keep_running(asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_must_not_end_is_told_when_it_does() -> None:
    async def ends() -> None:
        return

    with pytest.raises(RuntimeError, match="has ended"):
        await run_until(asyncio.Event(), [ends()])
