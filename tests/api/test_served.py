"""What people meet in a cluster: columns, explain, scale, status, server-side apply."""

from __future__ import annotations

from typing import Any

import pytest
from api_samples import CRDS, Object, changed, full, shortest

from e2e.devcluster import DevCluster
from e2e.devcluster.access import run_apart
from e2e.devcluster.client import APPLY_PATCH, ApiError
from shoal.api.gpu_pool import GPUPool
from shoal.api.load import parse_object
from shoal.api.model_service import ModelService
from shoal.api.model_service_status import ModelServiceStatus

pytestmark = pytest.mark.cluster
ROOT = "/apis/shoal.dev/v1alpha1"

STATUS: Object = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "StockExhausted",
            "message": "needs 3 l40s; 24 exist",
            "lastTransitionTime": "2026-05-04T12:00:00Z",
        }
    ],
    "sloSummary": "500ms/40ms p95",
    "replicas": 2,
    "readyReplicas": 1,
    "selector": "shoal.dev/model-service=table",
    "plan": {
        "summary": "2xTP1",
        "variants": [],
        "gpus": 2,
        "predicted": {"utilization": 0.5},
        "costPerHour": "6.20",
        "bindingConstraint": "Demand",
        "reason": "2 replicas carry 40 req/s",
    },
}


@pytest.fixture(scope="module")
def namespace(crds: DevCluster) -> str:
    return crds.create_namespace("api-served")


def _url(namespace: str, name: str = "", subresource: str = "") -> str:
    parts = [f"{ROOT}/namespaces/{namespace}/modelservices", name, subresource]
    return "/".join(part for part in parts if part)


def _create(cluster: DevCluster, namespace: str, item: Object) -> Object:
    created: Object = cluster.request("POST", _url(namespace), item)
    return created


def test_discovery_names(crds: DevCluster) -> None:
    found = {r["kind"]: r for r in crds.request("GET", ROOT)["resources"] if "/" not in r["name"]}
    assert found["ModelService"]["shortNames"] == ["msvc"]
    assert found["ModelService"]["categories"] == ["shoal", "all"]
    assert found["ModelProfile"]["shortNames"] == ["mprof"]
    for kind in CRDS:
        assert found[kind]["singularName"] == kind.lower()
        assert found[kind]["namespaced"] == (kind in ("ModelService", "ModelProfile", "ProfileRun"))


@pytest.mark.parametrize("kind", CRDS)
def test_explain_has_a_text_for_every_field(kind: str, crds: DevCluster) -> None:
    # The API server publishes a kind a moment after it serves it.
    published = crds.wait_for("/openapi/v3/apis/shoal.dev/v1alpha1", lambda found: bool(_find_schema(found, kind)))
    root = _find_schema(published, kind)
    empty = [path for path, text in _described(root["properties"]["spec"], "spec") if not text.strip()]
    empty += [path for path, text in _described(root["properties"].get("status", {}), "status") if not text.strip()]
    assert root["description"]
    assert empty == []


def _find_schema(published: Object, kind: str) -> Object:
    schemas = published.get("components", {}).get("schemas", {})
    return next((value for name, value in schemas.items() if name.endswith(f".v1alpha1.{kind}")), {})


def _described(node: Object, path: str) -> list[tuple[str, str]]:
    found = []
    for name, child in node.get("properties", {}).items():
        found.append((f"{path}.{name}", child.get("description", "")))
        found += _described(child, f"{path}.{name}") + _described(child.get("items", {}), f"{path}.{name}")
    return found


def test_columns_show_the_decision(crds: DevCluster, namespace: str) -> None:
    created = _create(crds, namespace, changed(shortest("ModelService"), ("metadata.name", "table")))
    crds.request("PUT", _url(namespace, "table", "status"), created | {"status": STATUS})
    cells = _table(crds, _url(namespace, "table"))
    assert cells["NAME"] == "table"
    assert cells["MODEL"] == "Qwen/Qwen2.5-7B-Instruct"
    assert (cells["READY"], cells["REASON"]) == ("False", "StockExhausted")
    assert (cells["PLAN"], cells["GPUS"], cells["SLO"]) == ("2xTP1", 2, "500ms/40ms p95")


def _table(cluster: DevCluster, path: str) -> dict[str, Any]:
    """What `kubectl get` prints: the server makes the table, the client only asks for it."""

    async def ask() -> Object:
        async with cluster.client() as client:
            client._session.headers["Accept"] = "application/json;as=Table;g=meta.k8s.io;v=v1"
            return await client.get(path)

    table = run_apart(ask())
    names = [column["name"].upper() for column in table["columnDefinitions"]]
    return dict(zip(names, table["rows"][0]["cells"], strict=True))


def test_status_and_spec_are_written_apart(crds: DevCluster, namespace: str) -> None:
    item = changed(shortest("ModelService"), ("metadata.name", "apart"), ("status", STATUS))
    created = _create(crds, namespace, item)
    assert "status" not in created
    written = crds.request(
        "PUT", _url(namespace, "apart", "status"), changed(created, ("status", STATUS), ("spec.priority", 7))
    )
    assert written["status"]["replicas"] == 2
    assert "priority" not in written["spec"]
    assert written["metadata"]["generation"] == 1


