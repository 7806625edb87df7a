"""The embedded control plane is the real one: versions, garbage collection, DRA, ServiceAccounts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.devcluster import ApiError, Config, DevCluster
from e2e.devcluster.binary import kubernetes_version

pytestmark = pytest.mark.cluster


def test_serves_the_pinned_version_and_dra(control_plane: DevCluster) -> None:
    assert control_plane.request("GET", "/version")["gitVersion"] == kubernetes_version()
    served = {r["name"] for r in control_plane.request("GET", "/apis/resource.k8s.io/v1")["resources"]}
    assert {"resourceclaims", "resourceclaimtemplates", "resourceslices", "devicetaintrules"} <= served


def test_apply_and_garbage_collection(control_plane: DevCluster) -> None:
    namespace = control_plane.create_namespace("gc")
    owner, owned = control_plane.apply(
        [_config_map("owner"), _config_map("owned")],
        namespace=namespace,
    )
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    owned_again = _config_map("owned") | {"metadata": {"name": "owned", "ownerReferences": [reference]}}
    control_plane.apply(owned_again, namespace=namespace)
    control_plane.delete(_config_map("owner"), namespace=namespace)
    control_plane.wait_until_gone(f"/api/v1/namespaces/{namespace}/configmaps/{owned['metadata']['name']}")


def test_service_accounts_have_their_own_rights_only(control_plane: DevCluster) -> None:
    namespace = control_plane.create_namespace("rights")
    path = control_plane.service_account_kubeconfig(namespace, "default")
    stranger = DevCluster(directory=control_plane.directory)
    stranger.admin_kubeconfig_path = path
    with pytest.raises(ApiError, match="cannot list resource") as refusal:
        stranger.request("GET", f"/api/v1/namespaces/{namespace}/pods")
    assert refusal.value.status == 403


def test_pod_security_is_enforced(control_plane: DevCluster) -> None:
    namespace = control_plane.create_namespace("strict", {"pod-security.kubernetes.io/enforce": "restricted"})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "careless"},
        "spec": {"containers": [{"name": "main", "image": "x"}]},
    }
    with pytest.raises(ApiError, match="violates PodSecurity"):
        control_plane.apply(pod, namespace=namespace)


def test_services_get_loopback_addresses(control_plane: DevCluster) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "loop"},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]},
    }
    (made,) = control_plane.apply(service)
    assert made["spec"]["clusterIP"].startswith("127.")


def test_a_cluster_ends_with_its_starter(tmp_path: Path) -> None:
    code = (
        "import os, pathlib\n"
        "from e2e.devcluster import Config, DevCluster\n"
        f"c = DevCluster(Config(nodes=()), directory=pathlib.Path({str(tmp_path / 'orphan')!r})).start()\n"
        "print(c.state.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    from e2e.devcluster.cluster import wait_until
    from e2e.devcluster.state import is_alive

    wait_until(lambda: not is_alive(pid), "the supervisor outlived its starter")
    assert not DevCluster(Config(nodes=()), directory=tmp_path / "orphan")._join()


def _config_map(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
