"""The process that owns a devcluster: control plane and node agent are its children and end with it.

    python -m e2e.devcluster.supervisor DIRECTORY

reads `config.json` there, writes `state.json` once everything serves, and stops on SIGTERM or SIGINT, when a component
of the control plane ends, or when the last writer of the FIFO `lifeline` (if there is one) is gone: a test session
that was killed leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from e2e.devcluster import processes
from e2e.devcluster.addresses import Slot, claim_slot
from e2e.devcluster.binary import ensure_binary
from e2e.devcluster.config import Config
from e2e.devcluster.controlplane import ControlPlane, ControlPlaneError
from e2e.devcluster.state import State, read_json, write_state

log = logging.getLogger("supervisor")

# The agent kills its pods and leaves; only a stuck one needs longer.
_AGENT_GRACE = 10.0
_REAP_SECONDS = 5.0


class Supervisor:
    """Keeps one devcluster running until told to stop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = Config.from_mapping(read_json(directory / "config.json"))
        self._stopping = asyncio.Event()
        self._agent: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        """Start, serve, stop; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._watch_lifeline(loop)
        slot, guard = claim_slot()
        with guard:
            plane = ControlPlane(
                binary=ensure_binary(), directory=self._directory, slot=slot, name=self._directory.name
            )
            try:
                return await self._serve(plane, slot)
            except ControlPlaneError:
                log.exception("the control plane does not serve")
                return 1
            finally:
                await self._stop(plane)

    async def _serve(self, plane: ControlPlane, slot: Slot) -> int:
        starting = asyncio.ensure_future(self._start(plane, slot))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return 0
        starting.result()
        failing = asyncio.ensure_future(plane.wait_for_exit())
        keeping = asyncio.ensure_future(self._keep_agent(plane, slot))
        reaping = asyncio.ensure_future(self._reap(plane))
        await asyncio.wait([failing, stopping, keeping], return_when=asyncio.FIRST_COMPLETED)
        keeping.cancel()
        reaping.cancel()
        if not failing.done():
            failing.cancel()
            return 0
        log.error(plane.describe_failure(failing.result()))
        return 1

    async def _start(self, plane: ControlPlane, slot: Slot) -> None:
        await plane.start()
        for index, node in enumerate(self._config.nodes):
            plane.issue_kubelet(node.name, slot.node(index))
        if self._config.nodes:
            await self._start_agent(slot)
        state = State(
            name=self._directory.name,
            pid=os.getpid(),
            slot=slot.number,
            server=plane.server,
            kubeconfig=str(plane.kubeconfig),
            agent=bool(self._config.nodes),
        )
        write_state(self._directory, state)
        log.info("serving at %s", plane.server)

    async def _start_agent(self, slot: Slot) -> None:
        command = [sys.executable, "-m", "e2e.devcluster.agent", str(self._directory), str(slot.number)]
        self._agent = await processes.spawn(
            command, log=self._directory / "logs" / "agent.log", before_exec=processes.end_with_parent
        )
        while (read_json(self._directory / "agent.json") or {}).get("pid") != self._agent.pid:
            if self._agent.returncode is not None:
                raise ControlPlaneError(f"the node agent ended; see {self._directory / 'logs' / 'agent.log'}")
            await asyncio.sleep(0.05)

    async def _keep_agent(self, plane: ControlPlane, slot: Slot) -> None:
        """Start the node agent again whenever it ends, as an init system would."""
        while self._agent is not None:
            code = await self._agent.wait()
            log.warning("the node agent ended with %s: starting it again", code)
            processes.kill_strays(keep=plane.pids)
            await self._start_agent(slot)
        await asyncio.Event().wait()

    async def _reap(self, plane: ControlPlane) -> None:
        while True:
            await asyncio.sleep(_REAP_SECONDS)
            agent = set() if self._agent is None else {self._agent.pid}
            processes.reap_strays(keep=plane.pids | agent)

    async def _stop(self, plane: ControlPlane) -> None:
        (self._directory / "state.json").unlink(missing_ok=True)
        if self._agent is not None:
            await processes.stop(self._agent, grace=_AGENT_GRACE)
        await plane.stop()
        processes.kill_strays(keep=())

    def _watch_lifeline(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(FileNotFoundError):
            lifeline = os.open(self._directory / "lifeline", os.O_RDONLY | os.O_NONBLOCK)
            loop.add_reader(lifeline, self._read_lifeline, lifeline, loop)

    def _read_lifeline(self, lifeline: int, loop: asyncio.AbstractEventLoop) -> None:
        if not os.read(lifeline, 64):
            loop.remove_reader(lifeline)
            os.close(lifeline)
            self._stopping.set()


def main() -> int:
    """Detach, print the process id, and run the supervisor of the directory named on the command line."""
    pid = os.fork()
    if pid:
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    processes.adopt_orphans()
    return asyncio.run(Supervisor(Path(sys.argv[1])).run())


if __name__ == "__main__":
    sys.exit(main())
