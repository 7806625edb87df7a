"""One run of one container: a process in a session of its own, its output in a file."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from e2e.devcluster import processes
from e2e.devcluster.agent.status import now
from e2e.devcluster.client import Object

# Every process of a container carries it, so that one which left the container's process group is still found.
CONTAINER_VARIABLE = "SHOAL_DEV_CONTAINER_ID"
# What a kubelet takes of a log as the termination message.
_MESSAGE_LINES, _MESSAGE_BYTES = 80, 2048
_FULL_MESSAGE_BYTES = 4096


@dataclass(frozen=True)
class Invocation:
    """What to run: argument vector, whole environment, working directory, where the output goes."""

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    message_file: Path


class Run:
    """A started process, or one that could not be started (`failure` says why; its exit code is then 127)."""

    def __init__(self, invocation: Invocation, container_id: str) -> None:
        self.invocation = invocation
        self.container_id = container_id
        self.started_at = now()
        self.failure: str | None = None
        self.ended = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the process; a command that cannot be executed is recorded, not raised."""
        call = self.invocation
        program = shutil.which(call.command[0], path=call.environment.get("PATH"))
        if program is None:
            self.failure = f"exec: {call.command[0]!r}: executable file not found in $PATH"
            return
        try:
            with call.log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    program,
                    *call.command[1:],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**call.environment, CONTAINER_VARIABLE: self.container_id},
                    cwd=call.directory,
                    start_new_session=True,
                    preexec_fn=processes.die_with_parent,
                )
        except OSError as error:
            self.failure = f"exec: {error}"

    async def wait(self) -> int:
        """Wait for the end; return the exit code as a container runtime would (128 + signal)."""
        if self._process is None:
            self.ended.set()
            return 127
        code = await self._process.wait()
        self._kill_leftovers()
        self.ended.set()
        return 128 - code if code < 0 else code

    def signal(self, number: int) -> None:
        """Signal the process alone, as a runtime does with a container's first process."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the whole process group at once."""
        if self._process is not None and self._process.returncode is None:
            processes.signal_group(self._process.pid, signal.SIGKILL)

    def _kill_leftovers(self) -> None:
        """End what the first process left behind, as the end of a container's process namespace does.

        The supervisor adopts and reaps orphans, but while it dies itself they are in nobody's hands for a moment: they
        are known by their environment, not by their parent.
        """
        if self._process is not None:
            processes.signal_group(self._process.pid, signal.SIGKILL)
        for pid in processes.find_by_environment(CONTAINER_VARIABLE, self.container_id):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def terminated_state(self, code: int, policy: str) -> Object:
        """Return the `terminated` state after the exit with `code`; `policy` is the terminationMessagePolicy."""
        reason = "StartError" if self.failure else ("Completed" if code == 0 else "Error")
        message = self.failure or read_message(self.invocation, code, policy)
        state = {
            "exitCode": code,
            "reason": reason,
            "startedAt": self.started_at,
            "finishedAt": now(),
            "containerID": self.container_id,
        }
        return {"terminated": {**state, "message": message} if message else state}


def make_container_id() -> str:
    """Return an id no other run has."""
    return f"shoal://{uuid.uuid4().hex}"


def read_message(invocation: Invocation, code: int, policy: str) -> str:
    """Return the termination message: the message file, or the end of the log of a failed run if `policy` says so."""
    if invocation.message_file.exists():
        written = invocation.message_file.read_bytes()[-_FULL_MESSAGE_BYTES:]
        if written:
            return written.decode(errors="replace")
    if code == 0 or policy != "FallbackToLogsOnError":
        return ""
    return read_tail(invocation.log, lines=_MESSAGE_LINES, limit=_MESSAGE_BYTES)


def read_tail(log: Path, *, lines: int, limit: int) -> str:
    """Return the last `lines` lines of a file, at most its last `limit` bytes."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:])
