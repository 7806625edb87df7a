"""`python -m bench.profiler [-o FILE] [--only CASE]`: the profiler against simulated engines, over real HTTP."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.machine import read_commit, read_machine
from bench.profiler.sweep import sweep
from shoal.domain.profile import StepModel
from shoal.profiler.clients import Clients
from shoal.profiler.journal import Journal
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.measure import Target, measure
from shoal.profiler.measured import Measured, Shape
from shoal.profiler.server import read_facts
from shoal.profiler.specs import Settings, parse_objective
from shoal.sim.arguments import parse_arguments
from shoal.sim.profile_files import read_profiles
from shoal.sim.settings import SimSettings
from shoal.sim.truth import Truth, find_truth

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles" / "simulated"
RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True, slots=True)
class Case:
    """One simulated engine and objective."""

    name: str
    model: str
    accelerator: str
    batch: int
    slo: str
    lengths: str = "gamma:512,128"
    kv_bytes: int | None = None


CASES = (
    Case("7b-l40s-throughput", "Qwen/Qwen2.5-7B-Instruct", "NVIDIA-L40S", 64, "ttft=1000,itl=100"),
    Case("7b-l40s-itl", "Qwen/Qwen2.5-7B-Instruct", "NVIDIA-L40S", 64, "ttft=1000,itl=35"),
    Case("7b-h100-ttft", "Qwen/Qwen2.5-7B-Instruct", "NVIDIA-H100-80GB-HBM3", 16, "ttft=150"),
    Case(
        "7b-h100-long", "Qwen/Qwen2.5-7B-Instruct", "NVIDIA-H100-80GB-HBM3", 16, "ttft=500,itl=12", "lognormal:1000,64"
    ),
    Case("14b-h100-kv", "Qwen/Qwen2.5-14B-Instruct", "NVIDIA-H100-80GB-HBM3", 64, "ttft=1000", kv_bytes=3 << 30),
)


def settings_for(case: Case, *, horizon: float = 60.0, warm_up: float = 10.0, budget: float = 900.0) -> Settings:
    """What the case is measured with."""
    return Settings(
        lengths=case.lengths,
        objective=parse_objective(case.slo),
        batch=case.batch,
        longest=2048,
        horizon=horizon,
        warm_up=warm_up,
        budget_seconds=budget,
        repeats=1,
        most_lag_ms=50.0,  # this machine is shared; a real measurement keeps to 5
    )


def server_words(case: Case, port: int) -> list[str]:
    """The engine's command line."""
    words = ["--model", case.model, "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--max-model-len", "2048", "--max-num-seqs", str(case.batch)]
    return words if case.kv_bytes is None else [*words, "--kv-cache-memory-bytes", str(case.kv_bytes)]


def sim_environment(case: Case) -> dict[str, str]:
    """What a GPU would tell the engine."""
    return {
        "SHOAL_SIM_PROFILE_DIR": str(PROFILES),
        "SHOAL_SIM_ACCELERATOR": case.accelerator,
        "SHOAL_SIM_ENGINES_PER_GPU": "1",
        "SHOAL_SIM_STARTUP_SECONDS": "0",
        "SHOAL_SIM_MAX_WAITING": "0",
    }


def truth_of(case: Case) -> Truth:
    """What the engine obeys."""
    settings = SimSettings.read(sim_environment(case))
    return find_truth(read_profiles(PROFILES, case.model), parse_arguments(server_words(case, 1)), settings)


@contextlib.contextmanager
def simulated_server(case: Case) -> Iterator[str]:
    """A server process; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "shoal.sim.server", *server_words(case, port)]
    process = subprocess.Popen(command, env={**os.environ, **sim_environment(case)}, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1):
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def profile_case(case: Case, settings: Settings, directory: Path) -> Measured:
    """Measure one case over HTTP."""
    with simulated_server(case) as url, Clients(1) as clients:
        facts = read_facts(url, "m")
        journal = Journal(directory / f"{case.name}.jsonl", settings.key)
        complete = measure(Target((url,), "m"), settings, journal, clients, lambda *_: None)
        shape = Shape(max_num_seqs=case.batch, kv_cache_tokens=facts.kv_cache_tokens)
        return Measured(shape, settings, tuple(journal.points), complete, journal.facts)


def tolerance(knee: float, settings: Settings) -> float:
    """What the knee of one run may be off: 5 %, or two standard errors of a Poisson stream of such lengths."""
    requests = knee * settings.horizon
    variation = parse_lengths(settings.lengths).variation(settings.longest)
    return max(0.05, 2 * math.sqrt((1 + variation**2) / requests))


def compare(case: Case, measured: Measured, truth: Truth) -> dict[str, Any]:
    """The run beside the truth."""
    settings = measured.settings
    found, exact, fit = measured.bracket, sweep(truth.steps, truth.limits, settings), measured.fit()
    knee = found.knee if found is not None and found.knee is not None else 0.0
    until_knee = [p.took for p in measured.points if p.spec.name in ("idle", "full", "overload", "search")]
    return {
        "case": asdict(case),
        "knee": knee,
        "bracket": None if found is None else [found.low, found.high],
        "sweepKnee": exact.knee,
        "sweepKnees": exact.knees,
        "sameTraceKnee": exact.knees[0],
        "error": knee / exact.knees[0] - 1,
        "errorToManySeeds": knee / exact.knee - 1,
        "tolerance": tolerance(exact.knee, settings),
        "saturation": measured.saturation,
        "sweepSaturation": exact.saturation,
        "secondsToKnee": sum(until_knee),
        "seconds": sum(point.took for point in measured.points),
        "complete": measured.complete,
        "fit": None if fit is None else _compare_steps(fit.steps, truth.steps, fit.errors),
        "fitRms": None if fit is None else fit.rms,
        "sendLagP99Ms": max(point.send_lag_p99_ms for point in measured.points),
    }


def _compare_steps(fitted: StepModel, true: StepModel, errors: dict[str, float | None]) -> dict[str, Any]:
    pairs = {
        "alpha": (fitted.alpha_ms, true.alpha_ms),
        "beta": (fitted.beta_ms_per_token, true.beta_ms_per_token),
        "gamma": (fitted.gamma_ms_per_kv_token, true.gamma_ms_per_kv_token),
        "floorSmall": (fitted.floor_small_ms, true.floor_small_ms),
        "floorLarge": (fitted.floor_large_ms, true.floor_large_ms),
    }
    return {name: {"fitted": f, "true": t, "error": errors[name]} for name, (f, t) in pairs.items()}


def main() -> int:
    """Status 1: a knee is off by more than its tolerance."""
    parser = argparse.ArgumentParser(prog="python -m bench.profiler", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", metavar="PART", help="only cases with this in their name")
    parser.add_argument(
        "--journals", type=Path, required=True, help="where the journals go; what is there is not repeated"
    )
    options = parser.parse_args()
    rows = []
    for case in CASES:
        if options.only not in case.name:
            continue
        measured = profile_case(case, settings_for(case), options.journals)
        row = compare(case, measured, truth_of(case))
        rows.append(row)
        print(
            f"{case.name}: knee {row['knee']:.3f}/s, sweep {row['sameTraceKnee']:.3f}/s, {row['error']:+.1%} "
            f"(tolerance {row['tolerance']:.1%}), {row['secondsToKnee']:.0f} s",
            flush=True,
        )
        result = {"machine": asdict(read_machine()), "commit": read_commit(), "cases": rows}
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(any(abs(row["error"]) > row["tolerance"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
