"""Where the operator is measured: a real control plane, hollow nodes, the chart's permissions, the operator itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.chart import NAMESPACE, Installation, install
from bench.machine import CHECKOUT
from bench.processes import Usage, read_usage
from e2e.devcluster import Config, DevCluster

READY_SECONDS = 120.0
XDS_PORT = 18000
_STOP_SECONDS = 20.0
# The control plane shares this machine with what is measured; its Go programs collect garbage a quarter as often, for
# memory that is there. Without it the API server takes half as much CPU again.
_CONTROL_PLANE_GOGC = "400"
# Addresses of the slot that neither the control plane (.0.1) nor a node (from .0.10) has.
_OPERATOR_HOST = 5


class StageError(RuntimeError):
    """The stage could not be set, or the operator ended; the message says where to look."""


class Hollow:
    """The process of the hollow nodes."""

    def __init__(self, cluster: DevCluster, log: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "bench.hollow", str(cluster.admin_kubeconfig_path)]
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*command, "--slot", str(cluster.state.slot), *arguments],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._read()

    def set_rate(self, service: str, rate: float) -> float:
        """Change the rate of `namespace/name`; return when that was done (seconds of the system's monotonic clock)."""
        return float(self.ask({"service": service, "rate": rate})["at"])

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Send a command and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def usage(self) -> Usage:
        """What the hollow nodes cost."""
        return read_usage(self._process.pid)

    def stop(self) -> None:
        """End it and wait."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        _end(self._process)
        self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise StageError(f"the hollow nodes ended; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Operator:
    """`python -m shoal.reconciler` as the chart runs it, but as a child of ours."""

    def __init__(self, kubeconfig: Path, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.started_at = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shoal.reconciler"],
                cwd=CHECKOUT,
                env={"PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def usage(self) -> Usage:
        """What it costs. Raises StageError when it has ended."""
        if self._process.poll() is not None:
            raise StageError(f"the operator ended with {self._process.returncode}; see {self.log}")
        return read_usage(self.pid)

    def stop(self) -> None:
        """End it and wait."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        _end(self._process)


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Stage:
    """A cluster with hollow nodes and Shoal installed, its operator not yet started."""

    cluster: DevCluster
    hollow: Hollow
    installation: Installation
    logs: Path
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def operator_user(self) -> str:
        """As whom the operator's writes stand in the audit log."""
        return f"system:serviceaccount:{NAMESPACE}:{self.installation.service_account}"

    def start_operator(self, **environment: str) -> Operator:
        """Start an operator (one at a time: it listens on fixed ports). It is stopped with the stage."""
        kubeconfig = self.cluster.service_account_kubeconfig(NAMESPACE, self.installation.service_account)
        settings = {**self.installation.environment(operator_address(self.cluster)), **environment}
        operator = Operator(kubeconfig, settings, self.logs / "operator.log")
        self._stack.callback(operator.stop)
        return operator


def operator_address(cluster: DevCluster) -> str:
    """The loopback address that stands for the operator's pod."""
    return f"127.{cluster.state.slot}.0.{_OPERATOR_HOST}"


@contextmanager
def open_stage(directory: Path, *hollow_arguments: str) -> Iterator[Stage]:
    """Start a control plane and hollow nodes, and install the chart without its Deployment; end all of it."""
    directory.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("GOGC", _CONTROL_PLANE_GOGC)
    with ExitStack() as stack:
        cluster = stack.enter_context(DevCluster(Config(nodes=()), directory=directory / "cluster"))
        installation = install(cluster, xds_address=f"{operator_address(cluster)}:{XDS_PORT}")
        xds = ("--xds", f"{operator_address(cluster)}:{XDS_PORT}")
        hollow = Hollow(cluster, directory / "hollow.log", *xds, *hollow_arguments)
        stack.callback(hollow.stop)
        yield Stage(cluster, hollow, installation, directory, stack)
