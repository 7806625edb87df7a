"""Bad input of every class, in every field: refused by the API server and offline alike.

The values come from the schema itself, so a new field is tried without being named here.
"""

from __future__ import annotations

from typing import Any

import pytest
from api_samples import CRDS, DELETE, Object, Verdicts, at, changed, full, leaves, schema_of

from shoal.api.errors import ApiError
from shoal.api.load import KINDS, parse

HOSTILE = (
    "-leading",
    "--port=1",
    "../up",
    "a/../b",
    "a b",
    "a\nb",
    "a\x00b",
    'a"b',
    "a'b",
    "a{b}",
    "{{ .Values.x }}",
    "$(POD_IP)",
    "`id`",
    "a;b",
    "ünïcode",
    "\u202e",
    '"} or vector(1) #',
    "0x10",
    "NaN",
)
WRONG_TYPES: dict[str, tuple[Any, ...]] = {
    "string": (5, True, [], {}),
    "integer": ("5", 1.5, True, [], {}, "NaN"),
    "number": ("5", True, [], {}, "NaN", "Infinity"),
    "boolean": ("true", 1, [], {}),
    "array": ({}, "x", 5),
    "object": ([], "x", 5),
}
FIELDS = [
    (kind, path)
    for kind in CRDS
    for path, _ in leaves(schema_of(kind)["properties"]["spec"], "spec")
    if at(full(kind), path) is not DELETE
]


def node_at(kind: str, path: str) -> Object:
    return dict(leaves(schema_of(kind)["properties"]["spec"], "spec"))[path]


def surely_bad(node: Object, value: Any) -> list[Any]:
    """Values that no field with this schema may hold."""
    kind = node.get("type", "quantity")
    bad: list[Any] = list(WRONG_TYPES.get(kind, ([], {}, True)))
    if "enum" in node:
        bad += ["Other", ""] if kind == "string" else [0, -1, 3, 9]
    elif kind == "string":
        bad += ["x" * (node["maxLength"] + 1)] + ([""] if node.get("minLength") else [])
    elif kind in ("integer", "number"):
        bad += [node["minimum"] - 1, node["maximum"] + 1, -1, 10**30]
        bad += [node["minimum"]] if node.get("exclusiveMinimum") else []
    elif kind == "quantity":
        bad += [-1, 1.5, 10**15, "-1Gi", "1 Gi", "1GiB", "1e3", "Gi", "1" * 21, ""]
    elif kind == "array":
        bad += [value * (node["maxItems"] + 1)] + ([[]] if node.get("minItems") else [])
        bad += [value + value] if node["x-kubernetes-list-type"] in ("set", "map") else []
    elif kind == "object" and "properties" in node:
        bad += [{**value, "unknownField": 1}]
    elif kind == "object":
        bad += [{f"k{i}": "v" for i in range(node["maxProperties"] + 1)}, {"key": 5}, {"-key": "v"}, {"key": "-v"}]
    return bad


def debatable(node: Object) -> list[Any]:
    """Values that a field may or may not hold: both judges must say the same."""
    kind = node.get("type", "quantity")
    if kind == "string":
        return list(HOSTILE)
    if kind in ("integer", "number") and "enum" not in node:
        return [node["minimum"], node["maximum"], 0, 1, 1000]
    if kind == "quantity":
        return [0, 1, 80, "0", "1", "1Ki", "500m", "0.5", "1.5Gi", "80Gi", "1000000G"]
    return [[], {}] if kind in ("array", "object") else []


def is_accepted_offline(kind: str, item: Object) -> bool:
    try:
        parse(KINDS[kind], item, unknown="forbid")
    except ApiError:
        return False
    return True


@pytest.mark.parametrize(("kind", "path"), FIELDS)
def test_bad_values_are_refused_offline(kind: str, path: str) -> None:
    item = full(kind)
    for value in surely_bad(node_at(kind, path), at(item, path)):
        with pytest.raises(ApiError) as caught:
            parse(KINDS[kind], changed(item, (path, value)), unknown="forbid")
        assert "spec" in caught.value.field


@pytest.mark.cluster
@pytest.mark.parametrize(("kind", "path"), FIELDS)
def test_api_server_refuses_bad_values_and_agrees_on_others(kind: str, path: str, verdicts: Verdicts) -> None:
    item, node = full(kind), node_at(kind, path)
    bad = surely_bad(node, at(item, path))
    tried = [changed(item, (path, value)) for value in [*bad, *debatable(node), DELETE]]
    online = [answer is None for answer in verdicts(tried)]
    assert [value for value, accepted in zip(bad, online, strict=False) if accepted] == []
    offline = [is_accepted_offline(kind, each) for each in tried]
    assert [at(t, path) for t, a, b in zip(tried, online, offline, strict=True) if a != b] == []


STRICT_PATTERNS = [
    (kind, path)
    for kind, path in FIELDS
    if kind in ("ModelService", "GPUPool") and {"pattern"} & node_at(kind, path).keys()
]


@pytest.mark.parametrize(("kind", "path"), STRICT_PATTERNS)
def test_nothing_hostile_gets_through_a_pattern(kind: str, path: str) -> None:
    """Whoever writes a ModelService cannot smuggle arguments, paths, templates or queries into a name."""
    item = full(kind)
    passed = [value for value in HOSTILE if is_accepted_offline(kind, changed(item, (path, value)))]
    assert set(passed) <= {"0x10", "NaN"}


@pytest.mark.parametrize(
    "name",
    ["-rf", "a//b", "a/b/c", "org/-x", "org/..", ".hidden/x", "a..b", "a/b.", "", "org/", "/x", "a/b\n", "https://x/y"],
)
def test_model_names_that_are_no_names(name: str) -> None:
    assert not is_accepted_offline("ModelService", changed(full("ModelService"), ("spec.model.name", name)))


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-7B-Instruct", "gpt2", "facebook/opt-125m", "a__b/c_d.e-f", "01-ai/Yi-6B"]
)
def test_model_names_that_are(name: str) -> None:
    assert is_accepted_offline("ModelService", changed(full("ModelService"), ("spec.model.name", name)))


@pytest.mark.parametrize("count", ["0B", "0.0B", "00M", "7.6", "7,6B", "-1B", "7.6b", "12345B", "1.2345B"])
def test_parameter_counts_that_are_none(count: str) -> None:
    assert not is_accepted_offline("ModelService", changed(full("ModelService"), ("spec.model.parameters", count)))


@pytest.mark.parametrize("count", ["0.5B", "7B", "7.6B", "125M", "0.50B", "1.543B"])
def test_parameter_counts(count: str) -> None:
    assert is_accepted_offline("ModelService", changed(full("ModelService"), ("spec.model.parameters", count)))
