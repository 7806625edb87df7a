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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_session.plans import PHASES, Engine, Job, Lane, Stage
from bench.gpu_session.results import read_settings
from bench.gpu_session.servers import VllmServer, start_mps, stop_mps, wait_all
from shoal.profiler.clients import Clients
from shoal.profiler.errors import ProfilerError
from shoal.profiler.gpus import GpuSampler
from shoal.profiler.journal import Journal
from shoal.profiler.knee import next_rate, overload_of
from shoal.profiler.lengths import LengthSource, parse_lengths
from shoal.profiler.measure import Target, measure, run_step
from shoal.profiler.points import Point
from shoal.profiler.server import read_facts
from shoal.profiler.specs import Kind, Settings, Spec, parse_objective

OBJECTIVE = parse_objective("ttft=500,itl=50,p=95")
START_SECONDS = 240.0
HORIZON_SECONDS, WARM_UP_SECONDS, PROBE_SECONDS = 12.0, 3.0, 5.0
TOLERANCE = 0.12
FIRST_SHARE = 0.9  # of the saturation: where the search at another mix begins
LEAST_SECONDS = 100.0
CLIENT_CORES = 5  # of the cores of a lane; the others are its servers'
PACK = threading.Lock()


def main() -> int:
    """Run the phases; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("phases", nargs="+", choices=list(PHASES))
    parser.add_argument("--seconds", type=float, default=560.0, help="end everything after so long")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    for phase in options.phases:
        if deadline - time.monotonic() < 60:
            print(phase, "no time left", flush=True)
            break
        Phase(phase, options.out, deadline).run(PHASES[phase])
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

    def run(self, lanes: Sequence[Lane]) -> None:
        """All lanes beside each other, each on an equal part of the cores."""
        self.folder.mkdir(exist_ok=True)
        cores = sorted(os.sched_getaffinity(0))
        part = len(cores) // len(lanes)
        threads = [
            threading.Thread(target=self.run_lane, args=(lane, 18100 + 40 * n, cores[n * part : (n + 1) * part]))
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
        apart = len(cores) > 2 * CLIENT_CORES
        clients_at, servers_at = (cores[:CLIENT_CORES], cores[CLIENT_CORES:]) if apart else (cores, cores)
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
            with Clients(CLIENT_CORES, clients_at) as clients:
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

        try:
            if job.after is None:
                complete = measure(target, settings, journal, clients, report, deadline=self.deadline)
            else:
                first = Journal(self.folder / f"{job.after}.jsonl", read_settings(self.folder / f"{job.after}.jsonl"))
                complete = measure_mix(target, settings, journal, clients, known=first.points, report=report)
        except ProfilerError as error:
            journal.note(failed=str(error))
            self.say(job.name, "failed:", error)
            return
        self.say(job.name, "complete" if complete else "out of budget", f"{time.monotonic() - began:.0f} s")

    def say(self, *words: object) -> None:
        """One line with the time."""
        print(time.strftime("%H:%M:%S"), self.name, *words, flush=True)


def make_settings(job: Job, engine: Engine) -> Settings:
    """What one job is measured with: short windows, as minutes are dear."""
    return Settings(
        lengths=job.lengths,
        objective=OBJECTIVE,
        batch=engine.seqs,
        chunk=engine.chunk,
        engines=len(job.engines),
        longest=2000,
        horizon=HORIZON_SECONDS,
        warm_up=WARM_UP_SECONDS,
        probe_seconds=PROBE_SECONDS,
        budget_seconds=job.budget,
        tolerance=TOLERANCE,
        repeats=1,
        probes=job.probes,
        burst=job.burst,
    )


def measure_mix(
    target: Target,
    settings: Settings,
    journal: Journal,
    clients: Clients,
    *,
    known: Sequence[Point],
    report: Callable[[Spec, Point | None, float], None],
) -> bool:
    """Saturation at another mix, then its knee from 0.9 of that on. False: the budget ended the search."""
    over = overload_of(known)
    if over is None:
        raise ProfilerError("the first mix has no saturation: nothing to begin from")
    guess = over.throughput * weight(over.spec.source) / weight(parse_lengths(settings.lengths))
    steps = [("overload", 1.3 * guess)]
    with GpuSampler(target.gpus) as gpus:
        while steps or (rate := next_rate(journal.points, settings.objective, settings.tolerance)) is not None:
            name, asked = steps.pop() if steps else ("search", rate)
            spec = Spec(name, Kind.OPEN, settings.horizon, settings.warm_up, settings.seed, settings.lengths, asked)
            if journal.spent_seconds + spec.expected_seconds > settings.budget_seconds:
                return False
            point = run_step(target, settings, spec, clients, gpus)
            journal.add(point)
            report(spec, point, settings.budget_seconds - journal.spent_seconds)
            if name == "overload":
                steps.append(("search", FIRST_SHARE * point.throughput))
    return True


def weight(lengths: LengthSource) -> float:
    """Work of a request, roughly: an output token costs about four of the prompt. Only where a search begins."""
    return lengths.input_mean + 4 * lengths.output_mean


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
