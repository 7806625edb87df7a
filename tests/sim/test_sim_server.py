"""The HTTP side of the simulated engine, inside the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from sim_world import FACTS, FAST, MODEL, PROFILE, ROW

from shoal.domain.profile import Profile, StepModel
from shoal.sim.arguments import parse_arguments
from shoal.sim.gpu_clock import GPUClocks
from shoal.sim.server import SimServer
from shoal.sim.settings import SimSettings
from shoal.sim.truth import NoTruthError, find_truth


@dataclass
class Client:
    """Talks to one engine."""

    base: str
    http: aiohttp.ClientSession
    server: SimServer

    async def post(self, body: Any, path: str = "/v1/completions") -> tuple[int, Any]:
        async with self.http.post(self.base + path, json=body) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if "json" in answer.content_type else text

    async def metrics(self) -> dict[str, float]:
        async with self.http.get(self.base + "/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Client]]


@contextlib.asynccontextmanager
async def serve(
    *arguments: str, steps: StepModel = FAST, settings: SimSettings | None = None, profile: Profile = PROFILE
) -> AsyncIterator[Client]:
    parsed = parse_arguments(["--model", MODEL, "--served-model-name", "tiny", "also-tiny", *arguments])
    settings = settings or SimSettings(stream_seconds=0.05)
    truthful = replace(profile, rows=tuple(replace(row, steps=steps) for row in profile.rows))
    server = SimServer(parsed, settings, find_truth([truthful], parsed, settings))
    app = TestServer(server.make_app())
    await app.start_server()
    try:
        async with aiohttp.ClientSession() as http:
            yield Client(str(app.make_url("")).rstrip("/"), http, server)
    finally:
        await app.close()


def events(text: str) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    assert parts[-1] == "[DONE]"
    return [json.loads(part) for part in parts[:-1]]


async def test_a_stream_carries_every_token_and_the_usage() -> None:
    async with serve() as client:
        body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 40, "ignore_eos": True, "stream": True}
        _, text = await client.post(body | {"stream_options": {"include_usage": True}})
        *chunks, usage = events(text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks).split() == ["token"] * 40
    assert len(chunks) > 1  # the first token does not wait for the others
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "length"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 40, "total_tokens": 43}


async def test_a_chat_stream_opens_with_the_role() -> None:
    async with serve() as client:
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "stream": True, "min_tokens": 5}
        _, text = await client.post(body, "/v1/chat/completions")
        first, *rest = events(text)
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"]["content"] for c in rest).split() == ["token"] * 5


async def test_answers_in_one_piece() -> None:
    async with serve() as client:
        status, answer = await client.post(
            {"model": "also-tiny", "prompt": "some text", "max_tokens": 7, "min_tokens": 7}
        )
        assert (status, answer["object"], answer["model"]) == (200, "text_completion", "also-tiny")
        assert answer["usage"]["completion_tokens"] == 7
        status, chat = await client.post({"messages": [{"role": "user", "content": "hi"}]}, "/v1/chat/completions")
        assert chat["choices"][0]["message"]["role"] == "assistant"
        assert chat["choices"][0]["finish_reason"] == "stop"


async def test_an_answer_without_ignore_eos_ends_by_itself_always_alike() -> None:
    async with serve() as client:
        body = {"prompt": "the same prompt", "max_tokens": 2000}
        lengths = {(await client.post(body))[1]["usage"]["completion_tokens"] for _ in range(2)}
    assert len(lengths) == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "other", "prompt": "a"}, 404, "The model `other` does not exist."),
        ({"model": "tiny"}, 400, "prompt must be"),
        ({"prompt": ""}, 400, "prompt must be"),
        ({"prompt": ["a", "b"]}, 400, "prompt must be"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens must be at least 1"),
        ({"prompt": "a", "max_tokens": 4096}, 400, "maximum context length is 4096 tokens"),
        ({"prompt": "a", "max_tokens": 5, "min_tokens": 6}, 400, "min_tokens must be less than"),
        ({"prompt": "a", "n": 2}, 400, "n must be 1"),
        ([1], 400, "must be a JSON object"),
    ],
)
async def test_bad_requests_are_refused_with_vllms_status(body: Any, status: int, words: str) -> None:
    async with serve() as client:
        got, answer = await client.post(body)
    assert got == status
    assert words in answer["error"]["message"]
    assert answer["error"]["code"] == status


async def test_what_is_not_json_is_refused() -> None:
    async with serve() as client, client.http.post(client.base + "/v1/completions", data=b"{") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "BadRequestError"


async def test_a_full_queue_answers_429_with_retry_after() -> None:
    settings = SimSettings(stream_seconds=0.05, max_waiting=1)
    async with serve("--max-num-seqs", "1", steps=StepModel(20, 0, 0), settings=settings) as client:

        async def ask() -> tuple[int, str | None]:
            body = {"prompt": "a", "max_tokens": 20, "ignore_eos": True}
            async with client.http.post(client.base + "/v1/completions", json=body) as answer:
                await answer.read()
                return answer.status, answer.headers.get("Retry-After")

        answers = await asyncio.gather(*(ask() for _ in range(5)))
    assert sorted(answers, key=str) == [(200, None)] * 2 + [(429, "1")] * 3


async def test_times_seen_by_a_client_are_the_engines() -> None:
    async with serve(steps=StepModel(10, 0, 0, floor_small_ms=100), settings=SimSettings()) as client:
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        body = {"prompt": "a", "max_tokens": 51, "ignore_eos": True, "stream": True}
        arrived = []
        async with client.http.post(client.base + "/v1/completions", json=body) as answer:
            async for chunk in answer.content.iter_any():
                arrived += [loop.time()] if chunk else []
    assert 0.1 <= arrived[0] - began < 0.3
    assert pytest.approx((arrived[-1] - arrived[0]) / 50, rel=0.4) == 0.010
    assert len(arrived) < 8  # tokens travel in chunks


async def test_a_client_that_leaves_frees_its_seat() -> None:
    async with serve(steps=StepModel(20, 0, 0)) as client:
        body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        async with client.http.post(client.base + "/v1/completions", json=body) as answer:
            await answer.content.readany()
            assert (await client.metrics())['vllm:num_requests_running{engine="0",model_name="tiny"}'] == 1
            answer.close()
        await client.server.live.wait_until_empty()
        labels = 'engine="0",finished_reason="abort",model_name="tiny"'
        assert (await client.metrics())[f"vllm:request_success_total{{{labels}}}"] == 1


METRIC_NAMES = {
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"),
    *("num_preemptions_total", "prompt_tokens_total", "generation_tokens_total", "request_success_total"),
    *("time_to_first_token_seconds", "inter_token_latency_seconds", "request_time_per_output_token_seconds"),
    *("e2e_request_latency_seconds", "request_queue_time_seconds", "request_inference_time_seconds"),
    *("request_prefill_time_seconds", "request_decode_time_seconds"),
    *("request_prompt_tokens", "request_generation_tokens", "request_params_max_tokens", "iteration_tokens_total"),
}


async def test_metrics_have_vllms_names_and_add_up() -> None:
    async with serve() as client:
        for _ in range(3):
            await client.post({"prompt": [1] * 10, "max_tokens": 20, "ignore_eos": True})
        values = await client.metrics()
        async with client.http.get(client.base + "/metrics") as answer:
            text = await answer.text()
    families = set(re.findall(r"^# TYPE vllm:(\S+) ", text, re.MULTILINE))
    assert {name for name in families if not name.endswith("_created")} == METRIC_NAMES
    labels = 'engine="0",model_name="tiny"'
    assert values[f"vllm:prompt_tokens_total{{{labels}}}"] == 30
    assert values[f"vllm:generation_tokens_total{{{labels}}}"] == 60
    assert values[f"vllm:inter_token_latency_seconds_count{{{labels}}}"] == 57
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert values[f"vllm:{name}_count{{{labels}}}"] == 3
        assert values[f'vllm:{name}_bucket{{engine="0",le="+Inf",model_name="tiny"}}'] == 3
    assert 'num_gpu_blocks="1000"' in text


async def test_generation_tokens_count_while_an_answer_is_under_way() -> None:
    async with serve(steps=StepModel(5, 0, 0)) as client:
        body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        async with client.http.post(client.base + "/v1/completions", json=body) as answer:
            await answer.content.readany()
            name = 'vllm:generation_tokens_total{engine="0",model_name="tiny"}'
            seen = [(await client.metrics())[name]]
            await asyncio.sleep(0.1)
            seen.append((await client.metrics())[name])
            answer.close()
    assert seen[1] > seen[0] > 0


async def test_the_clock_of_the_slowest_gpu_slows_it(tmp_path: Path) -> None:
    state = tmp_path / "gpus.json"
    state.write_text(json.dumps({"gpus": [{"uuid": "GPU-a", "clockMHz": 2000}, {"uuid": "GPU-b", "clockMHz": 1000}]}))
    settings = SimSettings(gpu_state_file=state, gpu_uuids=("GPU-a", "GPU-b"))
    async with serve(settings=settings) as client:
        watching = asyncio.create_task(client.server.watch_clock())
        await asyncio.sleep(0)
        assert client.server.live.engine.speed.clock_ratio == 2.0
        watching.cancel()


async def set_faults(client: Client, *faults: str) -> None:
    status, answer = await client.post({"faults": faults}, "/sim/faults")
    assert status == 200, answer


async def test_faults_are_only_there_when_allowed() -> None:
    async with serve() as client:
        assert (await client.post({"faults": []}, "/sim/faults"))[0] == 404


async def test_faults() -> None:
    ask = {"prompt": "a", "max_tokens": 3}
    async with serve(settings=SimSettings(faults_allowed=True)) as client:
        await set_faults(client, "errors")
        assert (await client.post(ask))[0] == 500
        await set_faults(client, "empty-stream")
        assert await client.post(ask) == (200, "")
        await set_faults(client, "metrics-down")
        async with client.http.get(client.base + "/metrics") as answer:
            assert answer.status == 503
        await set_faults(client, "metrics-nan")
        assert math.isnan((await client.metrics())['vllm:num_requests_running{engine="0",model_name="tiny"}'])
        await set_faults(client, "slow=3")
        assert client.server.live.engine.speed.stretch == 3
        await set_faults(client, "hang")
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.1), client.http.get(client.base + "/health"):
                pass
        await set_faults(client)
        assert (await client.post(ask))[0] == 200
        assert (await client.post({"faults": ["sloth"]}, "/sim/faults"))[0] == 400


async def test_what_it_says_about_itself() -> None:
    async with serve() as client:
        async with client.http.get(client.base + "/version") as answer:
            version = await answer.json()
        async with client.http.get(client.base + "/v1/models") as answer:
            models = (await answer.json())["data"]
    assert version["simulated"] is True
    assert "default/tiny (Simulated)" in version["truth"]
    assert [(m["id"], m["root"], m["max_model_len"]) for m in models] == [
        ("tiny", MODEL, 4096),
        ("also-tiny", MODEL, 4096),
    ]


async def test_truth_is_chosen_by_the_hardware() -> None:
    rows = tuple(
        replace(ROW, engines_per_gpu=k, kv_cache_tokens=16_000 / k, steps=replace(FAST, alpha_ms=float(k)))
        for k in (1, 2, 4)
    )
    shared = replace(PROFILE, rows=rows)
    plain = parse_arguments(["--model", MODEL, "--max-model-len", "2048"])
    explicit = parse_arguments(["--model", MODEL, "--max-model-len", "2048", "--kv-cache-memory-bytes", "7900000"])
    assert find_truth([shared], plain, SimSettings()).steps.alpha_ms == 1
    assert find_truth([shared], plain, SimSettings(engines_per_gpu=4)).steps.alpha_ms == 4
    by_bytes = find_truth([shared], explicit, SimSettings())
    assert by_bytes.steps.alpha_ms == 2  # 7.9 MB at 1 kB per token is nearest to the half of the cache
    assert by_bytes.limits.kv_blocks == int(7.9e6 / FACTS.kv_bytes_per_token / 16)


def test_without_a_profile_the_datasheet_is_obeyed() -> None:
    arguments = parse_arguments(["--model", "Qwen/Qwen2.5-1.5B-Instruct"])
    truth = find_truth([PROFILE], arguments, SimSettings(accelerator="NVIDIA-L40S"))
    assert "(Estimated): NVIDIA-L40S" in truth.label
    assert truth.steps.alpha_ms > 3.0  # 3 GB of weights at 864 GB/s, and launches
    with pytest.raises(NoTruthError, match="acme/nameless"):
        find_truth([PROFILE], parse_arguments(["--model", "acme/nameless"]), SimSettings(accelerator="NVIDIA-L40S"))


def test_clocks_that_are_not_told_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gpus.json"
    clocks = GPUClocks(path, ("GPU-a",), None)
    assert clocks.refresh() == 1.0
    for text, ratio in (
        ("{", 1.0),
        ('{"gpus": [{"uuid": "GPU-a", "clockMHz": 1000, "maxClockMHz": 2000}]}', 2.0),
        ('{"gpus": [{"uuid": "GPU-a", "clockMHz": null}]}', 2.0),
        ('{"gpus": [{"uuid": "GPU-b", "clockMHz": 1, "maxClockMHz": 2000}]}', 2.0),
        ("[]", 2.0),
    ):
        path.write_text(text)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
        assert clocks.refresh() == ratio
