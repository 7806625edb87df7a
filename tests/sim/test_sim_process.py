"""The simulated engine as a process: start, arguments, drain, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from sim_world import MODEL, Server, running_server, start, write_profile

from shoal.domain.profile import StepModel
from shoal.sim.arguments import parse_arguments

SLOW = StepModel(alpha_ms=20, beta_ms_per_token=0, gamma_ms_per_kv_token=0)
STREAM = {"prompt": "a", "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}


@contextlib.asynccontextmanager
async def stream(server: Server, tokens: int) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream whose first token has come."""
    body = STREAM | {"max_tokens": tokens}
    async with server.http.post(server.url + "/v1/completions", json=body) as answer:
        await answer.content.readany()
        yield answer


async def test_it_listens_only_after_loading_and_drains_on_sigterm(tmp_path: Path) -> None:
    write_profile(tmp_path, steps=SLOW)
    async with running_server(tmp_path, "--shutdown-timeout", "10") as server, stream(server, 60) as answer:
        server.process.terminate()
        while True:  # the listener closes while the answer goes on
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with aiohttp.ClientSession() as stranger, stranger.get(server.url + "/health"):
                    await asyncio.sleep(0.01)
                    continue
            break
        rest = (await answer.content.read()).decode()
        assert rest.endswith("data: [DONE]\n\n")
        assert '"completion_tokens":60' in rest
        assert await server.process.wait() == 0


async def test_without_a_shutdown_timeout_answers_are_cut_off(tmp_path: Path) -> None:
    write_profile(tmp_path, steps=SLOW)
    async with running_server(tmp_path) as server, stream(server, 1000) as answer:
        server.process.terminate()
        with pytest.raises(aiohttp.ClientError):
            await answer.content.read()
        assert await server.process.wait() == 0


async def test_it_takes_its_time_to_start(tmp_path: Path) -> None:
    write_profile(tmp_path)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running_server(tmp_path, SHOAL_SIM_STARTUP_SECONDS="1.8"):
        assert loop.time() - began >= 1.8


async def test_a_crash_ends_it_with_status_1(tmp_path: Path) -> None:
    write_profile(tmp_path)
    async with running_server(tmp_path, SHOAL_SIM_FAULTS="1") as server:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with server.http.post(server.url + "/sim/faults", json={"faults": ["crash"]}):
                pass
        assert await server.process.wait() == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--model", MODEL, "--trust-everything"), 2, "unrecognized arguments: --trust-everything"),
        (("--model", "acme/unknown"), 1, "no profile"),
        (("--model", MODEL, "--kv-cache-memory-bytes", "100000"), 1, "more KV cache memory is needed"),
    ],
)
async def test_what_cannot_start_says_why(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    process = await start(write_profile(tmp_path), *arguments)
    _, errors = await process.communicate()
    assert process.returncode == status
    assert words in errors.decode()


def test_both_forms_of_the_command_line() -> None:
    serve = parse_arguments(["serve", MODEL, "--max_num_seqs=8", "-tp", "2"])
    module = parse_arguments(["--model", MODEL, "--max-num-seqs", "8", "--tensor-parallel-size", "2"])
    assert serve == module
    assert serve.served_names == (MODEL,)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--model",),
        ("--model", MODEL, "--max-num-seqs", "0"),
        ("--model", MODEL, "--gpu-memory-utilization", "2"),
        ("--model", MODEL, "--max-num-seqs", "64", "--max-num-batched-tokens", "32"),
    ],
)
def test_bad_command_lines_end_with_status_2(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    assert ended.value.code == 2
