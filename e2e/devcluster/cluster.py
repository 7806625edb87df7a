"""`DevCluster`: the embedded cluster for tests and the demo, as a context manager."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from e2e.devcluster import control
from e2e.devcluster.access import Cluster
from e2e.devcluster.binary import Progress, ensure_binary, print_progress
from e2e.devcluster.config import Config
from e2e.devcluster.controlplane import START_SECONDS
from e2e.devcluster.state import State, is_alive, read_json, read_state, state_root

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class DevClusterError(RuntimeError):
    """The cluster could not be started, or none runs where one was expected; the message says what to do."""


class DevCluster(Cluster):
    """A control plane and, when the configuration names nodes, a node agent; all of it ends with the last user.

    `with DevCluster() as cluster:` starts one and stops it at the end. Processes that name the same `directory` share
    one cluster: the first starts it and the last to leave stops it. `DevCluster.attach(name)` uses one started by
    `python -m e2e.devcluster up` and never stops it.
    """

    def __init__(
        self, config: Config | None = None, *, directory: Path | None = None, progress: Progress = print_progress
    ) -> None:
        self.config = config or Config()
        self.directory = directory or state_root() / f"session-{os.getpid()}-{time.monotonic_ns():x}"
        super().__init__(self.directory / "kubeconfig", self.directory)
        self._throw_away = directory is None
        self._progress = progress
        self._lifeline: int | None = None

    @classmethod
    def attach(cls, name: str = "default") -> Self:
        """Use the running cluster of this name. Raises DevClusterError when there is none."""
        cluster = cls(directory=state_root() / name)
        cluster.config = Config.from_mapping(read_json(cluster.directory / "config.json") or {})
        _ = cluster.state
        return cluster

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the cluster, or join the one that runs in `directory`. Raises DevClusterError and BuildError."""
        ensure_binary(self._progress)
        self.directory.mkdir(parents=True, exist_ok=True)
        with control.locked(self.directory / "lock"):
            if not self._join():
                self._launch()
        return self

    def stop(self) -> None:
        """Leave the cluster; the last to leave stops it and, where no directory was given, removes its files."""
        if self._lifeline is None:
            return
        state = read_state(self.directory)
        os.close(self._lifeline)
        self._lifeline = None
        if self._throw_away and state is not None:
            wait_until(lambda: not is_alive(state.pid), "the devcluster does not stop")
            shutil.rmtree(self.directory, ignore_errors=True)

    def _join(self) -> bool:
        """Hold the lifeline of the cluster that runs in our directory, if one does."""
        if read_state(self.directory) is None:
            return False
        with suppress(OSError):
            self._lifeline = os.open(self.directory / "lifeline", os.O_WRONLY | os.O_NONBLOCK)
        return self._lifeline is not None and read_state(self.directory) is not None

    def _launch(self) -> None:
        fifo = self.directory / "lifeline"
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
        # Opened for both ends, so that the supervisor never finds it without a writer.
        self._lifeline = os.open(fifo, os.O_RDWR)
        launch_supervisor(self.directory, self.config)

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the running cluster says of itself. Raises DevClusterError when it does not run."""
        state = read_state(self.directory)
        if state is None:
            raise DevClusterError(
                f"no devcluster runs in {self.directory}: start one with `python -m e2e.devcluster up`"
            )
        return state

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self.state.server

    @property
    def audit_log(self) -> Path:
        """Every write that reached the API server, one JSON event a line."""
        return self.directory / "logs" / "audit.log"

    def gpu_state_path(self, node: str) -> Path:
        """JSON file with the state of a node's simulated GPUs (docs/architecture.md "GPU state")."""
        return self.directory / "gpus" / f"{node}.json"

    # -- the node agent --------------------------------------------------------------------------------------------

    def set_clock(self, node: str, index: int, ratio: float) -> None:
        """Run a simulated GPU at `ratio` (0 to 1) of its maximum clock from now on, as heat would make it."""
        control.send(self.directory, {"do": "heat", "node": node, "index": index, "ratio": ratio})

    def kill(self, namespace: str, pod: str, *, container: str | None = None, number: int = signal.SIGKILL) -> int:
        """Signal a container's process (the only or first one unless named) from outside; return its process id."""
        wish = {"do": "kill", "namespace": namespace, "pod": pod, "container": container, "signal": int(number)}
        return int(control.send(self.directory, wish)["pid"])

    def fail_node(self, node: str) -> None:
        """Lose a node: its processes die and its heartbeats stop (NotReady after 20 s) until `heal_node`."""
        control.send(self.directory, {"do": "fail-node", "node": node})

    def hide_gpu(self, node: str, index: int, *, hidden: bool = True) -> None:
        """Stop (or resume) the readings of a simulated GPU, as when its driver lost it."""
        control.send(self.directory, {"do": "hide-gpu", "node": node, "index": index, "hidden": hidden})

    def heal_node(self, node: str) -> None:
        """Bring a lost node back, as after a reboot."""
        control.send(self.directory, {"do": "heal-node", "node": node})

    def pod_log(self, namespace: str, pod: str, container: str | None = None) -> Path:
        """File with the output of a container's present run."""
        wish = {"do": "log-path", "namespace": namespace, "pod": pod, "container": container}
        return Path(control.send(self.directory, wish)["path"])

    def restart_agent(self) -> None:
        """Kill the node agent and wait for its successor: every node reboots, so its pods' containers start again."""
        old = read_json(self.directory / "agent.json")["pid"]
        os.kill(old, signal.SIGKILL)
        path = self.directory / "agent.json"
        wait_until(lambda: (read_json(path) or {}).get("pid", old) != old, "the node agent does not come back")


def launch_supervisor(directory: Path, config: Config) -> int:
    """Start the process that owns the cluster in `directory`, wait until it serves, return its process id.

    Raises DevClusterError with the end of its log.
    """
    (directory / "state.json").unlink(missing_ok=True)
    (directory / "config.json").write_text(config.to_json())
    (directory / "logs").mkdir(exist_ok=True)
    log = directory / "logs" / "supervisor.log"
    with log.open("ab") as errors:
        # It detaches itself and says under which process id, so that nobody here has to reap it.
        command = [sys.executable, "-m", "e2e.devcluster.supervisor", str(directory)]
        started = subprocess.run(
            command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, check=True
        )
    pid = int(started.stdout)
    deadline = time.monotonic() + START_SECONDS
    while read_state(directory) is None:
        if not is_alive(pid) or time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise DevClusterError(f"the devcluster did not start; the end of {log}:\n{tail}")
        time.sleep(0.05)
    return pid


def stop_cluster(directory: Path) -> bool:
    """Stop the cluster in `directory` and wait until it is gone; False when none ran."""
    state = read_state(directory)
    if state is None:
        return False
    os.kill(state.pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(state.pid), "the devcluster does not stop")
    return True


def wait_until(holds: Callable[[], bool], complaint: str, *, timeout: float = 60.0) -> None:
    """Wait until a condition holds. Raises DevClusterError with `complaint` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise DevClusterError(f"{complaint} (waited {timeout:.0f} s)")
        time.sleep(0.05)
