"""RBAC as it is written: nothing wide, nothing that could be turned into more."""

from __future__ import annotations

import pytest
from chart_tools import ALL_ON, DEFAULTS, NAMESPACE, SETTINGS, Object, find, render

FORBIDDEN_RESOURCES = {
    "secrets",
    "pods/exec",
    "pods/attach",
    "pods/portforward",
    "pods/proxy",
    "pods/ephemeralcontainers",
    "nodes/proxy",
    "services/proxy",
    "serviceaccounts",
    "serviceaccounts/token",
    "roles",
    "rolebindings",
    "clusterroles",
    "clusterrolebindings",
    "validatingadmissionpolicies",
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "certificatesigningrequests",
    "daemonsets",
    "cronjobs",
}
FORBIDDEN_VERBS = {"escalate", "bind", "impersonate", "deletecollection", "approve", "sign"}


def _rules(items: list[Object], *, people: bool) -> list[tuple[str, Object]]:
    return [
        (item["metadata"]["name"], rule)
        for item in items
        if item["kind"] in ("Role", "ClusterRole")
        and any("aggregate-to" in label for label in item["metadata"]["labels"]) == people
        for rule in item["rules"]
    ]


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_role_is_wide(setting: str) -> None:
    for name, rule in _rules(render(SETTINGS[setting]), people=False):
        assert "*" not in str(rule), name
        assert not FORBIDDEN_RESOURCES & set(rule["resources"]), name
        assert not FORBIDDEN_VERBS & set(rule["verbs"]), name
        assert "nonResourceURLs" not in rule


def test_people_get_only_our_namespaced_kinds_to_write() -> None:
    for name, rule in _rules(render(DEFAULTS), people=True):
        assert rule["apiGroups"] == ["shoal.dev"], name
        if set(rule["verbs"]) - {"get", "list", "watch"}:
            assert set(rule["resources"]) <= {"modelservices", "modelservices/scale", "modelprofiles", "profileruns"}, (
                name
            )


def test_the_operator_never_writes_wishes() -> None:
    """Statuses, and profiles that were learned or measured, which the policy shoal-model-profiles holds it to."""
    writes = {"create", "update", "patch", "delete"}
    for _, rule in _rules(render(ALL_ON), people=False):
        if "shoal.dev" in rule["apiGroups"] and writes & set(rule["verbs"]):
            if rule["resources"] == ["modelprofiles"]:
                assert rule["verbs"] == ["create", "patch"]
            else:
                assert all(resource.endswith("/status") for resource in rule["resources"])


def test_crds_and_the_lease_are_named() -> None:
    for _, rule in _rules(render(DEFAULTS), people=False):
        if "customresourcedefinitions" in rule["resources"]:
            assert rule["verbs"] == ["get"]
            assert len(rule["resourceNames"]) == 5
        if "leases" in rule["resources"] and rule["verbs"] != ["create"]:
            assert rule["resourceNames"] == ["shoal-operator"]


def test_taints_only_on_wish() -> None:
    def may_taint(values: Object) -> bool:
        rules = _rules(render(values), people=False)
        return any("devicetaintrules" in rule["resources"] and "create" in rule["verbs"] for _, rule in rules)

    assert not may_taint(DEFAULTS)
    assert may_taint(ALL_ON)


def test_writes_stay_in_the_watched_namespaces() -> None:
    bindings = [i for i in render(ALL_ON) if i["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    places = [b["metadata"].get("namespace") for b in bindings if b["roleRef"]["name"] == "shoal-operator-services"]
    assert places == ["team-a", "team-b"]
    everywhere = find(render(DEFAULTS), "ClusterRoleBinding", "shoal-operator-services")
    assert everywhere["subjects"] == [{"kind": "ServiceAccount", "name": "shoal-operator", "namespace": NAMESPACE}]


def test_jobs_are_made_and_deleted_where_runs_live_and_never_changed() -> None:
    found = {name: rule["verbs"] for name, rule in _rules(render(ALL_ON), people=False) if "jobs" in rule["resources"]}
    assert found == {"shoal-operator": ["get", "list", "watch"], "shoal-operator-profiles": ["create", "delete"]}
    bindings = [i for i in render(ALL_ON) if i["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    places = [b["metadata"].get("namespace") for b in bindings if b["roleRef"]["name"] == "shoal-operator-profiles"]
    assert places == ["team-a", "team-b", NAMESPACE]
    assert find(render(DEFAULTS), "ClusterRoleBinding", "shoal-operator-profiles")


def test_the_agent_has_no_rights() -> None:
    subjects = [s["name"] for i in render(ALL_ON) for s in i.get("subjects", [])]
    assert set(subjects) == {"shoal-operator"}
