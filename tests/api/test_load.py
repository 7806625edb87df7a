"""Manifests become typed objects, or one error that says where, what, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from api_samples import FULL, changed, full, shortest

from shoal.api.errors import ApiError
from shoal.api.gpu_pool import GPUPool
from shoal.api.load import load_files, load_text
from shoal.api.model_service import ModelService


def _dump(*items: object) -> str:
    return yaml.safe_dump_all(items)


def test_every_kind_loads() -> None:
    assert {type(resource).__name__ for resource in load_text(_dump(*FULL.values()))} == set(FULL)


def test_other_kinds_and_empty_documents_are_skipped() -> None:
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    found = load_text("---\n" + _dump(None, other, full("GPUPool")))
    assert [type(resource) for resource in found] == [GPUPool]


def test_lists_are_opened() -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [full("GPUPool"), full("ModelService")]}
    assert [type(resource) for resource in load_text(_dump(listed))] == [GPUPool, ModelService]


def test_what_is_written_is_what_was_read() -> None:
    for item in FULL.values():
        [resource] = load_text(_dump(item))
        assert load_text(_dump(resource.to_dict())) == (resource,)


def test_dates_without_quotes_stay_text() -> None:
    text = _dump(full("ModelProfile")).replace("'2026-05-04T12:00:00Z'", "2026-05-04T12:00:00Z")
    assert "date: 2026-05-04T12:00:00Z" in text
    assert load_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "f.yaml: not YAML"),
        ("[" * 20_000, "f.yaml: nested too deeply"),
        ("a: 1\na: 2", "key 'a' stands twice"),
        ("- 1", "f.yaml, document 1: not a Kubernetes object. Start it with apiVersion"),
        ("just text", "not a Kubernetes object"),
        (_dump(changed(full("GPUPool"), ("apiVersion", "shoal.dev/v2"))), "apiVersion: unknown version 'shoal.dev/v2'"),
        (_dump(changed(full("GPUPool"), ("kind", "Pool"))), "kind: unknown kind 'Pool'. Use one of ModelService"),
        (_dump(None, changed(full("GPUPool"), ("spec.price", 3))), "document 2 (GPUPool): spec.price: "),
        (_dump(changed(full("GPUPool"), ("spec.price", 3))), "Remove it, or see `kubectl explain`"),
        (_dump(changed(full("GPUPool"), ("spec.pricePerGPUHour", 3.1))), "not 3.1. Put the value in quotes"),
        (_dump(changed(shortest("ModelService"), ("spec.slo", {}))), "spec.slo: give at least one objective"),
        (_dump(changed(shortest("ModelService"), ("spec", {}))), "spec.model: Field required (and 1 more: spec.slo)"),
        (
            _dump(changed(full("GPUPool"), ("spec.namespaces.0.gpuQuota", -1))),
            "spec.namespaces[0].gpuQuota: Input should be greater than or equal to 0, not -1",
        ),
        (
            _dump(changed(full("ModelProfile"), ("spec.rows.0.points.1.ttftMilliseconds.mean", float("nan")))),
            "cannot be written as JSON",
        ),
        (_dump(changed(full("ModelService"), ("spec.model.name", {1: 2, "a": b"x"}))), "cannot be written as JSON"),
    ],
)
def test_errors_say_where_and_what_to_do(text: str, expected: str) -> None:
    with pytest.raises(ApiError) as caught:
        load_text(text, where="f.yaml")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("f.yaml")
    assert "\n" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(_dump(full("GPUPool")))
    assert len(load_files([path])) == 1
    with pytest.raises(ApiError, match=r"missing\.yaml: cannot be read"):
        load_files([tmp_path / "missing.yaml"])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ApiError, match="cannot be read"):
        load_files([tmp_path / "binary.yaml"])
