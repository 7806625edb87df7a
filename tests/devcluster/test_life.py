"""Nothing outlives its devcluster, and the command line does what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from devcluster_pods import Pods, python

from e2e.devcluster import Config, DevCluster, NodeConfig
from e2e.devcluster.cli import main
from e2e.devcluster.cluster import wait_until
from e2e.devcluster.others import open_cluster
from e2e.devcluster.state import is_alive

pytestmark = pytest.mark.cluster

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[2]
# A container whose child leaves its process group, as daemons do.
DAEMON = """
import os, time
pid = os.fork()
if pid == 0:
    os.setsid()
    time.sleep(600)
print(os.getpid(), pid, flush=True)
time.sleep(600)
"""


def test_pods_end_with_the_supervisor(tmp_path: Path) -> None:
    config = Config(nodes=(NodeConfig("only"),))
    with DevCluster(config, directory=tmp_path / "cluster") as cluster:
        pods = Pods(cluster, "default")
        pods.make("daemon", python(DAEMON))
        pods.wait_ready("daemon")
        wait_until(lambda: pods.log("daemon") != "", "the pod says nothing")
        pids = [cluster.state.pid, *map(int, pods.log("daemon").split())]
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pid) for pid in pids), f"outlived their cluster: {pids}", timeout=20)


def test_the_end_of_a_container_ends_its_children(devcluster: DevCluster, pods: Pods) -> None:
    pods.make("daemon", python(DAEMON), restartPolicy="Never")
    pods.wait_ready("daemon")
    wait_until(lambda: pods.log("daemon") != "", "the pod says nothing")
    main, child = map(int, pods.log("daemon").split())
    devcluster.kill(pods.namespace, "daemon", number=signal.SIGTERM)
    wait_until(lambda: not is_alive(main) and not is_alive(child), "the child outlived its container")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in process: exit status, output, errors."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run_main(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return (code, *capfd.readouterr())

    return run_main


def test_the_command_line(tmp_path: Path, run: Run) -> None:
    assert run("status")[0] == 3
    bad = tmp_path / "bad.yaml"
    bad.write_text("nodes: [{name: a, gpus: 2}]")
    code, _, errors = run("up", "--config", str(bad))
    assert code == 1
    assert "no accelerator" in errors
    config = tmp_path / "config.yaml"
    config.write_text("nodes: [{name: n1, accelerator: NVIDIA-L4, gpus: 1, memory: 24Gi, claim: dra}]")
    _, kubeconfig, errors = run("up", "--name", "cli", "--config", str(config))
    try:
        assert Path(kubeconfig.strip()).exists(), errors
        assert run("--name", "cli", "heat", "n1", "0", "0.5")[0] == 0
        status = json.loads(run("status", "--name", "cli", "-o", "json")[1])
        assert status["nodes"][0]["readings"][0]["clockMHz"] == 1020
        assert "1020 MHz" in run("status", "--name", "cli")[1]
        code, _, errors = run("kill", "default/nobody", "--name", "cli")
        assert code == 1
        assert "default/nobody" in errors
    finally:
        stopped = run("down", "--name", "cli")
    assert stopped[0] == 0
    assert run("status", "--name", "cli")[0] == 3


def test_the_module_runs() -> None:
    command = [sys.executable, "-m", "e2e.devcluster", "--help"]
    helped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "heat" in helped.stdout


def test_other_clusters_are_never_assumed(run: Run) -> None:
    code, _, errors = run("up", "--cluster", "context")
    assert code == 1
    assert "--context NAME" in errors
    assert "kubectl config get-contexts" in run("up", "--cluster", "context", "--context", "nowhere")[2]


def test_a_named_context_works_as_a_cluster(
    control_plane: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}{os.pathsep}{control_plane.admin_kubeconfig_path}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with open_cluster("context", context=control_plane.state.name) as cluster:
        assert cluster.request("GET", "/api/v1/namespaces/default")["metadata"]["name"] == "default"
