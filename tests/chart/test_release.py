"""The chart in a real API server: installed, upgraded, uninstalled, and what its users may do then."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_tools import CHART, DEFAULTS, LEARNED, NAMESPACE, Object, helm, pod_templates, render

from e2e.devcluster import Config, DevCluster
from e2e.devcluster.access import run_apart
from e2e.devcluster.client import MERGE_PATCH, STRATEGIC_PATCH, ApiClient, ApiError
from shoal.api.generate import ROOT
from shoal.api.load import load_text

pytestmark = pytest.mark.cluster
OPERATOR = f"system:serviceaccount:{NAMESPACE}:shoal-operator"
CLASS = "/apis/shoal.dev/v1alpha1/engineclasses/default"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
TAINTS = "/apis/resource.k8s.io/v1/devicetaintrules"


def _helm(cluster: DevCluster, command: str, *arguments: str, values: Object | None = None) -> str:
    access = ("--namespace", NAMESPACE, "--kubeconfig", str(cluster.admin_kubeconfig_path))
    done = helm(command, "shoal", *arguments, *access, values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_release_lives_its_life(tmp_path: Path) -> None:
    with DevCluster(Config(nodes=()), directory=tmp_path) as cluster:
        notes = _helm(cluster, "install", str(CHART), "--create-namespace")
        assert "kubectl get msvc" in notes
        first = cluster.request("GET", CLASS)
        _helm(cluster, "upgrade", str(CHART), values={"engineClass": {"spec": {"drainSeconds": 77}}})
        second = cluster.request("GET", CLASS)
        assert second["metadata"]["uid"] == first["metadata"]["uid"], "the class was deleted and made again"
        assert second["spec"]["drainSeconds"] == 77
        _helm(cluster, "upgrade", str(CHART), values={"engineClass": {"version": "0.34.0"}})
        assert cluster.request("GET", CLASS)["spec"] | {"image": ""} == {"image": "", "version": "0.34.0"}
        service = yaml.safe_load((ROOT / "examples" / "modelservice-shortest.yaml").read_text())
        cluster.apply(service, namespace="default")
        _helm(cluster, "uninstall")
        assert len(cluster.request("GET", CRDS)["items"]) == 5
        assert cluster.request("GET", "/apis/shoal.dev/v1alpha1/modelservices")["items"], "ModelServices outlive it"
        _helm(cluster, "install", str(CHART))
        assert cluster.request("GET", CLASS)["spec"]["version"] == "0.33.0"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_accepted(path: Path, release: DevCluster) -> None:
    text = path.read_text()
    for resource in load_text(text, where=path.name):
        plural = {
            "ModelService": "namespaces/default/modelservices",
            "ProfileRun": "namespaces/default/profileruns",
            "GPUPool": "gpupools",
        }
        url = f"/apis/shoal.dev/v1alpha1/{plural.get(type(resource).__name__, 'engineclasses')}"
        strict = {"dryRun": "All", "fieldValidation": "Strict"}
        made = release.request("POST", url, yaml.safe_load(text), params=strict)
        assert made["spec"] == yaml.safe_load(text)["spec"], "the server added or removed something"


@pytest.mark.parametrize("name", ["shoal-operator", "shoal-gpu-agent"])
def test_pods_pass_the_restricted_standard(name: str, release: DevCluster) -> None:
    namespace = release.create_namespace("restricted", {"pod-security.kubernetes.io/enforce": "restricted"})
    template = copy.deepcopy(pod_templates(render(DEFAULTS))[name])
    release.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace=namespace)
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": name} | template["metadata"]}
    release.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod, params={"dryRun": "All"})


def test_the_policies_have_no_mistake_the_server_can_see(release: DevCluster) -> None:
    for name in ("shoal-pods", "shoal-device-taint-rules", "shoal-model-profiles"):
        path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}"
        status = release.wait_for(path, lambda policy: "typeChecking" in policy.get("status", {}))["status"]
        assert status["typeChecking"] == {}


ALLOWED = [
    ("authentication.k8s.io", "tokenreviews", "create", None),
    ("", "pods", "list", None),
    ("", "pods", "patch", "team-a"),
    ("resource.k8s.io", "resourceclaims", "watch", None),
    ("resource.k8s.io", "resourceclaimtemplates", "create", "team-a"),
    ("resource.k8s.io", "devicetaintrules", "create", None),
    ("apps", "deployments", "patch", "team-a"),
    ("", "services", "delete", "team-a"),
    ("policy", "poddisruptionbudgets", "create", "team-a"),
    ("events.k8s.io", "events", "create", "team-a"),
    ("shoal.dev", "modelservices/status", "patch", "team-a"),
    ("shoal.dev", "gpupools/status", "patch", None),
    ("shoal.dev", "modelprofiles", "create", "team-a"),
    ("shoal.dev", "modelprofiles", "patch", "team-a"),
    ("shoal.dev", "profileruns/status", "patch", "team-a"),
    ("batch", "jobs", "create", "team-a"),
    ("batch", "jobs", "delete", "team-a"),
    ("coordination.k8s.io", "leases", "create", NAMESPACE),
]
DENIED = [
    ("", "serviceaccounts/token", "create", NAMESPACE),
    ("", "pods/proxy", "get", NAMESPACE),
    ("", "secrets", "get", NAMESPACE),
    ("", "pods", "create", "team-a"),
    ("", "pods", "delete", "team-a"),
    ("", "pods/exec", "create", "team-a"),
    ("", "nodes", "patch", None),
    ("apps", "daemonsets", "patch", NAMESPACE),
    ("shoal.dev", "modelservices", "patch", "team-a"),
    ("shoal.dev", "engineclasses", "create", None),
    ("shoal.dev", "modelprofiles", "delete", "team-a"),
    ("shoal.dev", "modelprofiles", "update", "team-a"),
    ("shoal.dev", "profileruns", "patch", "team-a"),
    ("batch", "jobs", "patch", "team-a"),
    ("batch", "cronjobs", "create", "team-a"),
    ("coordination.k8s.io", "leases", "update", "kube-system"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "list", None),
    ("rbac.authorization.k8s.io", "clusterroles", "escalate", None),
]


def _is_allowed(cluster: DevCluster, user: str, right: tuple[str, str, str, str | None]) -> bool:
    group, resource, verb, namespace = right
    name, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": name, "subresource": subresource, "verb": verb, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": {k: v for k, v in attributes.items() if v}},
    }
    answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize("right", ALLOWED, ids=str)
def test_the_operator_may(right: tuple[str, str, str, str | None], release: DevCluster) -> None:
    assert _is_allowed(release, OPERATOR, right)


@pytest.mark.parametrize("right", DENIED, ids=str)
def test_the_operator_may_not(right: tuple[str, str, str, str | None], release: DevCluster) -> None:
    assert not _is_allowed(release, OPERATOR, right)


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "list", "modelservices", True),
        ("view", "create", "modelservices", False),
        ("edit", "create", "modelservices", True),
        ("edit", "patch", "modelservices/scale", True),
        ("edit", "patch", "modelservices/status", False),
        ("edit", "create", "modelprofiles", False),
        ("admin", "create", "modelprofiles", True),
        ("admin", "create", "gpupools", False),
        ("admin", "patch", "engineclasses", False),
    ],
)
def test_people(role: str, verb: str, resource: str, allowed: bool, release: DevCluster) -> None:
    namespace = release.create_namespace("people")
    release.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"a-{role}"}],
        }
    )
    view = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view"
    release.wait_for(view, lambda found: "modelservices" in str(found.get("rules")))
    admin = "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin"
    release.wait_for(admin, lambda found: "deletecollection" in str(_of(found, "modelprofiles")))
    assert _is_allowed(release, f"a-{role}", ("shoal.dev", resource, verb, namespace)) == allowed


def _of(role: Object, resource: str) -> list[Object]:
    return [rule for rule in role.get("rules") or [] if resource in rule.get("resources", [])]


def _as_operator(cluster: DevCluster, method: str, path: str, body: Any, **options: Any) -> Object:
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, "shoal-operator")

    async def ask() -> Object:
        async with ApiClient.from_kubeconfig(kubeconfig) as client:
            return await client.request(method, path, body, **options)

    return run_apart(ask())


def _pod(name: str, labels: dict[str, str]) -> Object:
    metadata = {"name": name, "labels": labels, "annotations": {"keep": "1"}}
    spec = {"containers": [{"name": "c", "image": "a:1"}], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def pods(release: DevCluster) -> str:
    namespace = release.create_namespace("policy-pods")
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    release.wait_for(account, bool)
    release.apply([_pod("ours", {"app.kubernetes.io/managed-by": "shoal"}), _pod("theirs", {})], namespace=namespace)
    return f"/api/v1/namespaces/{namespace}/pods"


COST = "controller.kubernetes.io/pod-deletion-cost"


@pytest.mark.parametrize("cost", ["-100", None])
def test_the_operator_may_set_the_deletion_cost(cost: str | None, pods: str, release: DevCluster) -> None:
    patch = {"metadata": {"annotations": {COST: cost}}}
    found = _as_operator(release, "PATCH", f"{pods}/ours", patch, content_type=MERGE_PATCH)
    assert found["metadata"]["annotations"].get(COST) == cost


@pytest.mark.parametrize(
    ("pod", "patch", "message"),
    [
        ("ours", {"spec": {"containers": [{"name": "c", "image": "evil:1"}]}}, "may not change the spec"),
        ("ours", {"metadata": {"labels": {"app": "x"}}}, "may not change the labels"),
        ("ours", {"metadata": {"annotations": {"other": "x"}}}, "no annotation of pods but"),
        ("ours", {"metadata": {"annotations": {"keep": None}}}, "no annotation of pods but"),
        ("ours", {"metadata": {"annotations": {"keep": "2"}}}, "no annotation of pods but"),
        ("ours", {"metadata": {"finalizers": ["a.b/c"]}}, "owners or finalizers"),
        ("theirs", {"metadata": {"annotations": {COST: "1"}}}, "pods it did not make"),
    ],
)
def test_the_operator_may_change_nothing_else_of_pods(
    pod: str, patch: Object, message: str, pods: str, release: DevCluster
) -> None:
    with pytest.raises(ApiError, match=message):
        _as_operator(release, "PATCH", f"{pods}/{pod}", patch, content_type=STRATEGIC_PATCH)


def _taint(release: DevCluster, *changes: tuple[str, Any]) -> Object:
    pool = next(p for p in release.apply((ROOT / "examples" / "gpupool-dra.yaml").read_text()))
    owner = {"apiVersion": "shoal.dev/v1alpha1", "kind": "GPUPool", "name": "h100", "uid": pool["metadata"]["uid"]}
    rule: Object = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {
            "name": "shoal-gpu-a-0",
            "labels": {"app.kubernetes.io/managed-by": "shoal"},
            "annotations": {"shoal.dev/gpu-uuid": "GPU-1"},
            "ownerReferences": [owner],
        },
        "spec": {
            "deviceSelector": {"driver": "gpu.nvidia.com", "pool": "gpu-a", "device": "gpu-0"},
            "taint": {"key": "shoal.dev/hot", "value": "true", "effect": "NoSchedule"},
        },
    }
    for path, value in changes:
        *parents, last = path.split(".")
        node = rule
        for step in parents:
            node = node[step]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return rule


def test_the_operator_may_taint_one_gpu(release: DevCluster) -> None:
    rule = _taint(release)
    _as_operator(release, "POST", TAINTS, rule)
    changed = {"spec": {"taint": {"effect": "NoExecute"}}}
    _as_operator(release, "PATCH", f"{TAINTS}/shoal-gpu-a-0", changed, content_type=MERGE_PATCH)
    wider = {"spec": {"deviceSelector": {"device": None}}}
    with pytest.raises(ApiError, match="exactly one GPU"):
        _as_operator(release, "PATCH", f"{TAINTS}/shoal-gpu-a-0", wider, content_type=MERGE_PATCH)
    _as_operator(release, "DELETE", f"{TAINTS}/shoal-gpu-a-0", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("spec.deviceSelector", None), "exactly one GPU"),
        (("spec.deviceSelector", {}), "exactly one GPU"),
        (("spec.deviceSelector.device", None), "exactly one GPU"),
        (("spec.deviceSelector.pool", None), "exactly one GPU"),
        (("spec.deviceSelector.driver", None), "exactly one GPU"),
        (("metadata.name", "other"), "starts with shoal-"),
        (("metadata.labels", {}), "carries the label"),
        (("metadata.annotations", {}), "gpu-uuid"),
        (("metadata.ownerReferences", []), "owned by a GPUPool"),
        (("spec.taint.key", "node.kubernetes.io/not-ready"), "starts with shoal.dev/"),
    ],
)
def test_the_operator_may_taint_nothing_else(change: tuple[str, Any], message: str, release: DevCluster) -> None:
    with pytest.raises(ApiError, match=message):
        _as_operator(release, "POST", TAINTS, _taint(release, change), params={"dryRun": "All"})


def test_rules_of_others_are_safe_from_the_operator(release: DevCluster) -> None:
    rule = _taint(release, ("metadata.name", "shoal-looks-like-ours"), ("metadata.labels", {}))
    release.request("POST", TAINTS, rule)
    with pytest.raises(ApiError, match="carries the label"):
        _as_operator(release, "DELETE", f"{TAINTS}/shoal-looks-like-ours", None)


PROFILES = "/apis/shoal.dev/v1alpha1/namespaces/default/modelprofiles"
APPLY = "application/apply-patch+yaml"
FORCE = {"fieldManager": "shoal", "force": "true", "dryRun": "All"}


def _changed(part: str, **fields: Any) -> Object:
    body = copy.deepcopy(LEARNED)
    body[part] |= fields
    return body


def test_the_operator_may_keep_what_a_service_learned(release: DevCluster) -> None:
    path = f"{PROFILES}/chat-learned"
    made = _as_operator(release, "PATCH", path, LEARNED, params=FORCE, content_type=APPLY)
    assert made["spec"]["rows"][0]["evidence"]["highestRate"] == 3.0


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("spec", {"source": "Measured"}, "only learned profiles"),
        ("metadata", {"labels": {}}, "carries the label"),
        ("metadata", {"ownerReferences": []}, "controlled by a ModelService"),
    ],
)
def test_the_operator_may_write_no_other_profile(part: str, fields: Object, message: str, release: DevCluster) -> None:
    path = f"{PROFILES}/chat-learned"
    with pytest.raises(ApiError, match=message):
        _as_operator(release, "PATCH", path, _changed(part, **fields), params=FORCE, content_type=APPLY)


def _measured(**metadata: Any) -> Object:
    body = _changed("spec", source="Measured")
    del body["spec"]["rows"][0]["evidence"]
    labels = {**LEARNED["metadata"]["labels"], "shoal.dev/profile-run": "qwen"}
    body["metadata"] = {"name": "of-a-run", "labels": labels, **metadata}
    return body


def test_the_operator_may_write_what_a_run_measured(release: DevCluster) -> None:
    path = f"{PROFILES}/of-a-run"
    _as_operator(release, "PATCH", path, _measured(), params={"fieldManager": "shoal"}, content_type=APPLY)
    _as_operator(release, "PATCH", path, _measured(annotations={"a": "b"}), params=FORCE, content_type=APPLY)
    other = _measured(labels={"app.kubernetes.io/managed-by": "shoal", "shoal.dev/profile-run": "other"})
    with pytest.raises(ApiError, match="did not make"):
        _as_operator(release, "PATCH", path, other, params=FORCE, content_type=APPLY)


def test_profiles_of_others_are_safe_from_the_operator(release: DevCluster) -> None:
    theirs = _changed("metadata", name="measured", labels={}, ownerReferences=[])
    theirs["spec"]["source"] = "Measured"
    release.apply(theirs, namespace="default")
    ours = _changed("metadata", name="measured")
    for body in (ours, _measured(name="measured")):
        with pytest.raises(ApiError, match="did not make"):
            _as_operator(release, "PATCH", f"{PROFILES}/measured", body, params=FORCE, content_type=APPLY)


def test_every_manifest_is_accepted_by_a_dry_run(release: DevCluster) -> None:
    namespaces = {item["metadata"].get("namespace") for item in render(DEFAULTS)} - {None}
    assert namespaces == {NAMESPACE}
    for item in render(DEFAULTS):
        _dry_run(release, item)


def _dry_run(cluster: DevCluster, item: Object) -> None:
    async def ask() -> None:
        async with cluster.client() as client:
            path = await client.path_of(item, NAMESPACE)
            params = {"fieldManager": "test", "force": "true", "dryRun": "All", "fieldValidation": "Strict"}
            await client.request("PATCH", path, item, params=params, content_type="application/apply-patch+yaml")

    run_apart(ask())
