"""The generator: its files are up to date, small, complete, and it refuses what a CRD should not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from api_samples import CRDS, leaves, schema_of
from pydantic import Field

from shoal.api.base import Metadata, Resource, Shape, camel_case
from shoal.api.crds import DEFINITIONS, MAX_BYTES
from shoal.api.generate import ROOT, main, make_files
from shoal.api.lists import atomic
from shoal.api.schema import SchemaError, make_schema

KINDS = [definition.kind for definition in DEFINITIONS]


def test_generated_files_are_up_to_date() -> None:
    assert main(["--check"]) == 0


def test_check_finds_what_is_out_of_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "crds/modelservices.yaml is out of date" in capsys.readouterr().err
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0
    (tmp_path / "crds/gpupools.yaml").write_text("edited by hand")
    assert main(["--check", "--root", str(tmp_path)]) == 1


@pytest.mark.parametrize("path", make_files(), ids=str)
def test_no_crd_is_large(path: Path) -> None:
    assert (ROOT / path).stat().st_size < MAX_BYTES


@pytest.mark.parametrize("kind", KINDS)
def test_written_crd_is_the_one_tested_here(kind: str) -> None:
    plural = CRDS[kind]["spec"]["names"]["plural"]
    assert yaml.safe_load((ROOT / f"crds/{plural}.yaml").read_text()) == CRDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described_and_bounded(kind: str) -> None:
    for path, node in leaves(schema_of(kind), ""):
        if path in (".apiVersion", ".kind", ".metadata"):
            continue
        described = not path.endswith(".0")
        assert not described or len(node.get("description", "")) > 4, path
        assert "default" not in node, path
        match node.get("type"):
            case "string":
                assert "enum" in node or "maxLength" in node, path
                assert not path.startswith(".spec") or {"enum", "pattern", "maxLength"} & node.keys(), path
            case "integer" | "number":
                assert "enum" in node or {"minimum", "maximum"} <= node.keys(), path
            case "array":
                assert {"maxItems", "x-kubernetes-list-type"} <= node.keys(), path
            case "object":
                assert "properties" in node or "maxProperties" in node, path
            case "boolean":
                pass
            case _:
                assert node["x-kubernetes-int-or-string"], path
                assert {"pattern", "maxLength", "minimum", "maximum"} <= node.keys(), path


def test_spec_strings_have_a_pattern_unless_they_are_prose() -> None:
    loose = [
        f"{kind}{path}"
        for kind in KINDS
        for path, node in leaves(schema_of(kind), "")
        if path.startswith(".spec") and node.get("type") == "string" and not {"pattern", "enum"} & node.keys()
    ]
    assert all(path.startswith("ModelProfile.spec.") and ".provenance." in path for path in loose), loose


@pytest.mark.parametrize(
    ("python", "kubernetes"),
    [
        ("max_gpus", "maxGPUs"),
        ("price_per_gpu_hour", "pricePerGPUHour"),
        ("class_", "class"),
        ("gpus", "gpus"),
        ("dense_tflops_16_bit", "denseTFLOPs16Bit"),
        ("gamma_ms_per_kv_token", "gammaMsPerKVToken"),
        ("oci_image", "ociImage"),
        ("p95", "p95"),
    ],
)
def test_names_are_written_as_kubernetes_writes_them(python: str, kubernetes: str) -> None:
    assert camel_case(python) == kubernetes


@pytest.mark.parametrize(
    ("annotation", "field", "complaint"),
    [
        (int | str, Field(description="x"), "unions"),
        (dict[str, Any], Field(description="x"), "free-form"),
        (dict[str, str], Field(description="x", max_length=3), "free-form"),
        (Any, Field(description="x"), "one type"),
        (str, Field(description="x"), "maxLength"),
        (int, Field(description="x", ge=0), "minimum and maximum"),
        (float, Field(description="x", gt=0), "minimum and maximum"),
        (tuple[int, ...], Field(description="x"), "maxItems"),
        (Annotated[tuple[str, ...], atomic(3)], Field(description="x"), "maxLength"),
        (tuple[int, int], Field(description="x"), "list"),
        (float, Field(description="x", ge=0.5, le=2), "whole"),
        (bool, Field(True, description="x"), "default"),
        (bool, Field(), "description"),
        (Annotated[int, Field(ge=0, le=9, multiple_of=3)], Field(description="x"), "multipleOf"),
    ],
)
def test_generator_refuses(annotation: Any, field: Any, complaint: str) -> None:
    spec = type("Spec", (Shape,), {"__annotations__": {"value": annotation}, "value": field, "__module__": __name__})
    annotations = {"spec": spec, "metadata": Metadata}
    resource = type("Bad", (Resource,), {"__annotations__": annotations, "__module__": __name__})
    with pytest.raises(SchemaError, match=complaint):
        make_schema(resource)


def test_a_list_type_wants_a_tuple() -> None:
    with pytest.raises(TypeError, match="tuple"):
        type("Bad", (Shape,), {"__annotations__": {"value": Annotated[str, atomic(1)]}, "__module__": __name__})


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_columns(kind: str) -> None:
    spec = CRDS[kind]["spec"]
    columns = [column["name"] for column in spec["versions"][0]["additionalPrinterColumns"]]
    assert "shoal" in spec["names"]["categories"]
    assert columns[-1] == "AGE"
    if kind == "ModelService":
        assert spec["names"]["shortNames"] == ["msvc"]
        assert "all" in spec["names"]["categories"]
        assert [c for c in columns if c != "URL"] == ["MODEL", "READY", "PLAN", "GPUS", "SLO", "REASON", "AGE"]
