"""Child processes that never outlive us."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Ask the kernel to kill the calling process with the thread that started it (call between fork and exec)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Make the calling process the parent of its descendants' orphans, so that `kill_strays` finds them."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def children(parent: int) -> list[int]:
    """Return the processes whose parent is `parent` (from /proc: not every kernel keeps lists of children)."""
    found = []
    for pid in _all_processes():
        with suppress(OSError):
            # "pid (name) state parent ...": the name may hold spaces and brackets, hence the last one.
            if int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1]) == parent:
                found.append(pid)
    return found


def find_by_environment(name: str, value: str) -> list[int]:
    """Return our user's processes that were started with this variable."""
    marker = f"{name}={value}".encode()
    found = []
    for pid in _all_processes():
        with suppress(OSError):
            if marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def end_with_parent() -> None:
    """As `die_with_parent`, but with SIGTERM: for a process that has children of its own to end."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def kill_tree(pid: int) -> None:
    """Kill a process and its descendants; each is stopped first, so that it starts no other meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    for child in children(pid):
        kill_tree(child)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_strays(keep: Collection[int]) -> None:
    """Kill and reap our children other than `keep`: orphans that we adopted."""
    for child in children(os.getpid()):
        if child not in keep:
            kill_tree(child)
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def reap_strays(keep: Collection[int]) -> None:
    """Reap those of our children other than `keep` that have ended: orphans that we adopted."""
    for child in children(os.getpid()):
        if child not in keep:
            with suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def signal_group(pid: int, number: int) -> None:
    """Signal the process group led by `pid`; a group that is gone is no error."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


async def spawn(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    before_exec: Callable[[], None] = die_with_parent,
) -> asyncio.subprocess.Process:
    """Start `command` in a session of its own, its output appended to `log`."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            preexec_fn=before_exec,
        )


async def stop(process: asyncio.subprocess.Process, *, grace: float) -> None:
    """Ask a process to end; after `grace` seconds end its whole group."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace)
    signal_group(process.pid, signal.SIGKILL)
    await process.wait()
