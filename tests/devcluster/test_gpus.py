"""GPUs: handed out once, by DRA claim and by extended resource; taints evict; heat shows."""

from __future__ import annotations

import json

import pytest
from devcluster_pods import SLEEP, Pods, python, status_of

from e2e.devcluster import Config, DevCluster, NodeConfig, Object
from e2e.devcluster.control import ControlError
from e2e.devcluster.state import read_json

pytestmark = pytest.mark.cluster

SHOW = "import json, os; print(json.dumps(dict(os.environ)), flush=True)\n"
CLAIM = {"name": "gpus", "resourceClaimTemplateName": "gpu"}


@pytest.fixture
def template(devcluster: DevCluster, namespace: str) -> Object:
    selector = {"cel": {"expression": "device.attributes['gpu.nvidia.com'].productName == 'NVIDIA H100 80GB HBM3'"}}
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com", "selectors": [selector]}}
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "gpu"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    return devcluster.apply(template, namespace=namespace)[0]


def environment(pods: Pods, name: str, container: str = "main") -> dict[str, str]:
    pods.wait_ready(name)
    pods.cluster.wait_for(pods.path(name), lambda _: pods.log(name, container).endswith("}\n"))
    found: dict[str, str] = json.loads(pods.log(name, container))
    return found


def slice_uuids(devcluster: DevCluster) -> dict[str, str]:
    (found,) = devcluster.request("GET", "/apis/resource.k8s.io/v1/resourceslices")["items"]
    return {device["name"]: device["attributes"]["uuid"]["string"] for device in found["spec"]["devices"]}


@pytest.mark.usefixtures("template")
def test_a_claim_gives_its_device_to_all_containers_that_name_it(devcluster: DevCluster, pods: Pods) -> None:
    held = {"resources": {"claims": [{"name": "gpus"}]}}
    side = python(SHOW + SLEEP, name="side", restartPolicy="Always", **held)
    pods.make("claim", python(SHOW + SLEEP, **held), initContainers=[side], resourceClaims=[CLAIM])
    main, side_environment = environment(pods, "claim"), environment(pods, "claim", "side")
    assert main["SHOAL_SIM_GPU_UUIDS"] == side_environment["SHOAL_SIM_GPU_UUIDS"]
    assert main["SHOAL_SIM_ACCELERATOR"] == "NVIDIA-H100-80GB-HBM3"
    claims = devcluster.request("GET", f"/apis/resource.k8s.io/v1/namespaces/{pods.namespace}/resourceclaims")["items"]
    (result,) = claims[0]["status"]["allocation"]["devices"]["results"]
    assert main["SHOAL_SIM_GPU_UUIDS"] == slice_uuids(devcluster)[result["device"]]
    readings = read_json(devcluster.gpu_state_path("gpu-a"))["gpus"]
    assert main["SHOAL_SIM_GPU_UUIDS"] in [reading["uuid"] for reading in readings]


@pytest.mark.usefixtures("template")
def test_a_device_taint_moves_the_pod(devcluster: DevCluster, pods: Pods) -> None:
    template = {
        "metadata": {"labels": {"app": "moved"}},
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [python(SHOW + SLEEP, resources={"claims": [{"name": "gpus"}]})],
            "resourceClaims": [CLAIM],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "moved"},
        "spec": {"selector": {"matchLabels": {"app": "moved"}}, "template": template},
    }
    devcluster.apply(deployment, namespace=pods.namespace)
    first = _only_ready(devcluster, pods, unlike=None)
    before = environment(pods, first)["SHOAL_SIM_GPU_UUIDS"]
    device = next(name for name, uuid in slice_uuids(devcluster).items() if uuid == before)
    rule = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {"name": f"hot-{pods.namespace}"},
        "spec": {
            "deviceSelector": {"driver": "gpu.nvidia.com", "pool": "gpu-a", "device": device},
            "taint": {"key": "shoal.dev/hot", "value": "true", "effect": "NoExecute"},
        },
    }
    devcluster.apply(rule)
    try:
        second = _only_ready(devcluster, pods, unlike=first)
        assert environment(pods, second)["SHOAL_SIM_GPU_UUIDS"] != before
    finally:
        devcluster.delete(rule)


