"""What the CRD accepts, the models accept: random objects, asked in the API server and offline."""

from __future__ import annotations

from typing import Any

import pytest
from api_samples import FULL, Object, Verdicts, schema_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shoal.api.errors import ApiError
from shoal.api.load import KINDS, parse


def values_of(schema: Object, sample: Any) -> st.SearchStrategy[Any]:
    """Values near what a schema allows: samples where there is a pattern, numbers around the bounds elsewhere."""
    kind = schema.get("type", "quantity")
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if kind == "object" and "properties" in schema:
        return _objects(schema, sample)
    if kind == "array":
        item = sample[0] if isinstance(sample, list) and sample else None
        return st.lists(values_of(schema["items"], item), max_size=3)
    if kind in ("integer", "number"):
        near = [schema["minimum"], schema["maximum"], 1, 2, 4, 100]
        return st.sampled_from(near if kind == "integer" else [*near, 0.25, 99.5])
    leaves = {"quantity": st.sampled_from(["1Gi", "2Gi", "80Gi", "0", 1, 4, "4"]), "boolean": st.booleans()}
    return leaves.get(kind, st.just(sample if sample is not None else "x"))


@st.composite
def _objects(draw: st.DrawFn, schema: Object, sample: Any) -> Object:
    required = set(schema.get("required", []))
    result = {}
    for name, child in schema["properties"].items():
        if name in required or draw(st.booleans()):
            known = sample.get(name) if isinstance(sample, dict) else None
            result[name] = draw(values_of(child, known))
    return result


@pytest.mark.cluster
@pytest.mark.parametrize("kind", FULL)
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_both_judges_agree(kind: str, verdicts: Verdicts, data: st.DataObject) -> None:
    spec = schema_of(kind)["properties"]["spec"]
    specs = [data.draw(values_of(spec, FULL[kind]["spec"])) for _ in range(8)]
    items = [FULL[kind] | {"spec": spec} for spec in specs]
    for item, answer in zip(items, verdicts(items), strict=True):
        try:
            parse(KINDS[kind], item, unknown="forbid")
            offline = None
        except ApiError as error:
            offline = str(error)
        assert (answer is None) == (offline is None), (item, answer, offline)
