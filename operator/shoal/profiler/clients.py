"""The client processes: started once, given one job after the other, pinned apart from the server."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

import numpy as np

from shoal.profiler.client import serve_jobs
from shoal.profiler.errors import ClientError, ProfilerError
from shoal.profiler.jobs import Job, Progress, Records, join_records

LEAD_SECONDS: Final = 0.3  # between handing out a job and its first request: all processes have it by then
_START_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.25
_SLACK_SECONDS: Final = 20.0  # beyond the end of a job: then its process counts as lost


class Clients:
    """A pool of client processes. Use as a context manager."""

    def __init__(self, processes: int, cpus: Sequence[int] = ()) -> None:
        self.processes = processes
        self._cpus = tuple(cpus)
        self._workers: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Clients:
        context = multiprocessing.get_context("spawn")
        for index in range(self.processes):
            here, there = context.Pipe()
            cpus = (self._cpus[index % len(self._cpus)],) if self._cpus else ()
            process = context.Process(target=serve_jobs, args=(there, cpus), daemon=True)
            process.start()
            there.close()
            self._workers.append((process, here))
        for _, pipe in self._workers:
            if not pipe.poll(_START_SECONDS):
                raise ProfilerError("a client process did not start within 60 s: the machine is overloaded")
            pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.join(3.0)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers.clear()

    def run(self, job: Job, watch: Callable[[Progress, float], bool] | None = None) -> Records:
        """Split a job over the processes and wait for all. `job.began` is set here.

        `watch` is told the progress and the seconds since the beginning about four times a second; True ends the job.
        Raises ClientError when a process is lost.
        """
        job = replace(job, began=time.monotonic() + LEAD_SECONDS)
        for index, (_, pipe) in enumerate(self._workers):
            pipe.send(split_job(job, index, len(self._workers)))
        progress = [Progress()] * len(self._workers)
        done: dict[int, Records] = {}
        told = False
        deadline = job.began + job.give_up + _SLACK_SECONDS
        while len(done) < len(self._workers):
            self._receive(done, progress)
            if time.monotonic() > deadline:
                raise ClientError("a client process does not answer: the machine is overloaded")
            if watch is not None and not told and watch(_sum(progress), time.monotonic() - job.began):
                told = True
                for _, pipe in self._workers:
                    pipe.send("stop")
        return join_records([done[index] for index in sorted(done)])

    def _receive(self, done: dict[int, Records], progress: list[Progress]) -> None:
        pipes = {pipe: index for index, (_, pipe) in enumerate(self._workers) if index not in done}
        for ready in wait(list(pipes), timeout=_POLL_SECONDS):
            assert isinstance(ready, Connection)
            try:
                message = ready.recv()
            except (EOFError, OSError) as error:
                raise ClientError("a client process ended unexpectedly (out of memory?)") from error
            if isinstance(message, Progress):
                progress[pipes[ready]] = message
            else:
                done[pipes[ready]] = message


def split_job(job: Job, index: int, parts: int) -> Job:
    """Every `parts`-th request, or connection, from `index` on."""
    mine = slice(index, None, parts)
    connections = len(range(job.connections)[mine])
    return replace(
        job,
        due=None if job.due is None else job.due[mine],
        prompts=job.prompts[mine],
        outputs=job.outputs[mine],
        targets=job.targets[mine],
        connections=connections,
        seed=job.seed * 1000 + index,
    )


def usual_processes(cpus: Sequence[int]) -> int:
    """How many client processes: one for each CPU given; else a third of the machine's, between 1 and 6."""
    if cpus:
        return min(len(cpus), 16)
    return int(np.clip((os.cpu_count() or 1) // 3, 1, 6))


def _sum(progress: Sequence[Progress]) -> Progress:
    total = Progress()
    for part in progress:
        total = total.plus(part)
    return total
