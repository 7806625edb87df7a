"""`python -m bench.real_engine.measure OUT MODEL...`: on a GPU machine with vLLM.

For each model: overloaded throughput, then open-loop points below it; with `--contract` also whether the drain hook and
`--shutdown-timeout` lose a request. Results are written after every step, so that an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.real_engine.clients import send, summarise
from bench.real_engine.server import Model, Server
from shoal.render.drain import SCRIPT
from shoal.sim.load import LoadGenerator
from shoal.sim.load_report import Outcome
from shoal.sim.traffic import Traffic
from shoal.telemetry.engine_page import parse_engine_page

GIB = 1 << 30
ROOT = Path("/tmp/models")
MODELS = {
    "qwen2.5-7b": Model("Qwen/Qwen2.5-7B-Instruct", ROOT / "qwen2.5-7b", 60, 24 * GIB),
    "qwen2.5-1.5b": Model("Qwen/Qwen2.5-1.5B-Instruct", ROOT / "qwen2.5-1.5b", 140, 16 * GIB),
    "qwen2.5-0.5b": Model("Qwen/Qwen2.5-0.5B-Instruct", ROOT / "qwen2.5-0.5b", 200, 12 * GIB),
    "opt-1.3b": Model("facebook/opt-1.3b", ROOT / "opt-1.3b", 140, 24 * GIB),
}
LOADS = (0.2, 0.5, 0.7, 0.85, 0.95)
POINT_SECONDS, WARM_UP_SECONDS = 25.0, 5.0


class Results:
    """One JSON file, rewritten after every step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {"models": {}, "gpu": []}
        self._lock = threading.Lock()

    def save(self) -> None:
        """Write what there is."""
        with self._lock:
            self.path.write_text(json.dumps(self.data, default=str))


def sample_gpu(results: Results, stop: threading.Event) -> None:
    """Read GPU 0 once a second until told to stop."""
    import pynvml  # noqa: PLC0415 - only on the GPU machine

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    results.data["device"] = {
        "name": pynvml.nvmlDeviceGetName(handle),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "maxClockMHz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "powerLimitWatts": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
    }
    while not stop.wait(1.0):
        results.data["gpu"].append(
            {
                "at": time.time(),
                "clockMHz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
                "watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
                "celsius": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
                "reasons": pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
                "busy": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            }
        )


def measure(server: Server, results: Results, out: Path) -> None:
    """Overload, then points below it."""
    entry = results.data["models"][server.model.name]
    send(server.url, 2.0, 4.0, seed=1, grace=10)  # first requests compile and capture
    began = time.time()
    records, facts = send(server.url, server.model.overload, 22.0, seed=2, grace=1.0)
    overload = summarise(records, since=8.0, until=22.0)
    entry["overload"] = overload | {"client": facts, "began": began, "ended": time.time()}
    entry["page"] = page_facts(server.metrics())
    (out / f"metrics-{server.model.folder.name}.txt").write_bytes(server.metrics())
    results.save()
    saturated = overload["finishedPerSecond"]
    wait_idle(server)
    for index, load in enumerate(LOADS):
        began = time.time()
        records, facts = send(server.url, load * saturated, POINT_SECONDS, seed=10 + index, grace=15.0)
        point = summarise(records, since=WARM_UP_SECONDS, until=POINT_SECONDS)
        entry["points"].append(
            point | {"load": load, "rate": load * saturated, "client": facts, "began": began, "ended": time.time()}
        )
        results.save()
        print(server.model.name, load, round(load * saturated, 2), point["ttftMs"], point["itlMs"], facts, flush=True)
        wait_idle(server)


def page_facts(page: bytes) -> dict[str, Any]:
    """Return what Shoal's reader makes of a real page; None is a field it could not read."""
    read = parse_engine_page(page)
    lines = [line for line in page.decode().splitlines() if line.startswith("vllm:cache_config_info")]
    return {
        "running": read.running,
        "waiting": read.waiting,
        "kvUsage": read.kv_usage,
        "finished": read.finished,
        "ttft": read.ttft and read.ttft.mean,
        "itl": read.itl and read.itl.mean,
        "input": read.input and read.input.mean,
        "output": read.output and read.output.mean,
        "cacheConfig": lines[:1],
    }


def wait_idle(server: Server, limit: float = 60.0) -> None:
    """Wait until the engine says that it has no request."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        page = parse_engine_page(server.metrics())
        if page.running == 0 and page.waiting == 0:
            return
        time.sleep(0.5)


def check_drain(server: Server, results: Results) -> None:
    """Does the drain hook wait for the last request; does SIGTERM let short ones finish?"""
    environment = os.environ | {"POD_IP": "127.0.0.1"}

    async def under_way(output: float, meanwhile: list[str]) -> dict[str, Any]:
        traffic = Traffic(((1.0, 8.0),), 64.0, output, 77, 2000)
        generator = LoadGenerator(url=f"{server.url}/v1", model="m", traffic=traffic, timeout_seconds=60)
        sending = asyncio.create_task(generator.run())
        await asyncio.sleep(1.2)
        began = time.monotonic()
        if meanwhile:
            hook = await asyncio.create_subprocess_exec(*meanwhile, env=environment)
            await asyncio.gather(hook.wait(), sending)
        else:
            server.terminate()
            await sending
        return {
            "seconds": time.monotonic() - began,
            "lastEnded": max(r.ended_at or 0 for r in generator.records),
            "outcomes": [str(r.outcome) for r in generator.records],
            "lost": sum(r.outcome is not Outcome.ANSWERED for r in generator.records),
        }

    hook = [sys.executable, "-c", SCRIPT, str(server.port), "60", "5"]
    results.data["drainHook"] = asyncio.run(under_way(1200.0, hook))
    results.save()
    results.data["sigterm"] = asyncio.run(under_way(300.0, []))
    began = time.monotonic()
    try:
        results.data["sigterm"]["exitStatus"] = server.process.wait(60)
    except subprocess.TimeoutExpired:
        results.data["sigterm"]["exitStatus"] = "none after 60 s"
    results.data["sigterm"]["secondsToExit"] = time.monotonic() - began
    results.save()


def main() -> int:
    """Run everything asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", choices=list(MODELS))
    parser.add_argument("--contract", action="store_true")
    options = parser.parse_args()
    results = Results(options.out / f"results-{'-'.join(options.models)}.json")
    stop = threading.Event()
    sampler = threading.Thread(target=sample_gpu, args=(results, stop), daemon=True)
    sampler.start()
    servers = [
        Server(MODELS[name], 8100 + index, options.out / f"{name}.log") for index, name in enumerate(options.models)
    ]
    try:
        for server in servers:
            entry = {"points": [], "arguments": server.arguments, "startSeconds": server.wait()}
            results.data["models"][server.model.name] = entry
            print(server.model.name, "ready after", entry["startSeconds"], flush=True)
        for server in servers:
            measure(server, results, options.out)
        if options.contract:
            check_drain(servers[-1], results)
    finally:
        stop.set()
        sampler.join()
        results.save()
        for server in servers:
            server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
