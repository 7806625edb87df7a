"""Starts and ends engine processes, and the MPS daemon beside them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from shoal.profiler.errors import ProfilerError
from shoal.profiler.plan import EngineCommand, Job, Lane

ADDRESS: Final = "127.0.0.1"
FIRST_PORT: Final = 8100
PORTS_PER_LANE: Final = 16
SHARE: Final = 0.9  # of a GPU's memory that engines may look at
_STOP_SECONDS: Final = 20.0
_LOG_LINES: Final = 15
_PIN: Final = "import os, sys; os.sched_setaffinity(0, {cpus}); os.execvp(sys.argv[1], sys.argv[1:])"


class EngineFailedError(Exception):
    """An engine did not start. The message ends with the last lines of its log."""


class Engine:
    """One server process."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], port: int, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.url = f"http://{ADDRESS}:{port}"
        self._log = log
        with log.open("wb") as out:
            try:
                self._process = subprocess.Popen(
                    command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}, start_new_session=True
                )
            except OSError as error:
                raise EngineFailedError(f"{command[0]} cannot be started: {error}") from error

    def wait_until_ready(self, limit: float) -> float:
        """Seconds until it was healthy. Raises EngineFailedError."""
        began = time.monotonic()
        while time.monotonic() - began < limit:
            if self._process.poll() is not None:
                raise EngineFailedError(f"ended with status {self._process.returncode}; its last lines:\n{self.tail()}")
            with (
                contextlib.suppress(urllib.error.URLError, OSError),
                urllib.request.urlopen(f"{self.url}/health", timeout=2),
            ):
                return time.monotonic() - began
            time.sleep(0.25)
        raise EngineFailedError(f"not ready after {limit:.0f} s; its last lines:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def stop(self) -> None:
        """End it and all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its children too, where it left some
        self._process.wait()


class Mps:
    """NVIDIA's MPS daemon for some GPUs. Use as a context manager; ended when left."""

    def __init__(self, gpus: Sequence[int], directory: Path) -> None:
        self._gpus = ",".join(map(str, gpus))
        self.env = {
            "CUDA_MPS_PIPE_DIRECTORY": str(directory / "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": str(directory / "log"),
        }

    def __enter__(self) -> Mps:
        if shutil.which("nvidia-cuda-mps-control") is None:
            raise EngineFailedError("MPS: nvidia-cuda-mps-control is not on this machine")
        for directory in self.env.values():
            Path(directory).mkdir(parents=True, exist_ok=True)
        # The daemon sees all GPUs, and clients choose by index as they do without it.
        done = subprocess.run(
            ["nvidia-cuda-mps-control", "-d"],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise EngineFailedError(f"MPS: nvidia-cuda-mps-control -d: {(done.stderr or done.stdout).strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                ["nvidia-cuda-mps-control"],
                input="quit\n",
                env={**os.environ, **self.env},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )


def make_command(engine: EngineCommand, job: Job, lane: Lane, served_name: str, port: int) -> list[str]:
    """The command line of one engine, pinned to the lane's CPUs."""
    shape = job.shape
    values = {"model": job.model.path or job.model.name, "name": served_name, "port": str(port)}
    arguments = [
        "--model", "{model}", "--served-model-name", "{name}", "--host", ADDRESS, "--port", "{port}",
        "--tensor-parallel-size", str(shape.tensor_parallel), "--max-num-seqs", str(shape.max_num_seqs),
        "--max-num-batched-tokens", str(shape.max_num_batched_tokens),
    ]  # fmt: skip
    if job.kv_bytes is not None:
        arguments += ["--kv-cache-memory-bytes", str(job.kv_bytes)]
    if shape.engines_per_gpu > 1:  # a start is refused where less than this share of the GPU is free
        arguments += ["--gpu-memory-utilization", f"{SHARE / shape.engines_per_gpu:.3f}"]
    words = [*engine.command, *arguments, *engine.args, *job.args]
    command = [_fill(word, values) for word in words]
    if lane.server_cpus and hasattr(os, "sched_setaffinity"):
        command = [sys.executable, "-c", _PIN.format(cpus=set(lane.server_cpus)), *command]
    return command


def _fill(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


@contextlib.contextmanager
def running_engines(
    engine: EngineCommand,
    job: Job,
    lane: Lane,
    *,
    lane_number: int,
    served_name: str,
    directory: Path,
    started: list[contextlib.ExitStack],
) -> Iterator[tuple[str, ...]]:
    """Start all engines of a configuration, one after the other; gives their URLs. Raises EngineFailedError.

    `started` gets what ends them, for whoever is interrupted.
    """
    if job.gpus > len(lane.gpus):
        raise ProfilerError(f"{job.label} needs {job.gpus} GPUs; its lane has {lane.gpus}")
    gpus = lane.gpus[: job.gpus]
    with contextlib.ExitStack() as stack:
        started.append(stack)
        env = {**engine.env, **job.model.env, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        if job.shape.mps:
            env |= stack.enter_context(Mps(gpus, Path("/tmp") / f"shoal-mps-{os.getpid()}-{lane_number}")).env
        urls = []
        for number in range(job.shape.engines_per_gpu):
            port = FIRST_PORT + lane_number * PORTS_PER_LANE + number
            command = make_command(engine, job, lane, served_name, port)
            log = directory / f"{job.label}-{number}.log"
            server = Engine(command, env, port, log)
            stack.callback(server.stop)
            server.wait_until_ready(engine.start_seconds)
            urls.append(server.url)
        yield tuple(urls)
