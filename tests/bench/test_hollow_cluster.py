"""Hollow nodes on the real control plane: pods are scheduled, run, answer, and go."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from bench.stage import Hollow
from e2e.devcluster import Config, DevCluster

pytestmark = pytest.mark.cluster

PODS = "/api/v1/namespaces/team/pods"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    # A control plane of its own: these nodes would attract the pods of other tests.
    with DevCluster(Config(nodes=()), directory=tmp_path_factory.mktemp("hollow") / "cluster") as cluster:
        hollow = Hollow(cluster, cluster.directory / "hollow.log", "--rate", "50", "--startup-seconds", "0.1")
        cluster.create_namespace("team")
        yield cluster
        hollow.stop()


def make_pod(name: str, *, component: str, claim: str | None = None, sidecar: bool = False) -> dict[str, Any]:
    resources: dict[str, Any] = {"limits": {"nvidia.com/gpu": "1"}} if claim is None else {"claims": [{"name": "gpus"}]}
    engine = {"image": "vllm", "resources": resources}
    spec: dict[str, Any] = {"containers": [{"name": "engine-1" if sidecar else "engine-0", **engine}]}
    if sidecar:
        spec["initContainers"] = [{"name": "engine-0", "restartPolicy": "Always", **engine}]
    if claim is not None:
        spec["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": claim}]
    labels = {"app.kubernetes.io/component": component, "shoal.dev/model-service": "chat"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "team", "labels": labels},
        "spec": spec,
    }


def make_claim_template(name: str) -> dict[str, Any]:
    request = {
        "name": "gpus",
        "exactly": {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 1},
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def read(address: str, port: int) -> str:
    with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("claim", ["one-gpu", None], ids=["dra", "extended"])
def test_a_pod_with_a_gpu_becomes_ready_and_answers_as_vllm(cluster: DevCluster, claim: str | None) -> None:
    name = f"engine-{claim or 'extended'}"
    cluster.apply([*([make_claim_template(claim)] if claim else []), make_pod(name, component="engine", claim=claim)])
    pod = cluster.wait_for(f"{PODS}/{name}", is_ready)
    address = pod["status"]["podIP"]
    assert "vllm:num_requests_running" in read(address, 8000)
    cluster.request("DELETE", f"{PODS}/{name}")
    cluster.wait_until_gone(f"{PODS}/{name}")
    with pytest.raises(urllib.error.URLError):
        read(address, 8000)


def test_engines_that_share_a_pod_answer_on_their_own_ports(cluster: DevCluster) -> None:
    cluster.apply([make_claim_template("shared"), make_pod("two", component="engine", claim="shared", sidecar=True)])
    pod = cluster.wait_for(f"{PODS}/two", is_ready)
    statuses = pod["status"]["initContainerStatuses"] + pod["status"]["containerStatuses"]
    assert [(status["name"], status["ready"]) for status in statuses] == [("engine-0", True), ("engine-1", True)]
    for port in (8000, 8001):
        assert "vllm:request_success_total" in read(pod["status"]["podIP"], port)
    cluster.request("DELETE", f"{PODS}/two")
