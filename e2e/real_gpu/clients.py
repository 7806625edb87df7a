"""Open-loop load through the router, from processes of its own, so that the clients are not what is measured."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import uvloop

from shoal.sim.load import LoadGenerator
from shoal.sim.load_report import Record
from shoal.sim.traffic import Traffic

Schedule = tuple[tuple[float, float], ...]  # (seconds, requests per second)
LONGEST_REQUEST_SECONDS = 180.0
START_SECONDS = 3.0  # until every process has its interpreter


@dataclass(frozen=True, slots=True)
class Lengths:
    """Means in tokens; `longest`: prompt and answer together."""

    input_mean: float = 512.0
    output_mean: float = 128.0
    longest: int = 2000


class Clients:
    """Several processes that share one Poisson stream in equal parts (sums of Poisson streams are Poisson)."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
        self._parts: list[Future[list[Record]]] = []
        self.began = 0.0  # time.time() of the first instant of the schedule

    def start(self, url: str, model: str, schedule: Schedule, lengths: Lengths, seed: int) -> None:
        """Begin to send; `began` says when the schedule's time 0 is."""
        self.began = time.time() + START_SECONDS
        share = tuple((seconds, rate / self._processes) for seconds, rate in schedule)
        for index in range(self._processes):
            traffic = Traffic(share, lengths.input_mean, lengths.output_mean, seed * 100 + index, lengths.longest)
            self._parts.append(self._pool.submit(_send, url, model, traffic, self.began))

    @property
    def done(self) -> bool:
        """Whether every request has its answer, or its end."""
        return all(part.done() for part in self._parts)

    def records(self) -> list[Record]:
        """What became of every request; waits for the last one."""
        return [record for part in self._parts for record in part.result()]

    def close(self) -> None:
        """Leave no process behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _send(url: str, model: str, traffic: Traffic, began: float) -> list[Record]:
    return uvloop.run(_run(url, model, traffic, began))


async def _run(url: str, model: str, traffic: Traffic, began: float) -> list[Record]:
    generator = LoadGenerator(url=url, model=model, traffic=traffic, timeout_seconds=LONGEST_REQUEST_SECONDS)
    await generator.run(started=asyncio.get_running_loop().time() + began - time.time())
    return generator.records


def send_lag_p99_ms(records: Sequence[Record]) -> float:
    """How late the clients themselves were."""
    lags = sorted((record.sent_at - record.due_at) * 1000 for record in records)
    return lags[int(0.99 * (len(lags) - 1))] if lags else 0.0
