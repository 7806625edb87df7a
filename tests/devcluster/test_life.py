"""Nothing outlives its devcluster, and the command line does what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from devcluster_pods import Pods, python

from e2e.devcluster import Config, DevCluster, NodeConfig
from e2e.devcluster.cluster import wait_until
from e2e.devcluster.state import is_alive

pytestmark = pytest.mark.cluster

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


def run(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "e2e.devcluster", *arguments]
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_line(tmp_path: Path) -> None:
    assert run(tmp_path, "status").returncode == 3
    bad = tmp_path / "bad.yaml"
    bad.write_text("nodes: [{name: a, gpus: 2}]")
    refused = run(tmp_path, "up", "--config", str(bad))
    assert refused.returncode == 1
    assert "no accelerator" in refused.stderr
    config = tmp_path / "config.yaml"
    config.write_text("nodes: [{name: n1, accelerator: NVIDIA-L4, gpus: 1, memory: 24Gi, claim: dra}]")
    started = run(tmp_path, "up", "--name", "cli", "--config", str(config))
    try:
        assert Path(started.stdout.strip()).exists(), started.stderr
        assert run(tmp_path, "--name", "cli", "heat", "n1", "0", "0.5").returncode == 0
        status = json.loads(run(tmp_path, "status", "--name", "cli", "-o", "json").stdout)
        assert status["nodes"][0]["readings"][0]["clockMHz"] == 1020
        assert "1020 MHz" in run(tmp_path, "status", "--name", "cli").stdout
        missing = run(tmp_path, "kill", "default/nobody", "--name", "cli")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "default/nobody" in missing.stderr
    finally:
        stopped = run(tmp_path, "down", "--name", "cli")
    assert stopped.returncode == 0
    assert run(tmp_path, "status", "--name", "cli").returncode == 3


def test_other_clusters_are_never_assumed(tmp_path: Path) -> None:
    unnamed = run(tmp_path, "up", "--cluster", "context")
    assert unnamed.returncode == 1
    assert "--context NAME" in unnamed.stderr
    unknown = run(tmp_path, "up", "--cluster", "context", "--context", "nowhere")
    assert "kubectl config get-contexts" in unknown.stderr


def test_a_named_context_works_as_a_cluster(
    control_plane: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from e2e.devcluster.others import open_cluster

    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}{os.pathsep}{control_plane.admin_kubeconfig_path}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with open_cluster("context", context=control_plane.state.name) as cluster:
        assert cluster.request("GET", "/api/v1/namespaces/default")["metadata"]["name"] == "default"
