"""Rendered objects against the real API server: schemas, Pod Security, CEL, server-side apply, the DRA scheduler."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from render_cases import CASES, load_recipe, render
from render_reports import NOW, make_report

from e2e.devcluster import ApiError, Config, DevCluster
from e2e.devcluster.client import APPLY_PATCH
from shoal.api.crds import DEFINITIONS, make_crd
from shoal.render.claims import make_selector
from shoal.render.events import find_events, make_event
from shoal.render.names import MANAGER, SCALE_MANAGER
from shoal.render.recipe import Recipe
from shoal.render.scale import make_scale
from shoal.render.status import make_status
from shoal.render.variant import VariantObjects, make_variant

pytestmark = pytest.mark.cluster

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


@pytest.fixture
def namespace(control_plane: DevCluster) -> str:
    return control_plane.create_namespace(f"render-{uuid.uuid4().hex[:8]}", RESTRICTED)


def write(
    cluster: DevCluster, manifest: dict[str, Any], manager: str, *, force: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Server-side apply with strict field validation."""
    kind = {"ResourceClaimTemplate": "resourceclaimtemplates", "PodDisruptionBudget": "poddisruptionbudgets"}
    plural = kind.get(manifest["kind"], manifest["kind"].lower() + "s")
    version, metadata = manifest["apiVersion"], manifest["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    parameters = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
    if dry_run:
        parameters["dryRun"] = "All"
    path = f"{root}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
    return cluster.request("PATCH", path, manifest, params=parameters, content_type=APPLY_PATCH)


def in_namespace(recipe: Recipe, namespace: str, uid: str | None = None) -> Recipe:
    changes = {"namespace": namespace, "uid": uid or recipe.service.metadata.uid}
    metadata = recipe.service.metadata.model_copy(update=changes)
    return dataclasses.replace(recipe, service=recipe.service.model_copy(update={"metadata": metadata}))


@pytest.mark.parametrize("case", CASES)
def test_accepted_and_restricted(control_plane: DevCluster, namespace: str, case: str) -> None:
    for manifest in render(in_namespace(load_recipe(case), namespace)):
        kubernetes_validate.validate(manifest, "1.37", strict=True)
        answer = write(control_plane, manifest, MANAGER, dry_run=True)
        assert_kept(manifest, answer)
        if manifest["kind"] == "Deployment":
            template = manifest["spec"]["template"]
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "pod", "namespace": namespace, **template["metadata"]},
                "spec": without_priority(template["spec"]),
            }
            write(control_plane, pod, MANAGER, dry_run=True)


def without_priority(spec: dict[str, Any]) -> dict[str, Any]:
    """The PriorityClass and the RuntimeClass are the administrator's; they do not exist here."""
    return {key: value for key, value in spec.items() if key not in ("priorityClassName", "runtimeClassName")}