def test_status_is_validated_too(crds: DevCluster, namespace: str) -> None:
    created = _create(crds, namespace, changed(shortest("ModelService"), ("metadata.name", "checked")))
    with pytest.raises(ApiError, match="conditions"):
        crds.request(
            "PUT",
            _url(namespace, "checked", "status"),
            created | {"status": changed(STATUS, ("conditions.0.status", "Maybe"))},
        )


def test_what_the_models_write_comes_back_equal(crds: DevCluster, namespace: str) -> None:
    created = _create(crds, namespace, changed(shortest("ModelService"), ("metadata.name", "round")))
    status = parse_object(ModelService, created | {"status": STATUS}).status
    assert status is not None
    stored = crds.request("PUT", _url(namespace, "round", "status"), created | {"status": status.to_dict()})
    assert stored["status"] == STATUS
    assert parse_object(ModelService, stored).status == status
    assert ModelServiceStatus().to_dict() == {}


def test_unchanged_status_is_no_write(crds: DevCluster, namespace: str) -> None:
    created = _create(crds, namespace, changed(shortest("ModelService"), ("metadata.name", "same")))
    path = _url(namespace, "same", "status")
    versions = {_apply_status(crds, path, created, "shoal")["metadata"]["resourceVersion"] for _ in range(2)}
    assert len(versions) == 1


def test_two_managers_share_the_conditions(crds: DevCluster, namespace: str) -> None:
    created = _create(crds, namespace, changed(shortest("ModelService"), ("metadata.name", "shared")))
    path = _url(namespace, "shared", "status")
    _apply_status(crds, path, created, "shoal")
    other = {"conditions": [STATUS["conditions"][0] | {"type": "Audited", "status": "True"}]}
    both = _apply_status(crds, path, created, "auditor", other)["status"]
    assert {c["type"] for c in both["conditions"]} == {"Ready", "Audited"}
    assert both["plan"]["summary"] == "2xTP1"


def _apply_status(
    cluster: DevCluster, path: str, created: Object, manager: str, status: Object | None = None
) -> Object:
    manifest = {
        "apiVersion": created["apiVersion"],
        "kind": created["kind"],
        "metadata": {"name": created["metadata"]["name"]},
        "status": status or STATUS,
    }
    options = {"params": {"fieldManager": manager, "force": "true"}, "content_type": APPLY_PATCH}
    applied: Object = cluster.request("PATCH", path, manifest, **options)
    return applied


def test_scale_moves_a_manual_service(crds: DevCluster, namespace: str) -> None:
    created = _create(crds, namespace, changed(full("ModelService"), ("metadata.name", "scaled")))
    crds.request("PUT", _url(namespace, "scaled", "status"), created | {"status": STATUS})
    path = _url(namespace, "scaled", "scale")
    scale = crds.request("GET", path)
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (3, 2)
    assert scale["status"]["selector"] == STATUS["selector"]
    for replicas in (0, 1000, 5):
        crds.request("PUT", path, changed(scale, ("spec.replicas", replicas), ("metadata.resourceVersion", "")))
    assert crds.request("GET", _url(namespace, "scaled"))["spec"]["manual"]["replicas"] == 5


@pytest.mark.parametrize("replicas", [-1, 1001])
def test_scale_has_bounds(crds: DevCluster, namespace: str, replicas: int) -> None:
    name = f"bound{abs(replicas)}"
    _create(crds, namespace, changed(full("ModelService"), ("metadata.name", name)))
    path = _url(namespace, name, "scale")
    scale = crds.request("GET", path)
    with pytest.raises(ApiError) as refused:
        crds.request("PUT", path, changed(scale, ("spec.replicas", replicas)))
    assert refused.value.status == 422


def test_scale_refuses_a_service_that_decides_itself(crds: DevCluster, namespace: str) -> None:
    _create(crds, namespace, changed(shortest("ModelService"), ("metadata.name", "auto")))
    path = _url(namespace, "auto", "scale")
    with pytest.raises(ApiError, match="only in mode Manual"):
        crds.request("PATCH", path, {"spec": {"replicas": 3}}, content_type="application/merge-patch+json")


def test_a_pool_round_trips(crds: DevCluster) -> None:
    stored = crds.request("POST", f"{ROOT}/gpupools", full("GPUPool"))
    try:
        assert stored["spec"] == full("GPUPool")["spec"]
        assert parse_object(GPUPool, stored).to_dict()["spec"] == full("GPUPool")["spec"]
    finally:
        crds.request("DELETE", f"{ROOT}/gpupools/h100")


def test_objects_of_a_newer_crd_can_still_be_read() -> None:
    newer = changed(full("ModelService"), ("spec.somethingNew", {"a": 1}), ("spec.slo.extra", 2))
    assert parse_object(ModelService, newer).spec.slo.percentile == 95
