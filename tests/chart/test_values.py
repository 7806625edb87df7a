"""values.schema.json refuses what cannot be meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from chart_tools import ALL_ON, CHART, NAMESPACE, SETTINGS, Object, helm
from jsonschema import Draft7Validator

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULT_VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def _with(path: str, value: Any) -> Object:
    *parents, last = path.split(".")
    result: Object = {}
    node = result
    for step in parents:
        node = node.setdefault(step, {})
    node[last] = value
    return result


def test_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)
    for values in ({}, DEFAULT_VALUES, *SETTINGS.values()):
        partial = Draft7Validator(SCHEMA).iter_errors(values)
        assert [e for e in partial if "required" not in e.message] == []


def test_every_default_has_a_schema_and_the_reverse() -> None:
    for group, node in SCHEMA["properties"].items():
        if group != "global":
            assert set(node["properties"]) == set(DEFAULT_VALUES[group]), group
    assert set(SCHEMA["properties"]) - {"global"} == set(DEFAULT_VALUES)


BAD = [
    ("unknown", {}),
    ("operator.replica", 2),
    ("operator.replicas", 0),
    ("operator.replicas", "2"),
    ("operator.planningIntervalSeconds", 0),
    ("operator.logFormat", "xml"),
    ("operator.watchNamespaces", ["Team_A"]),
    ("operator.watchNamespaces", ["a", "a"]),
    ("operator.watchNamespaces", ["a}]"]),
    ("operator.prometheusURL", "file:///etc/passwd"),
    ("operator.prometheusURL", "http://user:secret@prometheus"),
    ("operator.resources", {"limits": {"memory": "much"}}),
    ("operator.tolerations", [{"key": "a", "operator": "In"}]),
    ("operator.priorityClassName", "Bad Name"),
    ("images.operator.digest", "sha256:123"),
    ("images.operator.tag", "v1\nfoo: bar"),
    ("images.operator.repository", "shoal operator"),
    ("images.operator.name", "x"),
    ("images.pullPolicy", "Sometimes"),
    ("images.envoy", {"tag": "", "digest": ""}),
    ("images.registry", "https://registry.example"),
    ("xds.address", "no-port"),
    ("xds.clusterIP", "localhost"),
    ("taints", {"enabled": "yes"}),
    ("engineClass.name", "Upper"),
    ("engineClass.version", "latest"),
    ("engineClass.env", {"A-B": "x"}),
    ("engineClass.spec", {"image": "other"}),
    ("gpuAgent.env", {"X": {}}),
    ("networkPolicy.metricsFrom", [{}]),
    ("networkPolicy.metricsFrom", [{"pods": {}}]),
]


@pytest.mark.parametrize(("path", "value"), BAD, ids=str)
def test_refused(path: str, value: Any) -> None:
    done = helm("template", "shoal", str(CHART), "--namespace", NAMESPACE, values=_with(path, value))
    assert done.returncode != 0, path
    assert "values don't meet the specifications of the schema" in done.stderr


def test_taints_need_the_policies() -> None:
    values = {"taints": {"enabled": True}, "admissionPolicies": {"enabled": False}}
    done = helm("template", "shoal", str(CHART), values=values)
    assert done.returncode != 0


def test_all_on_says_every_group() -> None:
    assert set(ALL_ON) >= set(DEFAULT_VALUES) - {"crds", "admissionPolicies", "rbac"}
