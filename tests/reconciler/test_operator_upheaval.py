"""What upsets a whole cluster, hence a cluster of its own: CRDs, namespaces and permissions go and come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from operators import Site, render_chart

from e2e.devcluster import Config, DevCluster
from e2e.devcluster.client import ApiError
from shoal.api.crds import SCHEMA_REVISION

pytestmark = [pytest.mark.cluster, pytest.mark.long]

BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modelservices.shoal.dev"


@pytest.fixture
def own_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    cluster = DevCluster(Config(nodes=()))
    with capture.global_and_fixture_disabled():
        cluster.start()
    site = Site(cluster, tmp_path)
    site.install()
    site.apply_pool(maxGPUs=8)
    site.apply_engine_class()
    yield site
    site.stop()
    cluster.stop()


def apply_when_served(site: Site, name: str) -> None:
    """The API server needs a moment to serve a new CRD."""

    def applied() -> bool:
        try:
            site.apply_service(name)
        except ApiError:
            return False
        return True

    site.eventually(applied, "the CRD is not served")


def test_everything_goes_and_comes_back(own_site: Site) -> None:
    site, cluster = own_site, own_site.cluster
    operator = site.start(SHOAL_RESYNC_SECONDS="5")
    site.apply_service("first")
    site.eventually(lambda: site.variants("first"), "no Deployment")

    definition = next(
        m for m in render_chart(site.operator_namespace) if m["metadata"]["name"] == CRD.rsplit("/", 1)[-1]
    )
    cluster.delete(definition)
    cluster.wait_until_gone(CRD)
    site.eventually(lambda: "serves no ModelService" in operator.text(), "the missing CRD is not noticed")
    cluster.apply(definition)
    apply_when_served(site, "second")
    site.eventually(lambda: site.variants("second"), "not served after the CRD came back", timeout=60)
    site.eventually(lambda: not site.variants("first"), "what went with the CRD is left", timeout=60)

    site.apply_service("third")
    cluster.request("DELETE", f"/api/v1/namespaces/{site.namespace}")
    cluster.wait_until_gone(f"/api/v1/namespaces/{site.namespace}", timeout=120)
    cluster.create_namespace(site.namespace)
    site.apply_service("fourth")
    site.eventually(lambda: site.variants("fourth"), "not served after the namespace came back", timeout=60)

    saved = [b for b in cluster.request("GET", BINDINGS)["items"] if site.name in b["metadata"]["name"]]
    for binding in saved:
        cluster.request("DELETE", f"{BINDINGS}/{binding['metadata']['name']}")
    site.eventually(lambda: "is forbidden" in operator.text(), "the missing permissions are not noticed")
    site.apply_service("fifth")
    time.sleep(0.2)
    for binding in saved:
        body = {key: binding[key] for key in ("roleRef", "subjects")}
        head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
        cluster.apply({**head, "metadata": {"name": binding["metadata"]["name"]}, **body})
    site.eventually(lambda: site.variants("fifth"), "not served after the permissions came back", timeout=60)
    assert operator.is_running
    assert "Traceback" not in operator.text()


def test_nothing_is_written_while_the_crds_are_older(own_site: Site) -> None:
    site, cluster = own_site, own_site.cluster
    merge = {"content_type": "application/merge-patch+json"}
    cluster.request("PATCH", CRD, {"metadata": {"annotations": {"shoal.dev/schema-revision": "0"}}}, **merge)
    operator = site.start(SHOAL_RESYNC_SECONDS="1")
    site.apply_service("chat")
    site.eventually(lambda: "older than this operator" in operator.text(), "the old CRD is not noticed")
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert not site.variants("chat")
        assert "status" not in site.service("chat")
        time.sleep(0.2)
    cluster.request(
        "PATCH", CRD, {"metadata": {"annotations": {"shoal.dev/schema-revision": str(SCHEMA_REVISION)}}}, **merge
    )
    site.eventually(lambda: site.variants("chat"), "not served with new CRDs")
