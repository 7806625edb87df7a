"""What the tests of the simulated engine share: a profile on disk, a server process, free ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from e2e.ports import free_port
from shoal.api.model_profile import Provenance
from shoal.domain.profile import LengthMix, ModelFacts, Profile, ProfileRow, Source, StepModel
from shoal.sim.profile_files import render_profile

MODEL = "acme/tiny-1b"
FAST = StepModel(alpha_ms=2.0, beta_ms_per_token=0.02, gamma_ms_per_kv_token=0.0001)
FACTS = ModelFacts(parameters=1e9, weights_bytes=2e9, kv_bytes_per_token=1000, max_context_tokens=4096)
LENGTHS = LengthMix(input_mean=100, output_mean=50, input_p95=200, output_p95=100)
ROW = ProfileRow(
    tensor_parallel=1,
    engines_per_gpu=1,
    max_num_seqs=16,
    max_num_batched_tokens=512,
    kv_cache_tokens=16_000,
    lengths=LENGTHS,
    steps=FAST,
)
PROFILE = Profile(
    name="tiny",
    namespace="default",
    model=MODEL,
    accelerator="NVIDIA-L40S",
    engine="vllm",
    engine_version="0.26.0",
    source=Source.SIMULATED,
    facts=FACTS,
    rows=(ROW,),
    clock_mhz=2000,
)


def write_profile(directory: Path, profile: Profile = PROFILE, **row: object) -> Path:
    """Write the profile, its row changed by `row`."""
    changed = replace(profile, rows=(replace(profile.rows[0], **row),))  # type: ignore[arg-type]
    (directory / f"{profile.name}.yaml").write_text(render_profile(changed, Provenance(tool="test"), "for a test"))
    return directory


@dataclass
class Server:
    """A running server process."""

    process: asyncio.subprocess.Process
    url: str
    http: aiohttp.ClientSession

    async def text(self, path: str) -> str:
        async with self.http.get(self.url + path) as answer:
            return await answer.text()

    async def metric(self, name: str) -> float:
        """Sum of all samples of one name."""
        lines = (await self.text("/metrics")).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0] == name)


def environment(directory: Path, **variables: str) -> Mapping[str, str]:
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")},
        "SHOAL_SIM_PROFILE_DIR": str(directory),
        "SHOAL_SIM_STARTUP_SECONDS": "0.2",
        **variables,
    }


@contextlib.asynccontextmanager
async def running_server(directory: Path, *arguments: str, **variables: str) -> AsyncIterator[Server]:
    """A server of MODEL that is ready; killed at the end if it still runs."""
    port = free_port()
    process = await start(directory, "--model", MODEL, "--port", str(port), *arguments, **variables)
    async with aiohttp.ClientSession() as http:
        server = Server(process, f"http://127.0.0.1:{port}", http)
        try:
            await until_ready(server)
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def start(directory: Path, *arguments: str, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "shoal.sim.server", "--host", "127.0.0.1", *arguments),
        env=environment(directory, **variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def until_ready(server: Server) -> None:
    while server.process.returncode is None:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with server.http.get(server.url + "/health") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.02)
    raise AssertionError((await server.process.communicate())[1].decode())
