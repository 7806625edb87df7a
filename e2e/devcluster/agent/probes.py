"""Probes and lifecycle hooks: httpGet, tcpSocket, exec, sleep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from e2e.devcluster import processes
from e2e.devcluster.agent.environment import ContainerConfigError
from e2e.devcluster.agent.runs import Run
from e2e.devcluster.client import Object

_OUTPUT_BYTES = 1024


@dataclass(frozen=True)
class Target:
    """The container a handler is aimed at: the pod's address, ports by name, its present run."""

    address: str
    ports: Mapping[str, int]
    run: Run
    session: aiohttp.ClientSession


@dataclass(frozen=True)
class Result:
    """What a handler found; `message` is what an Event shows of a failure."""

    good: bool
    message: str = ""


async def perform(handler: Object, target: Target, timeout: float) -> Result:
    """Run one handler of a probe or hook within `timeout` seconds; every failure is a Result."""
    try:
        return await asyncio.wait_for(_perform(handler, target), timeout)
    except TimeoutError:
        return Result(False, f"timed out after {timeout:g} s")
    except (aiohttp.ClientError, OSError, ContainerConfigError, ValueError) as error:
        return Result(False, str(error) or type(error).__name__)


async def _perform(handler: Object, target: Target) -> Result:
    if "httpGet" in handler:
        return await _http(handler["httpGet"], target)
    if "tcpSocket" in handler:
        check = handler["tcpSocket"]
        _, writer = await asyncio.open_connection(check.get("host") or target.address, _port(check, target))
        writer.close()
        return Result(True)
    if "exec" in handler:
        return await _execute(handler["exec"]["command"], target.run)
    if "sleep" in handler:
        await asyncio.sleep(handler["sleep"]["seconds"])
        return Result(True)
    raise ContainerConfigError(f"the devcluster does not know the handler {sorted(handler)}")


def _port(check: Object, target: Target) -> int:
    port = check["port"]
    if isinstance(port, str) and not port.isdigit():
        if port not in target.ports:
            raise ContainerConfigError(f"the container has no port named {port!r}")
        return target.ports[port]
    return int(port)


async def _http(check: Object, target: Target) -> Result:
    host = check.get("host") or target.address
    url = f"{check.get('scheme', 'HTTP').lower()}://{host}:{_port(check, target)}{check.get('path') or '/'}"
    headers = {header["name"]: header["value"] for header in check.get("httpHeaders") or []}
    headers = {"User-Agent": "kube-probe/devcluster", "Connection": "close", **headers}
    async with target.session.get(url, headers=headers, ssl=False, allow_redirects=False) as response:
        good = 200 <= response.status < 400
        return Result(good, "" if good else f"HTTP probe failed with statuscode: {response.status}")


async def _execute(command: list[str], run: Run) -> Result:
    call = run.invocation
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(call.environment),
        cwd=call.directory,
        start_new_session=True,
        preexec_fn=processes.die_with_parent,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        processes.signal_group(process.pid, 9)
        with suppress(ProcessLookupError):
            process.kill()
        raise
    return Result(process.returncode == 0, output[-_OUTPUT_BYTES:].decode(errors="replace"))


async def conclusions(probe: Object, target: Target, *, initially: bool | None) -> AsyncIterator[Result]:
    """Perform a probe for ever and yield a Result whenever its thresholds say that the container turned.

    `initially` is what holds before the first result; None: the first conclusion is always yielded.
    """
    await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
    period = probe.get("periodSeconds") or 10
    thresholds = {True: probe.get("successThreshold") or 1, False: probe.get("failureThreshold") or 3}
    holds, streak, last = initially, 0, None
    while True:
        result = await perform(probe, target, probe.get("timeoutSeconds") or 1)
        streak = streak + 1 if result.good == last else 1
        last = result.good
        if result.good != holds and streak >= thresholds[result.good]:
            holds = result.good
            yield result
        await asyncio.sleep(period)