def assert_kept(sent: Any, stored: Any, path: str = "") -> None:
    """Whatever was sent was stored as it was sent: else every apply would be a change."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            assert key in stored, f"{path}.{key} was dropped"
            assert_kept(value, stored[key], f"{path}.{key}")
    elif isinstance(sent, list):
        assert len(sent) == len(stored), path
        for index, value in enumerate(sent):
            assert_kept(value, stored[index], f"{path}[{index}]")
    else:
        assert str(sent) == str(stored), path


@pytest.fixture
def owned(control_plane: DevCluster, namespace: str) -> Recipe:
    """The simple case, of a ModelService that exists."""
    for definition in DEFINITIONS:
        control_plane.apply(dict(make_crd(definition)))
    recipe = in_namespace(load_recipe("simple"), namespace)
    wish = recipe.service.model_dump(mode="json", exclude_none=True)
    wish["metadata"] = {"name": recipe.service.metadata.name, "namespace": namespace}
    (owner,) = control_plane.apply(wish)
    return in_namespace(recipe, namespace, owner["metadata"]["uid"])


@pytest.fixture
def variant(owned: Recipe) -> VariantObjects:
    return make_variant(owned)


def test_status_and_events_are_taken(control_plane: DevCluster, owned: Recipe) -> None:
    metadata = owned.service.metadata
    status = make_status(None, make_report(resource=owned.service))
    path = f"/apis/shoal.dev/v1alpha1/namespaces/{metadata.namespace}/modelservices/{metadata.name}/status"
    manifest = {
        "apiVersion": "shoal.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": metadata.name, "namespace": metadata.namespace},
        "status": status,
    }
    parameters = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
    stored = control_plane.request("PATCH", path, manifest, params=parameters, content_type=APPLY_PATCH)
    assert stored["status"] == status
    for event in find_events(None, status):
        for later in (0, 60):
            write(control_plane, make_event(owned.service, event, NOW + later), MANAGER, force=True)
    events = control_plane.request("GET", f"/api/v1/namespaces/{metadata.namespace}/events")["items"]
    ours = {(item["reason"], item["lastTimestamp"]) for item in events if item["source"].get("component") == MANAGER}
    assert ours == {(reason, "2027-01-15T08:01:00Z") for reason in ("Planned", "Serving")}


def scale_of(variant: VariantObjects, uid: str, replicas: int) -> dict[str, Any]:
    namespace = variant.deployment["metadata"]["namespace"]
    return make_scale(namespace=namespace, name=variant.name, uid=uid, replicas=replicas)


def replicas_managers(deployment: dict[str, Any]) -> set[str]:
    return {
        entry["manager"]
        for entry in deployment["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }


def test_a_new_variant_has_no_pods_until_it_is_scaled(control_plane: DevCluster, variant: VariantObjects) -> None:
    made = write(control_plane, variant.deployment, MANAGER)
    assert made["spec"]["replicas"] == 0
    scaled = write(control_plane, scale_of(variant, made["metadata"]["uid"], 3), SCALE_MANAGER, force=True)
    assert scaled["spec"]["replicas"] == 3
    assert replicas_managers(scaled) == {SCALE_MANAGER}
    again = write(control_plane, scale_of(variant, made["metadata"]["uid"], 0), SCALE_MANAGER, force=True)
    assert again["spec"]["replicas"] == 0


def test_making_it_again_cannot_take_the_replicas_away(control_plane: DevCluster, variant: VariantObjects) -> None:
    """A second leader, or a write whose answer was lost, comes late: it is refused, and nothing changes."""
    made = write(control_plane, variant.deployment, MANAGER)
    write(control_plane, scale_of(variant, made["metadata"]["uid"], 3), SCALE_MANAGER, force=True)
    with pytest.raises(ApiError) as refusal:
        write(control_plane, variant.deployment, MANAGER)
    assert refusal.value.status == 409
    metadata = variant.deployment["metadata"]
    path = f"/apis/apps/v1/namespaces/{metadata['namespace']}/deployments/{variant.name}"
    assert control_plane.request("GET", path)["spec"]["replicas"] == 3


def test_making_it_twice_before_it_is_scaled_is_no_change(control_plane: DevCluster, variant: VariantObjects) -> None:
    first = write(control_plane, variant.deployment, MANAGER)
    second = write(control_plane, variant.deployment, MANAGER)
    assert second["metadata"]["generation"] == first["metadata"]["generation"] == 1


def test_everything_but_replicas_can_be_applied_again(control_plane: DevCluster, variant: VariantObjects) -> None:
    """Repair of what somebody edited: leaving out what `shoal` no longer owns does not touch it."""
    made = write(control_plane, variant.deployment, MANAGER)
    write(control_plane, scale_of(variant, made["metadata"]["uid"], 2), SCALE_MANAGER, force=True)
    rest = {key: value for key, value in variant.deployment["spec"].items() if key != "replicas"}
    after = write(control_plane, {**variant.deployment, "spec": rest}, MANAGER)
    assert after["spec"]["replicas"] == 2


def test_a_person_who_scaled_it_is_overruled(control_plane: DevCluster, variant: VariantObjects) -> None:
    made = write(control_plane, variant.deployment, MANAGER)
    scale = scale_of(variant, made["metadata"]["uid"], 2)
    write(control_plane, scale, SCALE_MANAGER, force=True)
    metadata = variant.deployment["metadata"]
    path = f"/apis/apps/v1/namespaces/{metadata['namespace']}/deployments/{variant.name}/scale"
    control_plane.request("PATCH", path, {"spec": {"replicas": 7}}, content_type="application/merge-patch+json")
    assert write(control_plane, scale, SCALE_MANAGER, force=True)["spec"]["replicas"] == 2


def test_scale_never_makes_or_mistakes_a_deployment(control_plane: DevCluster, variant: VariantObjects) -> None:
    stranger = scale_of(variant, str(uuid.uuid4()), 3)
    with pytest.raises(ApiError) as missing:
        write(control_plane, stranger, SCALE_MANAGER, force=True)
    assert missing.value.status == 409
    write(control_plane, variant.deployment, MANAGER)
    with pytest.raises(ApiError) as other:
        write(control_plane, stranger, SCALE_MANAGER, force=True)
    assert other.value.status == 422


DEVICES = [
    {"name": "gpu-0", "attributes": {"type": {"string": "gpu"}}},  # does not tell its product
    {"name": "gpu-1", "attributes": {"productName": {"string": "NVIDIA L40S"}}},
    {"name": "gpu-2", "attributes": {"productName": {"string": "NVIDIA H100 80GB HBM3"}}},
]


@pytest.fixture
def quiet_cluster() -> Iterator[DevCluster]:
    """A control plane of its own: nodes, devices and waiting pods of other tests are the scheduler's business too."""
    with DevCluster(Config(nodes=())) as cluster:
        yield cluster


