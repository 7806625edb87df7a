"""Reads engines, routers and GPU agents themselves, all at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import aiohttp
from pydantic import ValidationError

from shoal.api.measurement import PROGRESS_PATH, Progress
from shoal.telemetry.engine_page import EnginePage, parse_engine_page
from shoal.telemetry.envoy_stats import QUERY, ClusterCounters, parse_stats_page
from shoal.telemetry.gpu import GpuReading, parse_readings
from shoal.telemetry.sources import EngineReading
from shoal.telemetry.targets import AgentTarget, EngineTarget, ProfilerTarget, RouterTarget

Target = TypeVar("Target", EngineTarget, RouterTarget, AgentTarget, ProfilerTarget)
Parsed = TypeVar("Parsed")

LARGEST_PAGE: Final = 8 << 20
"""Bytes. No page of ours comes near; a stranger behind a reused address may send anything."""


class DirectSource:
    """HTTP reads of every target, at most `concurrency` under way.

    `timeout_seconds` is for each connection and each silence of a target, not for the wait until its turn. One that is
    slow costs the others nothing: a round takes no longer than `round_seconds`, and who has not answered by then has
    not answered.
    """

    lag_seconds = 0.0

    def __init__(self, *, timeout_seconds: float = 2.0, round_seconds: float = 4.0, concurrency: int = 200) -> None:
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_seconds, sock_read=timeout_seconds)
        self._round_seconds = round_seconds
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None

    async def read_engines(self, targets: Sequence[EngineTarget]) -> Mapping[EngineTarget, EngineReading]:
        """Read `/metrics` of engines."""
        pages = await self._read_all(targets, "/metrics", {}, parse_engine_page)
        return {target: EngineReading(page) for target, page in pages.items() if page != EnginePage()}

    async def read_routers(
        self, targets: Sequence[RouterTarget]
    ) -> Mapping[RouterTarget, Mapping[str, ClusterCounters]]:
        """Read the statistics of Envoys."""
        return await self._read_all(targets, "/stats/prometheus", QUERY, parse_stats_page)

    async def read_agents(self, targets: Sequence[AgentTarget]) -> Mapping[AgentTarget, tuple[GpuReading, ...]]:
        """Read GPUs."""
        return await self._read_all(targets, "/v1/gpus", {}, _parse_gpus)

    async def read_profilers(self, targets: Sequence[ProfilerTarget]) -> Mapping[ProfilerTarget, Progress]:
        """Read how far measurements are."""
        pages = await self._read_all(targets, PROGRESS_PATH, {}, _parse_progress)
        return {target: progress for target, progress in pages.items() if progress is not None}

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _read_all(
        self, targets: Sequence[Target], path: str, query: Mapping[str, str], parse: Callable[[bytes], Parsed]
    ) -> dict[Target, Parsed]:
        results: dict[Target, Parsed] = {}

        async def read(target: Target) -> None:
            page = await self._get(target.address, target.port, path, query)
            if page is not None:
                results[target] = parse(page)

        if targets:
            tasks = [asyncio.create_task(read(target)) for target in targets]
            done, late = await asyncio.wait(tasks, timeout=self._round_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            for task in done:
                task.result()
        return results

    async def _get(self, address: str, port: int, path: str, query: Mapping[str, str]) -> bytes | None:
        """The body of a 200 answer, else None."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._open().get(f"http://{host}:{port}{path}", params=query, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                return await _read_body(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    def _open(self) -> aiohttp.ClientSession:
        """The session, made on first use: it belongs to the running event loop."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, trust_env=False)
        return self._session


async def _read_body(response: aiohttp.ClientResponse) -> bytes | None:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > LARGEST_PAGE:
            return None
    return bytes(body)


def _parse_gpus(page: bytes) -> tuple[GpuReading, ...]:
    try:
        answer = json.loads(page)
    except ValueError:
        return ()
    return parse_readings(answer.get("gpus")) if isinstance(answer, dict) else ()


def _parse_progress(page: bytes) -> Progress | None:
    try:
        return Progress.model_validate_json(page)
    except ValidationError:
        return None
