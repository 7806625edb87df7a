"""How commands reach the node agent: JSON lines over a unix socket in the cluster's directory."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("control")

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class ControlError(RuntimeError):
    """The node agent cannot be reached, or it refused the command."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _short_path(directory: Path) -> Iterator[str]:
    """Name the socket through a descriptor: a unix socket's path must be shorter than many test directories."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/agent.sock"
    finally:
        os.close(descriptor)


def send(directory: Path, command: dict[str, Any], *, timeout: float = 30.0) -> dict[str, Any]:
    """Have the node agent do something and return its answer. Raises ControlError."""
    with _short_path(directory) as path, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
            connection.sendall(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline() or "{}")
        except (OSError, ValueError) as error:
            raise ControlError(f"the node agent in {directory} does not answer: {error}") from error
    if "error" in answer:
        raise ControlError(answer["error"])
    return answer


async def serve(directory: Path, handle: Handler) -> asyncio.Server:
    """Answer commands with what `handle` returns; its ValueError and LookupError become the caller's ControlError."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply = await handle(json.loads(await reader.readline()))
        except (ValueError, LookupError) as error:
            reply = {"error": str(error.args[0]) if error.args else type(error).__name__}
        except Exception as error:
            log.exception("a command failed")
            reply = {"error": f"{type(error).__name__}: {error}"}
        writer.write(json.dumps(reply).encode() + b"\n")
        await writer.drain()
        writer.close()

    (directory / "agent.sock").unlink(missing_ok=True)
    with _short_path(directory) as path:
        return await asyncio.start_unix_server(answer, path)
