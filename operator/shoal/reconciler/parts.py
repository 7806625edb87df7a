"""Tasks that run for ever beside each other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

logger = logging.getLogger(__name__)

_STOP_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 1.0


async def keep_running(part: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a part for ever, and again a second after a defect ended it: the others never notice."""
    while True:
        try:
            await part()
        except (Exception, asyncio.CancelledError):
            if is_asked_to_end():
                raise
            logger.exception("%s ended; it starts again", part.__qualname__)
        await asyncio.sleep(_PAUSE_SECONDS)


def is_asked_to_end() -> bool:
    """Whether somebody cancelled the present task.

    A CancelledError alone does not say so: awaiting what somebody else cancelled raises it too.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def run_until(stop: asyncio.Event, parts: list[Coroutine[Any, Any, None]]) -> None:
    """Run all parts until `stop`. Raises what ended one of them, as none may end."""
    tasks = [asyncio.create_task(part, name=f"part-{number}") for number, part in enumerate(parts)]
    waiter = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait([*tasks, waiter], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiter}:
            task.result()
            raise RuntimeError("a part that runs for ever has ended")
    finally:
        await cancel([*tasks, waiter])


async def cancel(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end, for a while."""
    for task in tasks:
        task.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_SECONDS):
            await asyncio.gather(*tasks, return_exceptions=True)
