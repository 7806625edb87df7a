"""One client process: sends requests over HTTP, reads streams, notes instants. Runs until its pipe closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from typing import Any, Final

import aiohttp
import numpy as np
import uvloop

from shoal.profiler.jobs import Ended, Job, Progress, Records

PROGRESS_SECONDS: Final = 0.25
DONE: Final = b"data: [DONE]"
_USAGE: Final = re.compile(rb'"completion_tokens":\s*(\d+)')
_TAIL_BYTES: Final = 2048  # usage and the end of a stream fit into it
_TOKENS: Final = [str(token) for token in range(1000, 9000)]  # ordinary ones of every common vocabulary
_NEVER: Final = float("nan")


def serve_jobs(pipe: Connection, cpus: tuple[int, ...]) -> None:
    """The process's main function: one job after the other. Pinned to `cpus`, where the system allows it."""
    if cpus:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setaffinity(0, cpus)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and closes the pipe
    pipe.send("ready")
    while (job := _receive(pipe)) is not None:
        if isinstance(job, Job):
            records = uvloop.run(_Run(job, pipe).run())
            with contextlib.suppress(OSError):
                pipe.send(records)


def _receive(pipe: Connection) -> object:
    """The next message; None when the other side has closed."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


class _Run:
    """One job under way."""

    def __init__(self, job: Job, pipe: Connection) -> None:
        self._job = job
        self._pipe = pipe
        self._due: list[float] = []
        self._sent: list[float] = []
        self._first: list[float] = []
        self._last: list[float] = []
        self._index: list[int] = []
        self._ended: list[int] = []
        self._errors: dict[str, None] = {}
        self._stopped = asyncio.Event()
        self._bodies = _Bodies(job)

    async def run(self) -> Records:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._on_message)
        gc.disable()  # a collection in the middle would be measured as send lag
        cpu = time.process_time()
        began = time.monotonic()
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0)
            ) as http:
                await self._work(http)
        finally:
            loop.remove_reader(self._pipe.fileno())
            os.set_blocking(self._pipe.fileno(), True)  # uvloop took that away
            gc.enable()
        used = (time.process_time() - cpu) / max(time.monotonic() - max(began, self._job.began), 1e-3)
        return self._records(used)

    async def _work(self, http: aiohttp.ClientSession) -> None:
        requests: set[asyncio.Task[Any]] = set()
        telling = asyncio.create_task(self._tell())
        sending = asyncio.create_task(self._send_all(http, requests))
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            left = self._job.give_up - self._now()
            if requests and left > 0 and not self._stopped.is_set():
                everything = asyncio.ensure_future(asyncio.wait(requests))
                await asyncio.wait({everything, stopping}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                everything.cancel()
        finally:
            for task in (sending, stopping, telling, *requests):
                task.cancel()
            await asyncio.gather(sending, stopping, telling, *requests, return_exceptions=True)

    async def _send_all(self, http: aiohttp.ClientSession, requests: set[asyncio.Task[Any]]) -> None:
        job = self._job
        if (wait := -self._now()) > 0:
            await asyncio.sleep(wait)
        if job.due is None:
            following = itertools.cycle(range(len(job.prompts)))
            for connection in range(job.connections):
                _keep(requests, asyncio.create_task(self._connection(http, connection, following)))
            return
        for index, due in enumerate(job.due.tolist()):
            if (wait := due - self._now()) > 0:
                await asyncio.sleep(wait)
            _keep(requests, asyncio.create_task(self._exchange(http, index, due, int(job.targets[index]))))

    async def _connection(self, http: aiohttp.ClientSession, connection: int, following: Iterator[int]) -> None:
        target = int(self._job.targets[connection])
        for index in following:
            if (now := self._now()) >= self._job.send_until:
                return
            if not await self._exchange(http, index, now, target):
                await asyncio.sleep(0.05)  # a server that refuses at once is not asked in a busy loop

    async def _exchange(self, http: aiohttp.ClientSession, index: int, due: float, target: int) -> bool:
        """One request; whether it was answered."""
        body = self._bodies.make(index)
        place = len(self._due)
        self._due.append(due)
        self._index.append(index)
        self._first.append(_NEVER)
        self._last.append(_NEVER)
        self._ended.append(Ended.UNDER_WAY)
        self._sent.append(self._now())
        try:
            ended, detail = await self._stream(http, place, index, target, body)
        except (aiohttp.ClientError, ConnectionError, OSError, TimeoutError) as error:
            ended, detail = Ended.BROKEN, f"{type(error).__name__}: {error}"
        self._ended[place] = ended
        if ended is not Ended.ANSWERED:
            self._errors.setdefault(detail[:200])
        return ended is Ended.ANSWERED

    async def _stream(
        self, http: aiohttp.ClientSession, place: int, index: int, target: int, body: bytes
    ) -> tuple[Ended, str]:
        headers = {"Content-Type": "application/json"}
        async with http.post(self._job.urls[target], data=body, headers=headers) as answer:
            if answer.status != 200:
                text = " ".join((await answer.text()).split())
                kind = Ended.SERVER_ERROR if answer.status >= 500 else Ended.REFUSED
                return kind, f"HTTP {answer.status}: {text}"
            return await self._read(answer.content.iter_any(), place, int(self._job.outputs[index]))

    async def _read(self, chunks: AsyncIterator[bytes], place: int, wanted: int) -> tuple[Ended, str]:
        now, began = time.monotonic, self._job.began
        last, tail = _NEVER, b""
        async for chunk in chunks:
            last = now() - began
            if not tail:
                self._first[place] = last
            tail = (tail + chunk)[-_TAIL_BYTES:] if len(chunk) < _TAIL_BYTES else chunk[-_TAIL_BYTES:]
        self._last[place] = last
        usage = _USAGE.search(tail)
        tokens = int(usage.group(1)) if usage else 0
        if DONE in tail and tokens == wanted:
            return Ended.ANSWERED, ""
        return Ended.SHORT, _describe_short(tail, tokens if usage else None, wanted)

    def _now(self) -> float:
        return time.monotonic() - self._job.began

    def _on_message(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            self._pipe.recv()
        self._stopped.set()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            with contextlib.suppress(OSError):  # the parent is gone, which its closed pipe tells too
                self._pipe.send(self._progress())

    def _progress(self) -> Progress:
        job, now = self._job, self._now()
        since, until = job.window
        answered = failed = late_first = late_gap = still_open = 0
        oldest = 0.0
        for place, ended in enumerate(self._ended):
            waited = (now if self._first[place] != self._first[place] else self._first[place]) - self._sent[place]
            if ended == Ended.UNDER_WAY:
                still_open += 1
                if self._first[place] != self._first[place]:
                    oldest = max(oldest, waited)
            if not since <= self._due[place] < until:
                continue
            if ended == Ended.ANSWERED:
                answered += 1
                outputs = int(job.outputs[self._index[place]])
                gap = (self._last[place] - self._first[place]) * 1000 / max(outputs - 1, 1)
                late_gap += job.itl_ms is not None and outputs > 1 and gap > job.itl_ms
            failed += ended not in (Ended.ANSWERED, Ended.UNDER_WAY)
            late_first += job.ttft_ms is not None and waited * 1000 > job.ttft_ms
        return Progress(len(self._due), answered, failed, late_first, late_gap, still_open, oldest)

    def _records(self, cpu: float) -> Records:
        index = np.array(self._index, dtype=np.int64)
        return Records(
            due=np.array(self._due),
            sent=np.array(self._sent),
            first=np.array(self._first),
            last=np.array(self._last),
            prompts=self._job.prompts[index],
            outputs=self._job.outputs[index],
            ended=np.array(self._ended, dtype=np.int64),
            cpu=np.array([cpu]),
            errors=tuple(self._errors)[:5],
        )


def _keep(requests: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
    requests.add(task)
    task.add_done_callback(requests.discard)


class _Bodies:
    """Makes the bodies of requests. Random tokens, so that no prefix is cached."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model = json.dumps(job.model)
        self._rng = random.Random(f"tokens {job.seed}")

    def make(self, index: int) -> bytes:
        """The body of one request."""
        prompt, output = int(self._job.prompts[index]), int(self._job.outputs[index])
        return (
            f'{{"model":{self._model},"prompt":[{",".join(self._rng.choices(_TOKENS, k=prompt))}],'
            f'"max_tokens":{output},"min_tokens":{output},"ignore_eos":true,"temperature":0,"stream":true,'
            '"stream_options":{"include_usage":true}}'
        ).encode()


def _describe_short(tail: bytes, tokens: int | None, wanted: int) -> str:
    if not tail:
        return f"the answer was an empty stream; {wanted} tokens were asked for"
    told = f"after {tokens}" if tokens is not None else "before it told its number"
    return f"the stream of an answer ended {told} of {wanted} tokens"
