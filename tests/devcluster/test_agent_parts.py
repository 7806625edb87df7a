"""The pure parts of the node agent."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.devcluster import Config, ConfigError, NodeConfig, Object
from e2e.devcluster.addresses import Slot
from e2e.devcluster.agent.devices import (
    ClaimPendingError,
    DevicesExhaustedError,
    NodeDevices,
    check_claim,
    claim_names,
)
from e2e.devcluster.agent.environment import (
    ContainerConfigError,
    Mounts,
    expand,
    field_value,
    parse_quantity,
    resource_value,
)
from e2e.devcluster.agent.gpus import NodeGpus, compute_temperature
from e2e.devcluster.agent.images import UnknownImageError, make_command, repository_name
from e2e.devcluster.agent.kubelet import find_tail
from e2e.devcluster.agent.products import product_name
from e2e.devcluster.agent.services import find_backends, listening_places
from e2e.devcluster.agent.status import Kind, PodFacts, Record, compute_phase, make_records, make_status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)/$(B)", "1/2"),
        ("$$(A)", "$(A)"),
        ("$(MISSING) $A ${A}", "$(MISSING) $A ${A}"),
        ("$$$(A)", "$1"),
    ],
)
def test_variables_expand_as_in_kubernetes(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


def test_fields_of_the_downward_api() -> None:
    pod = {"metadata": {"name": "p", "labels": {"a/b": "c"}, "annotations": {}}, "status": {"podIP": "127.64.1.1"}}
    assert field_value(pod, "metadata.labels['a/b']") == "c"
    assert field_value(pod, "metadata.annotations['none']") == ""
    assert field_value(pod, "metadata.labels") == 'a/b="c"'
    assert field_value(pod, "status.podIP") == "127.64.1.1"
    with pytest.raises(ContainerConfigError, match=r"spec\.nodeName"):
        field_value(pod, "spec.nodeName")


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("500m", 0.5), ("2Gi", 2**31), ("1e3", 1000), ("3k", 3000)])
def test_quantities(text: str, number: float) -> None:
    assert parse_quantity(text) == number


def test_resource_fields_round_up() -> None:
    container = {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}
    assert resource_value(container, {"resource": "limits.cpu"}) == "2"
    assert resource_value(container, {"resource": "limits.memory", "divisor": "1Mi"}) == "1024"
    with pytest.raises(ContainerConfigError):
        resource_value(container, {"resource": "requests.cpu"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/x", "/real/d/x"),
        ("--path=/data", "--path=/real/d"),
        ("/database/x", "/database/x"),
        ("/other/data/x", "/other/data/x"),
        ("/data/deep/x:/data", "/real/deep/x:/real/d"),
        ("/tmp/x", "/tmp/x"),
    ],
)
def test_mount_paths_are_rewritten(text: str, expected: str) -> None:
    assert Mounts({"/data": "/real/d", "/data/deep": "/real/deep", "/tmp": "/real/t"}).rewrite(text) == expected


@pytest.mark.parametrize(
    "image", ["shoal-operator", "ghcr.io/a/shoal-operator:v1", "host:5000/shoal-operator@sha256:00", "shoal-operator:1"]
)
def test_images_are_known_by_their_last_part(image: str) -> None:
    assert repository_name(image) == "shoal-operator"
    assert make_command({"image": image, "args": ["--x"]}, {})[-2:] == ["shoal.reconciler", "--x"]


def test_commands_replace_images_and_configuration_adds_some() -> None:
    assert make_command({"image": "none", "command": ["a"], "args": ["b"]}, {}) == ["a", "b"]
    assert make_command({"image": "mine:1"}, {"mine": ("run",)}) == ["run"]
    with pytest.raises(UnknownImageError, match="images"):
        make_command({"image": "mine:1"}, {})
    (envoy,) = make_command({"image": "envoyproxy/envoy:distroless"}, {})
    assert Path(envoy).name == "envoy"
    assert os.access(envoy, os.X_OK)


def gpu_node(count: int, claim: str = "extended") -> NodeConfig:
    return NodeConfig("n", "NVIDIA-H100-80GB-HBM3", count, claim="dra" if claim == "dra" else "extended")


def wish(uid: str, *counts: int) -> Object:
    containers = [{"name": f"c{i}", "resources": {"limits": {"nvidia.com/gpu": str(n)}}} for i, n in enumerate(counts)]
    return {"metadata": {"uid": uid}, "spec": {"containers": containers}}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.booleans()), max_size=30))
def test_a_gpu_is_never_handed_out_twice(steps: list[tuple[int, int, bool]]) -> None:
    devices = NodeDevices(NodeGpus(gpu_node(4), Path("/nonexistent")))
    held: dict[str, set[str]] = {}
    for pod, count, release in steps:
        uid = str(pod)
        if release:
            devices.release(uid)
            held.pop(uid, None)
        elif uid not in held:
            try:
                given_out = devices.assign(wish(uid, count), {})
            except DevicesExhaustedError:
                assert sum(map(len, held.values())) + count > 4
                continue
            uuids = given_out.get("c0", {}).get("SHOAL_SIM_GPU_UUIDS", "")
            held[uid] = set(uuids.split(",")) if uuids else set()
        everyone = [uuid for uuids in held.values() for uuid in uuids]
        assert len(everyone) == len(set(everyone)) == len(devices.busy())


def test_containers_of_one_pod_get_different_gpus() -> None:
    devices = NodeDevices(NodeGpus(gpu_node(4), Path("/nonexistent")))
    given_out = devices.assign(wish("p", 1, 2), {})
    assert len({uuid for v in given_out.values() for uuid in v["SHOAL_SIM_GPU_UUIDS"].split(",")}) == 3
    with pytest.raises(DevicesExhaustedError, match="Requested: 2, Available: 1"):
        devices.assign(wish("q", 2), {})


class FakeNvml:
    """Two GPUs, as the module pynvml shows them."""

    class NVMLError(Exception):
        pass

    nvmlInit = staticmethod(lambda: None)  # noqa: N815
    nvmlDeviceGetCount = staticmethod(lambda: 2)  # noqa: N815
    nvmlDeviceGetHandleByIndex = staticmethod(lambda index: index)  # noqa: N815
    nvmlDeviceGetUUID = staticmethod(lambda handle: f"GPU-real-{handle}")  # noqa: N815


def test_real_gpus_are_handed_out_by_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml)
    node = NodeConfig("n", "NVIDIA-H100-80GB-HBM3", 2, claim="extended", simulated=False)
    devices = NodeDevices(NodeGpus(node, tmp_path))
    assert devices.assign(wish("p", 1, 1), {}) == {
        "c0": {"CUDA_VISIBLE_DEVICES": "0"},
        "c1": {"CUDA_VISIBLE_DEVICES": "1"},
    }
    assert devices.gpus.slice_devices()[1]["attributes"]["uuid"] == {"string": "GPU-real-1"}
    devices.gpus.write({0})
    assert devices.gpus.node_variables() == {}
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="wants 3 GPUs; this machine has 2"):
        NodeGpus(dataclasses.replace(node, gpus=3), tmp_path)


def test_claims_are_waited_for() -> None:
    pod: Object = {
        "metadata": {"uid": "u"},
        "spec": {"resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "t"}]},
    }
    with pytest.raises(ClaimPendingError, match="not been made"):
        claim_names(pod)
    pod["status"] = {"resourceClaimStatuses": [{"name": "gpus", "resourceClaimName": "c-1"}]}
    assert claim_names(pod) == {"gpus": "c-1"}
    claim: Object = {"metadata": {"name": "c-1"}}
    with pytest.raises(ClaimPendingError, match="not allocated"):
        check_claim(claim, pod)
    claim["status"] = {"allocation": {}, "reservedFor": [{"uid": "another"}]}
    with pytest.raises(ClaimPendingError, match="not reserved"):
        check_claim(claim, pod)


@given(st.floats(20, 100), st.floats(20, 100), st.floats(0, 1e3))
def test_temperature_approaches_its_target(now: float, target: float, seconds: float) -> None:
    after = compute_temperature(now, target, seconds)
    assert min(now, target) - 1e-6 <= after <= max(now, target) + 1e-6


def test_product_names_are_those_of_the_driver() -> None:
    assert product_name("NVIDIA-H100-80GB-HBM3") == "NVIDIA H100 80GB HBM3"
    assert product_name("NVIDIA-A100-SXM4-80GB") == "NVIDIA A100-SXM4-80GB"


@pytest.mark.parametrize(
    ("states", "initialised", "finished", "phase"),
    [
        (["waiting"], False, False, "Pending"),
        (["running"], True, False, "Running"),
        (["running", "waiting"], True, False, "Running"),
        ([0], True, True, "Succeeded"),
        ([0, 1], True, True, "Failed"),
        (["waiting"], False, True, "Failed"),
    ],
)
def test_phases(states: list[str | int], initialised: bool, finished: bool, phase: str) -> None:
    records = []
    for state in states:
        ended = {"terminated": {"exitCode": state}}
        records.append(Record({"name": "c", "image": "i"}, Kind.MAIN, state={state: {}} if state in ("waiting", "running") else ended))  # type: ignore[dict-item]  # noqa: E501  # fmt: skip
    assert compute_phase(records, initialised=initialised, finished=finished) == phase


def test_readiness_gates_and_times() -> None:
    pod: Object = {
        "metadata": {"generation": 2},
        "spec": {"containers": [{"name": "c", "image": "i"}], "readinessGates": [{"conditionType": "gate"}]},
    }
    (record,) = make_records(pod)
    record.state, record.ready = {"running": {}}, True
    facts = PodFacts("127.64.1.1", "127.64.0.10", "then", initialised=True, finished=False)
    closed = make_status(pod, [record], facts, [])
    assert {c["type"]: c["status"] for c in closed["conditions"]} == {
        "Initialized": "True",
        "ContainersReady": "True",
        "Ready": "False",
    }
    old = {"type": "Ready", "status": "True", "lastTransitionTime": "long ago"}
    opened = make_status(pod, [record], facts, [old, {"type": "gate", "status": "True"}])
    assert opened["conditions"][2] == {**old, "reason": None, "message": None}


def service(**spec: object) -> Object:
    return {"metadata": {"namespace": "n", "uid": "s"}, "spec": {"clusterIP": "127.64.128.9", **spec}}


def test_services_find_ready_pods_of_their_namespace() -> None:
    ready = [{"type": "Ready", "status": "True"}]

    def pod(address: str, **metadata: object) -> Object:
        return {
            "metadata": {"namespace": "n", "labels": {"a": "b"}, **metadata},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}]}]},
            "status": {"podIP": address, "conditions": ready},
        }

    pods = {
        "good": pod("1"),
        "leaving": pod("2", deletionTimestamp="now"),
        "elsewhere": pod("3", namespace="m"),
        "other": pod("4", labels={"a": "c"}),
    }
    wanted = service(selector={"a": "b"}, ports=[{"port": 80, "targetPort": "http"}])
    assert find_backends(wanted, wanted["spec"]["ports"][0], pods) == [("1", 8000)]
    assert listening_places(wanted) == [("127.64.128.9", 80)]
    assert listening_places(service(clusterIP="None", ports=[{"port": 80}])) == []


@pytest.mark.parametrize(("lines", "expected"), [(0, ""), (1, "c\n"), (2, "b\nc\n"), (9, "a\nb\nc\n")])
def test_tails(tmp_path: Path, lines: int, expected: str) -> None:
    log = tmp_path / "log"
    log.write_text("a\nb\nc\n")
    assert log.read_text()[find_tail(log, lines) :] == expected


def test_addresses_do_not_overlap() -> None:
    slot = Slot(70)
    pods = list(slot.pods())
    assert len(pods) == len(set(pods)) == 127 * 254
    assert not any(address.split(".")[2] in ("0", "128") for address in pods)
    assert slot.kubernetes_service == "127.70.128.1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nodes": [{"name": "a"}, {"name": "a"}]}, "differ"),
        ({"nodes": [{"name": "a", "gpus": 1}]}, "accelerator"),
        ({"nodes": [{"name": "a", "claim": "other"}]}, "claim"),
        ({"nodes": [{"nme": "a"}]}, "nme"),
    ],
)
def test_bad_configurations_are_refused(tmp_path: Path, fields: Object, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=message):
        Config.load(path)


def test_a_configuration_survives_its_file() -> None:
    config = Config(images={"a": ("b", "c")}, environment=("HF_HOME",))
    assert Config.from_mapping(json.loads(config.to_json())) == config
