"""The chart renders, and what it renders is valid, restricted, and says what the values say."""

from __future__ import annotations

import kubernetes_validate
import pytest
import yaml
from chart_tools import (
    ALL_ON,
    CHART,
    DEFAULTS,
    DIGEST,
    NAMESPACE,
    SETTINGS,
    Object,
    find,
    helm,
    pod_templates,
    render,
    render_text,
)
from yamllint import linter
from yamllint.config import YamlLintConfig

from shoal.api.generate import ROOT
from shoal.api.load import load_text
from shoal.reconciler.settings import read_settings
from shoal.render import names

OURS = ("shoal.dev/v1alpha1", "monitoring.coreos.com/v1", "apiextensions.k8s.io/v1")
LINT = YamlLintConfig(
    """
extends: default
rules:
  line-length: disable
  document-start: disable
  comments: {min-spaces-from-content: 2}
  braces: {max-spaces-inside: 0}
  truthy: {check-keys: false}
  indentation: {spaces: consistent, indent-sequences: whatever}
  empty-lines: {max: 2, max-end: 1}
"""
)


@pytest.fixture(params=SETTINGS)
def values(request: pytest.FixtureRequest) -> Object:
    return SETTINGS[request.param]


def test_lint(values: Object) -> None:
    linted = helm("lint", str(CHART), "--strict", "--namespace", NAMESPACE, values=values)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_every_object_is_valid(values: Object) -> None:
    for item in render(values):
        if item["apiVersion"] not in OURS:
            kubernetes_validate.validate(item, "1.37", strict=True)


def test_no_object_stands_twice(values: Object) -> None:
    keys = [(i["apiVersion"], i["kind"], i["metadata"].get("namespace"), i["metadata"]["name"]) for i in render(values)]
    assert len(keys) == len(set(keys))


def test_everything_carries_the_releases_labels(values: Object) -> None:
    for item in render(values):
        if item["kind"] != "CustomResourceDefinition":
            assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "shoal", item["metadata"]["name"]


def test_engine_class_passes_the_offline_check() -> None:
    for chosen in (DEFAULTS, ALL_ON):
        [engine_class] = load_text(yaml.safe_dump_all(i for i in render(chosen) if i["kind"] == "EngineClass"))
        assert engine_class.metadata.name == "default"
    spec = find(render(ALL_ON), "EngineClass", "default")["spec"]
    assert spec["image"] == f"registry.example:5000/team/vllm/vllm-openai@{DIGEST}"
    assert {"name": "COUNT", "value": "3"} in spec["env"]
    assert spec["drainSeconds"] == 60


def test_crds_are_kept() -> None:
    crds = [item for item in render(DEFAULTS) if item["kind"] == "CustomResourceDefinition"]
    assert len(crds) == 5
    assert all(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for crd in crds)


def test_the_operator_understands_its_environment(values: Object) -> None:
    container = pod_templates(render(values))["shoal-operator"]["spec"]["containers"][0]
    environment = {entry["name"]: entry.get("value", "10.1.1.1") for entry in container["env"]}
    settings = read_settings(environment)
    assert settings.namespace == NAMESPACE
    assert settings.planning_interval == 5
    if values is ALL_ON:
        assert settings.watch_namespaces == ("team-a", "team-b")
        assert settings.paused
        assert not settings.json_logs
        assert settings.max_concurrent_moves == 4
        assert settings.max_capacity_loss_percent == 50
        assert settings.energy_price_per_kwh == 0.25
        assert settings.xds_address == "10.0.0.9:18000"
        assert settings.prometheus_url == "http://prometheus.monitoring.svc:9090"
        assert settings.router_image == f"registry.example:5000/team/envoyproxy/envoy@{DIGEST}"
        assert settings.profiler_image == f"registry.example:5000/team/shoal-profiler@{DIGEST}"
    else:
        assert settings.xds_address == f"shoal-xds.{NAMESPACE}.svc:18000"
        assert settings.max_concurrent_moves is None
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": settings.health_port, "metrics": settings.metrics_port, "xds": settings.xds_port}


def test_agents_carry_the_label_the_operator_looks_for() -> None:
    template = pod_templates(render(DEFAULTS))["shoal-gpu-agent"]
    assert template["metadata"]["labels"][names.LABEL_COMPONENT] == names.COMPONENT_GPU_AGENT
    assert template["spec"]["automountServiceAccountToken"] is False


def test_routers_may_reach_the_operator() -> None:
    policy = find(render(DEFAULTS), "NetworkPolicy", "shoal-operator")["spec"]
    [xds] = [rule for rule in policy["ingress"] if rule["ports"][0]["port"] == "xds"]
    labels = {**names.common_labels(), names.LABEL_COMPONENT: names.COMPONENT_ROUTER}
    assert xds["from"] == [{"namespaceSelector": {}, "podSelector": {"matchLabels": labels}}]


def test_metrics_may_be_narrowed() -> None:
    for name in ("shoal-operator", "shoal-gpu-agent"):
        policy = find(render(ALL_ON), "NetworkPolicy", name)
        assert "monitoring" in str(policy)
        assert all(rule.get("from") != [{"namespaceSelector": {}}] for rule in policy["spec"]["ingress"])


def test_pods_are_restricted(values: Object) -> None:
    for name, template in pod_templates(render(values)).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["enableServiceLinks"] is False
        assert all("hostPath" not in volume for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_nothing_is_left_when_all_is_off() -> None:
    kinds = {item["kind"] for item in render(SETTINGS["all-off"])}
    assert not kinds & {"CustomResourceDefinition", "EngineClass", "DaemonSet", "NetworkPolicy"}
    assert "ValidatingAdmissionPolicy" not in kinds


def test_yaml_style() -> None:
    files = [
        CHART / "values.yaml",
        CHART / "Chart.yaml",
        *(ROOT / "examples").glob("*.yaml"),
        *(ROOT / "crds").glob("*"),
    ]
    problems = [f"{path.name}:{p}" for path in files for p in linter.run(path.read_text(), LINT)]
    assert problems == []
    rendered = [p for p in linter.run(render_text(ALL_ON), LINT) if p.rule in ("key-duplicates", None)]
    assert rendered == []