def _only_ready(devcluster: DevCluster, pods: Pods, unlike: str | None) -> str:
    path = f"/api/v1/namespaces/{pods.namespace}/pods"

    def ready_names(listing: Object) -> list[str]:
        items = [p for p in listing["items"] if "deletionTimestamp" not in p["metadata"]]
        return [p["metadata"]["name"] for p in items if "running" in status_of(p)["state"]]

    found = devcluster.wait_for(path, lambda listing: bool(set(ready_names(listing)) - {unlike}), timeout=30)
    return next(name for name in ready_names(found) if name != unlike)


def test_extended_resources_are_handed_out_once(devcluster: DevCluster, pods: Pods) -> None:
    limit = {"resources": {"limits": {"nvidia.com/gpu": 2}}}
    for name in ("one", "two", "three"):
        pods.make(name, python(SHOW + SLEEP, **limit))
    pods.wait("three", lambda p: any(c.get("reason") == "Unschedulable" for c in p["status"].get("conditions", [])))
    held = [environment(pods, name)["SHOAL_SIM_GPU_UUIDS"].split(",") for name in ("one", "two")]
    assert len({uuid for uuids in held for uuid in uuids}) == 4
    pods.delete("one")
    assert sorted(environment(pods, "three")["SHOAL_SIM_GPU_UUIDS"].split(",")) == sorted(held[0])


def test_heat_lowers_the_clock_and_warms(devcluster: DevCluster) -> None:
    devcluster.set_clock("gpu-a", 3, 0.6)
    try:
        reading = read_json(devcluster.gpu_state_path("gpu-a"))["gpus"][3]
        assert (reading["clockMHz"], reading["maxClockMHz"]) == (1188, 1980)
        assert reading["throttleReasons"] == ["SwThermal"]
    finally:
        devcluster.set_clock("gpu-a", 3, 1.0)
    with pytest.raises(ControlError, match="no node 'nowhere'"):
        devcluster.set_clock("nowhere", 0, 0.5)
    with pytest.raises(ControlError, match="ratio"):
        devcluster.set_clock("gpu-a", 0, 1.5)


def test_a_hidden_gpu_has_no_reading(devcluster: DevCluster) -> None:
    devcluster.hide_gpu("gpu-b", 2)
    try:
        readings = read_json(devcluster.gpu_state_path("gpu-b"))["gpus"]
        assert [reading["index"] for reading in readings] == [0, 1, 3]
    finally:
        devcluster.hide_gpu("gpu-b", 2, hidden=False)


@pytest.mark.long
def test_a_lost_node_and_a_dead_agent_come_back() -> None:
    """Its own cluster: nodes of the shared one must not fail under other tests."""
    with DevCluster(Config(nodes=(NodeConfig("only"),), crash_back_off_seconds=0.2)) as cluster:
        pods = Pods(cluster, "default")
        pods.make("steady", python("print('up', flush=True)\n" + SLEEP))
        pods.wait_ready("steady")
        cluster.restart_agent()
        pods.wait("steady", lambda p: status_of(p)["restartCount"] == 1 and _is_ready(p))
        cluster.fail_node("only")
        cluster.wait_for("/api/v1/nodes/only", lambda n: not _is_ready(n), timeout=60)
        pods.wait("steady", lambda p: not _is_ready(p))
        cluster.heal_node("only")
        cluster.wait_for("/api/v1/nodes/only", _is_ready)
        pods.wait("steady", lambda p: status_of(p)["restartCount"] == 2 and _is_ready(p))


def _is_ready(item: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"]["conditions"])
