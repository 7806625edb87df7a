"""`python -m bench.gpu_session OUT PHASE... [--seconds N]`: run phases on a GPU machine with vLLM; journals into OUT.

Everything is written as it comes: a session that is cut off keeps what it has.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_session.plans import CHAT, PHASES, Engine, Job, Lane, Stage, Task
from bench.gpu_session.results import read_settings
from bench.gpu_session.servers import VllmServer, start_mps, stop_mps, wait_all
from bench.gpu_session.tasks import (
    Work,
    likely_saturation,
    measure_mix,
    measure_sweep,
    saturation_of,
    write_clock,
)
from shoal.profiler.clients import Clients
from shoal.profiler.errors import ProfilerError
from shoal.profiler.journal import Journal
from shoal.profiler.measure import Target, measure
from shoal.profiler.points import Point
from shoal.profiler.server import read_facts
from shoal.profiler.specs import Settings, Spec, parse_objective

OBJECTIVE = parse_objective("ttft=500,itl=50,p=95")
START_SECONDS = 240.0
PROBE_SECONDS = 5.0
TOLERANCE, KNEE_TOLERANCE = 0.12, 0.08
LEAST_SECONDS = 100.0
CLIENT_CORES = 5  # of the cores of a lane; the others are its servers'
PACK = threading.Lock()


def main() -> int:
    """Run the phases; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("phases", nargs="+", choices=list(PHASES))
    parser.add_argument(
        "--cores", type=parse_cores, nargs="*", help="of each lane, e.g. 0-15 16-23; default: all, in equal parts"
    )
    parser.add_argument("--seconds", type=float, default=560.0, help="end everything after so long")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    for phase in options.phases:
        if deadline - time.monotonic() < 60:
            print(phase, "no time left", flush=True)
            break
        Phase(phase, options.out, deadline).run(PHASES[phase], options.cores)
    return 0


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase under way. `deadline` is an instant of time.monotonic."""

    name: str
    out: Path
    deadline: float

    @property
    def folder(self) -> Path:
        """Where its journals and logs go."""
        return self.out / self.name

    def run(self, lanes: Sequence[Lane], given: Sequence[Sequence[int]] | None = None) -> None:
        """All lanes beside each other, each on its cores: those given, or an equal part."""
        self.folder.mkdir(exist_ok=True)
        everywhere = sorted(os.sched_getaffinity(0))
        part = len(everywhere) // len(lanes)
        parts = given or [everywhere[n * part : (n + 1) * part] for n in range(len(lanes))]
        threads = [
            threading.Thread(target=self.run_lane, args=(lane, 18100 + 40 * n, parts[n]))
            for n, lane in enumerate(lanes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def run_lane(self, lane: Lane, port: int, cores: Sequence[int]) -> None:
        """One stage after the other, as long as there is time for a start and a measurement."""
        for number, stage in enumerate(lane):
            if self.deadline - time.monotonic() < LEAST_SECONDS:
                self.say("no time left for", *(engine.name for engine in stage.engines))
                return
            self.run_stage(stage, port + 10 * number, cores)

    def run_stage(self, stage: Stage, port: int, cores: Sequence[int]) -> None:
        """Start the engines of a stage together, then do its jobs in order."""
        # On a machine too small to keep them apart (a rehearsal), clients and servers share all cores.
        count = min(CLIENT_CORES, len(cores) // 2)
        apart = count > 2
        clients_at, servers_at = (cores[:count], cores[count:]) if apart else (cores, cores)
        if stage.mps:
            start_mps(stage.engines[0].gpus[0])
        servers = [
            VllmServer(engine, port + n, self.folder / f"{engine.name}.log", servers_at, mps=stage.mps)
            for n, engine in enumerate(stage.engines)
        ]
        try:
            ready = {server.engine.name: server for server in wait_all(servers, START_SECONDS)}
            for server in servers:
                words = f"ready after {server.ready_seconds} s" if server.ready_seconds else server.last_lines()
                self.say(server.engine.name, words)
            with Clients(count if apart else CLIENT_CORES, clients_at) as clients:
                for job in stage.jobs:
                    self.run_job(job, ready, clients)
                    pack(self.out)
        except Exception:
            self.say(traceback.format_exc())
        finally:
            for server in servers:
                server.stop()
            if stage.mps:
                stop_mps()
            pack(self.out)

    def run_job(self, job: Job, ready: dict[str, VllmServer], clients: Clients) -> None:
        """One measurement into its journal."""
        if missing := [name for name in job.engines if name not in ready]:
            self.say(job.name, "skipped: did not start:", *missing)
            return
        servers = [ready[name] for name in job.engines]
        settings = make_settings(job, servers[0].engine)
        journal = Journal(self.folder / f"{job.name}.jsonl", settings.key)
        journal.note(**describe(servers, len(ready)))
        target = Target(tuple(server.url for server in servers), "m", servers[0].engine.gpus)
        began = time.monotonic()

        def report(spec: Spec, point: Point | None, left: float) -> None:
            if point is not None:
                self.say(job.name, spec.key, f"{point.finished_rate:.2f}/s", f"{left:.0f} s left")

        work = Work(target, settings, journal, clients, report)
        try:
            complete = self.do(job, work)
        except (ProfilerError, OSError, RuntimeError) as error:
            journal.note(failed=str(error))
            self.say(job.name, "failed:", error)
            return
        self.say(job.name, "complete" if complete else "out of budget", f"{time.monotonic() - began:.0f} s")

    def do(self, job: Job, work: Work) -> bool:
        """The task of a job. False: the budget ended it."""
        match job.task:
            case Task.MIX:
                known = job.known or saturation_of(self.points(job.after))
                return measure_mix(work, likely_saturation(known, CHAT, job.lengths))
            case Task.SWEEP:
                return measure_sweep(work, self.points(job.after))
            case Task.CLOCK:
                path = self.folder / f"{job.name}-settings.jsonl"
                write_clock(path, work.target.urls[0], (work.target.gpus or (0,))[0], self.say)
                return True
        return measure(work.target, work.settings, work.journal, work.clients, work.report, deadline=self.deadline)

    def points(self, name: str | None) -> Sequence[Point]:
        """The points of another job of this phase. Raises ProfilerError when it has not run."""
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            raise ProfilerError(f"{name} has not run")
        return Journal(path, read_settings(path)).points

    def say(self, *words: object) -> None:
        """One line with the time."""
        print(time.strftime("%H:%M:%S"), self.name, *words, flush=True)


def parse_cores(text: str) -> Sequence[int]:
    """`0-3,8`: cores 0, 1, 2, 3 and 8. Raises ValueError."""
    ends = [part.partition("-") for part in text.split(",")]
    return [core for first, _, last in ends for core in range(int(first), int(last or first) + 1)]


def make_settings(job: Job, engine: Engine) -> Settings:
    """What one job is measured with: short windows, as minutes are dear."""
    return Settings(
        lengths=job.lengths,
        objective=OBJECTIVE,
        batch=engine.seqs,
        chunk=engine.chunk,
        engines=len(job.engines),
        longest=2000,
        horizon=job.horizon,
        warm_up=job.warm_up,
        probe_seconds=PROBE_SECONDS,
        budget_seconds=job.budget,
        tolerance=KNEE_TOLERANCE if job.task is Task.KNEE else TOLERANCE,
        repeats=1,
        probes=job.probes,
        burst=job.burst,
    )


def describe(servers: Sequence[VllmServer], running: int) -> dict[str, Any]:
    """What a row's provenance needs."""
    facts = [read_facts(server.url, "m") for server in servers]
    return {
        "arguments": [server.arguments for server in servers],
        "readySeconds": [server.ready_seconds for server in servers],
        "kvCacheTokens": [fact.kv_cache_tokens for fact in facts],
        "engineVersion": facts[0].version,
        "model": servers[0].engine.model,
        "tensorParallel": len(servers[0].engine.gpus),
        "idleServersOnGpu": running - len(servers),
        "cores": os.cpu_count(),
    }


def pack(out: Path) -> None:
    """Everything so far in one file."""
    with PACK:
        temporary = out / "session.tar.gz.new"
        with tarfile.open(temporary, "w:gz") as archive:
            for path in sorted(out.glob("*/*")):
                archive.add(path, arcname=str(path.relative_to(out)))
        temporary.replace(out / "session.tar.gz")


if __name__ == "__main__":
    raise SystemExit(main())