def test_the_scheduler_finds_exactly_the_accelerator(quiet_cluster: DevCluster) -> None:
    control_plane, namespace = quiet_cluster, "picky"
    control_plane.create_namespace(namespace, RESTRICTED)
    driver, node = "gpu.nvidia.com", f"node-{namespace}"
    cluster_scoped = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}},
        {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": namespace}},
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": namespace},
            "spec": {
                "driver": driver,
                "nodeName": node,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
                "devices": DEVICES,
            },
        },
    ]
    control_plane.apply(cluster_scoped)
    ready_path = f"/api/v1/nodes/{node}/status"
    ready = {"type": "Ready", "status": "True", "reason": "Test"}
    status = {"allocatable": {"cpu": "9", "memory": "99Gi", "pods": "9"}, "conditions": [ready]}
    control_plane.request("PATCH", ready_path, {"status": status}, content_type="application/merge-patch+json")
    recipe = in_namespace(load_recipe("simple"), namespace)
    template = make_variant(recipe).claim_template
    assert template is not None
    template["spec"]["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = namespace
    write(control_plane, template, MANAGER)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "picky", "namespace": namespace},
        "spec": {
            **make_variant(recipe).deployment["spec"]["template"]["spec"],
            "tolerations": [{"operator": "Exists"}],
        },
    }
    write(control_plane, pod, MANAGER)
    path = f"/api/v1/namespaces/{namespace}/pods/picky"
    bound = control_plane.wait_for(path, lambda found: bool(found["spec"].get("nodeName")))
    assert bound["spec"]["nodeName"] == node
    claim = bound["status"]["resourceClaimStatuses"][0]["resourceClaimName"]
    path = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{claim}"
    (result,) = control_plane.request("GET", path)["status"]["allocation"]["devices"]["results"]
    assert result["device"] == "gpu-2"


@pytest.mark.parametrize("accelerator", ["NVIDIA-H100-80GB-HBM3", "GB10", "A_b.c-D"])
def test_selectors_compile(control_plane: DevCluster, namespace: str, accelerator: str) -> None:
    request = {
        "name": "gpus",
        "exactly": {
            "deviceClassName": "x",
            "selectors": [{"cel": {"expression": make_selector("gpu.nvidia.com", accelerator)}}],
        },
    }
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "x", "namespace": namespace},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    write(control_plane, template, MANAGER, dry_run=True)
