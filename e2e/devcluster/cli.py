"""`python -m e2e.devcluster`: a cluster to try things on, and to break them.

Exit status: 0 done, 1 it failed (the message says what to do), 2 wrong arguments, 3 no such cluster runs.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from e2e.devcluster.access import Cluster
from e2e.devcluster.binary import BuildError, ensure_binary
from e2e.devcluster.client import ApiError
from e2e.devcluster.cluster import DevCluster, DevClusterError, launch_supervisor, stop_cluster
from e2e.devcluster.config import Config, ConfigError
from e2e.devcluster.control import ControlError
from e2e.devcluster.others import open_cluster
from e2e.devcluster.state import read_json, read_state, state_root

Arguments = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    chosen = _make_parser().parse_args(arguments)
    run: Callable[[Arguments], int] = chosen.run
    try:
        return run(chosen)
    except NotRunningError as error:
        print(error, file=sys.stderr)
        return 3
    except (ApiError, BuildError, ConfigError, ControlError, DevClusterError) as error:
        print(error, file=sys.stderr)
        return 1


class NotRunningError(Exception):
    """No embedded cluster of this name runs."""


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.devcluster", description=__doc__.partition("\n")[0])
    parser.add_argument("--name", default="default", help="which cluster (default: %(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = _adder(commands)
    up = add("up", _up, "start a cluster and print its kubeconfig's path")
    up.add_argument("--config", type=Path, help="YAML: nodes, images, environment (see README.md)")
    up.add_argument("--foreground", action="store_true", help="run until Ctrl-C")
    up.add_argument("--cluster", choices=["embedded", "kind", "context"], default="embedded")
    up.add_argument("--context", help="with --cluster context: the kubeconfig's context to use")
    add("down", _down, "stop the cluster").add_argument("--cluster", choices=["embedded", "kind"], default="embedded")
    add("status", _status, "say what runs").add_argument("-o", "--output", choices=["table", "json"], default="table")
    add("logs-dir", _logs_dir, "print where the logs of components and pods are")
    heat = add("heat", _heat, "run a simulated GPU below its clock")
    heat.add_argument("node")
    heat.add_argument("index", type=int)
    heat.add_argument("ratio", type=float, help="share of the maximum clock, above 0 to 1")
    kill = add("kill", _kill, "signal a container's process from outside")
    kill.add_argument("pod", metavar="NAMESPACE/POD")
    kill.add_argument("--container", help="default: the first main container")
    kill.add_argument("--signal", type=int, default=int(signal.SIGKILL), help="number (default: 9)")
    return parser


def _adder(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> Callable[[str, Callable[[Arguments], int], str], argparse.ArgumentParser]:
    def add(name: str, run: Callable[[Arguments], int], help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text)
        # Accepted after the command too; SUPPRESS keeps what was given before it.
        command.add_argument("--name", default=argparse.SUPPRESS, help="which cluster (default: default)")
        command.set_defaults(run=run)
        return command

    return add


def _running(chosen: Arguments) -> DevCluster:
    if read_state(state_root() / chosen.name) is None:
        start = "python -m e2e.devcluster up" + (f" --name {chosen.name}" if chosen.name != "default" else "")
        raise NotRunningError(f"no devcluster {chosen.name!r} runs; start one: {start}")
    return DevCluster.attach(chosen.name)


def _up(chosen: Arguments) -> int:
    if chosen.cluster != "embedded":
        return _print_kubeconfig(open_cluster(chosen.cluster, name=chosen.name, context=chosen.context).start())
    directory = state_root() / chosen.name
    if read_state(directory) is None:
        config = Config.load(chosen.config) if chosen.config else Config()
        ensure_binary()
        directory.mkdir(parents=True, exist_ok=True)
        # Left by a session that ended with its last user; this cluster stays until `down`.
        (directory / "lifeline").unlink(missing_ok=True)
        launch_supervisor(directory, config)
    _print_kubeconfig(DevCluster.attach(chosen.name))
    if chosen.foreground:
        _wait_in_foreground(directory)
    return 0


def _print_kubeconfig(cluster: Cluster) -> int:
    print(cluster.admin_kubeconfig_path)
    return 0


def _wait_in_foreground(directory: Path) -> None:
    """Stay until the cluster ends or we are told to; then it ends with us."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print("running; Ctrl-C stops it", file=sys.stderr)
    try:
        while read_state(directory) is not None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        stop_cluster(directory)


def _down(chosen: Arguments) -> int:
    if chosen.cluster == "kind":
        open_cluster("kind", name=chosen.name).stop()
    elif not stop_cluster(state_root() / chosen.name):
        print(f"no devcluster {chosen.name!r} runs", file=sys.stderr)
    return 0


def _status(chosen: Arguments) -> int:
    cluster = _running(chosen)
    if chosen.output == "json":
        nodes = [{**asdict(node), "readings": _readings(cluster, node.name)} for node in cluster.config.nodes]
        print(json.dumps({**asdict(cluster.state), "nodes": nodes}, indent=2))
        return 0
    state = cluster.state
    print(f"{state.name}: {state.server} (process {state.pid})\nexport KUBECONFIG={state.kubeconfig}")
    for node in cluster.config.nodes:
        print(f"{node.name:<12} {node.accelerator or 'no GPU'} {node.claim if node.gpus else ''}")
        for gpu in _readings(cluster, node.name):
            reasons = ",".join(gpu["throttleReasons"])
            print(f"  gpu-{gpu['index']} {gpu['clockMHz']:>5} MHz {gpu['temperatureC']:>5.1f} °C {reasons}")
    return 0


def _readings(cluster: DevCluster, node: str) -> list[dict[str, Any]]:
    """Return the last readings of a node's simulated GPUs."""
    readings: list[dict[str, Any]] = (read_json(cluster.gpu_state_path(node)) or {}).get("gpus", [])
    return readings


def _logs_dir(chosen: Arguments) -> int:
    directory = state_root() / chosen.name
    print(directory / "logs")
    print(directory / "pod-logs")
    return 0


def _heat(chosen: Arguments) -> int:
    _running(chosen).set_clock(chosen.node, chosen.index, chosen.ratio)
    return 0


def _kill(chosen: Arguments) -> int:
    namespace, slash, pod = chosen.pod.partition("/")
    if not slash:
        raise DevClusterError(f"name the pod as NAMESPACE/POD, not {chosen.pod!r}")
    pid = _running(chosen).kill(namespace, pod, container=chosen.container, number=chosen.signal)
    print(f"signal {chosen.signal} sent to process {pid}")
    return 0
