"""The GPU agent as a process, as a kubelet would start it, and its state file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from exporters import next_address, wait_until
from prometheus_client.parser import text_string_to_metric_families

from shoal.telemetry import agent
from shoal.telemetry.agent import PORT, Agent, make_reader
from shoal.telemetry.direct import DirectSource
from shoal.telemetry.gpu import GpuReading, StateFileReader, make_json, parse_readings
from shoal.telemetry.nvml import NvmlReader
from shoal.telemetry.targets import AgentTarget

HOT = {
    "uuid": "GPU-1",
    "index": 0,
    "product": "NVIDIA-H100-80GB-HBM3",
    "clockMHz": 1188,
    "maxClockMHz": 1980,
    "temperatureC": 88,
    "powerWatts": 410.5,
    "throttleReasons": ["HwThermalSlowdown", "SwPowerCap"],
    "busy": 0.93,
}


def write(path: Path, *gpus: Any) -> Path:
    path.write_text(json.dumps({"gpus": list(gpus)}))
    return path


@asynccontextmanager
async def serve(reader: Any) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(Agent("node-1", reader).make_app())) as client:
        yield client


async def test_the_process_serves_and_ends_when_told(tmp_path: Path) -> None:
    address = next_address()
    environment = {
        **os.environ,
        "POD_IP": address,
        "NODE_NAME": "node-1",
        "SHOAL_GPU_STATE_FILE": str(write(tmp_path / "gpus.json", HOT)),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "shoal.telemetry.agent", env=environment)
    source, target = DirectSource(), AgentTarget("node-1", address)
    try:

        async def answers() -> bool:
            return target in await source.read_agents([target])

        await wait_until(answers)
        [reading] = (await source.read_agents([target]))[target]
        assert (reading.uuid, reading.clock_mhz, reading.busy) == ("GPU-1", 1188, 0.93)
        assert reading.faults == ("HwThermalSlowdown",)
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}:{PORT}/healthz") as response:
            assert response.status == 200
        write(tmp_path / "gpus.json", {**HOT, "clockMHz": 1980})
        [reading] = (await source.read_agents([target]))[target]
        assert reading.clock_mhz == 1980
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        await source.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_answer_is_as_agreed(tmp_path: Path) -> None:
    async with serve(StateFileReader(write(tmp_path / "gpus.json", HOT), now=lambda: 5.0)) as client:
        answer = await (await client.get("/v1/gpus")).json()
    assert answer == {"node": "node-1", "gpus": [{**HOT, "readAt": 5.0}]}


async def test_prometheus_is_told_the_same(tmp_path: Path) -> None:
    cold = {"uuid": "GPU-2", "index": 1}
    async with serve(StateFileReader(write(tmp_path / "gpus.json", HOT, cold))) as client:
        page = await (await client.get("/metrics")).text()
    samples = {
        (sample.name, sample.labels["uuid"], sample.labels.get("reason")): sample
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["shoal_gpu_clock_mhz", "GPU-1", None].value == 1188
    assert samples["shoal_gpu_throttled", "GPU-1", "HwThermalSlowdown"].labels["fault"] == "true"
    assert samples["shoal_gpu_throttled", "GPU-1", "SwPowerCap"].labels["fault"] == "false"
    assert not any(uuid == "GPU-2" for _, uuid, _ in samples)  # of which nothing is known


@pytest.mark.parametrize("text", ["", "[]", "{", '{"gpu": []}', "null"])
async def test_a_file_that_is_none_is_an_error_and_the_process_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gpus.json"
    path.write_text(text)
    async with serve(StateFileReader(path)) as client:
        response = await client.get("/v1/gpus")
        assert response.status == 503
        assert "gpus.json" in await response.text()
        assert (await client.get("/metrics")).status == 503
        assert (await client.get("/healthz")).status == 200
        write(path, HOT)
        assert (await client.get("/v1/gpus")).status == 200


async def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    async with serve(StateFileReader(tmp_path / "nothing.json")) as client:
        assert (await client.get("/v1/gpus")).status == 503


async def test_a_driver_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ANSWER_SECONDS", 0.1)
    answer, asked = threading.Event(), []

    class Hanging:
        def read(self) -> tuple[GpuReading, ...]:
            asked.append(1)
            answer.wait(10)
            return (GpuReading("GPU-1", 0),)

    async with serve(Hanging()) as client:
        for _ in range(3):
            assert (await client.get("/v1/gpus")).status == 503
        assert len(asked) == 1
        answer.set()

        async def answers() -> bool:
            return (await client.get("/v1/gpus")).status == 200

        await wait_until(answers)


def test_readings_survive_the_way_there() -> None:
    readings = parse_readings([HOT], read_at=3.0)
    assert parse_readings([make_json(reading) for reading in readings]) == readings


def test_the_reader_is_chosen_by_the_environment(tmp_path: Path) -> None:
    assert isinstance(make_reader({}), NvmlReader)
    assert isinstance(make_reader({"SHOAL_GPU_STATE_FILE": ""}), NvmlReader)
    assert isinstance(make_reader({"SHOAL_GPU_STATE_FILE": str(tmp_path)}), StateFileReader)
