"""What the operator makes of a ModelService on a real API server, under the chart's permissions."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import Any

import pytest
from operators import Site, condition

pytestmark = pytest.mark.cluster

IMPOSSIBLE = {"ttftMilliseconds": 1, "itlMilliseconds": 0.5}


def owner_of(item: dict[str, Any]) -> tuple[str, bool]:
    (owner,) = item["metadata"]["ownerReferences"]
    return owner["uid"], owner["controller"]


def test_create_and_delete(site: Site) -> None:
    """Everything is made once, owned by the ModelService, and goes with it by garbage collection alone."""
    operator = site.start(SHOAL_ROUTER_IMAGE="envoy:test")
    uid = site.apply_service("chat")["metadata"]["uid"]
    (variant,) = site.eventually(lambda: site.variants("chat"), "no Deployment")
    site.eventually(lambda: site.variants("chat")[0]["spec"]["replicas"] == 1, "not scaled")
    (template,) = site.list("resource.k8s.io/v1", "resourceclaimtemplates")
    budget = site.eventually(
        lambda: [b for b in site.list("policy/v1", "poddisruptionbudgets") if b["metadata"]["name"] == "chat-shoal"],
        "no budget",
    )[0]
    for item in (variant, template, budget):
        assert owner_of(item) == (uid, True)
    assert variant["metadata"]["name"] == template["metadata"]["name"]
    status = site.wait_for_status("chat", lambda found: bool(found.get("plan")))["status"]
    assert status["observedGeneration"] == 1
    assert condition(status, "Ready")["status"] == "False"
    router = site.eventually(
        lambda: [d for d in site.list("apps/v1", "deployments") if d["metadata"]["name"] == "shoal-router"],
        "no router",
    )[0]
    assert [owner["uid"] for owner in router["metadata"]["ownerReferences"]] == [uid]

    site.cluster.request("DELETE", site.service_path("chat"))
    for group, plural in (
        ("apps/v1", "deployments"),
        ("resource.k8s.io/v1", "resourceclaimtemplates"),
        ("resource.k8s.io/v1", "resourceclaims"),
        ("policy/v1", "poddisruptionbudgets"),
        ("v1", "pods"),
        ("v1", "services"),
    ):
        site.eventually(lambda g=group, p=plural: not site.list(g, p), f"{plural} are left", timeout=60)
    assert operator.is_running
    assert "Traceback" not in operator.text()


def test_pods_are_claimed_and_waiting(site: Site) -> None:
    """The scheduler has no GPU: the status says what is waited for, and nobody is called ready."""
    site.start()
    site.apply_service("chat")
    site.eventually(lambda: site.list("v1", "pods", "shoal.dev/model-service=chat"), "no pod")
    status = site.wait_for_status("chat", lambda found: found.get("replicas") == 1)["status"]
    assert status["readyReplicas"] == 0


def test_name_taken(site: Site) -> None:
    """An object of the wanted name that is not ours is never touched, and the condition names it."""
    site.start()
    site.apply_service("chat")
    (variant,) = site.eventually(lambda: site.variants("chat"), "no Deployment")
    name = variant["metadata"]["name"]
    site.stop()
    site.processes.clear()
    site.eventually(lambda: not site.list("apps/v1", "deployments"), "Deployments are left", timeout=60)

    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x", "image": "busybox"}]}}
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": site.namespace},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template},
    }
    before = site.cluster.apply(foreign)[0]
    site.apply_pool(maxGPUs=8)
    site.apply_engine_class()
    site.start()
    site.apply_service("chat")
    status = site.wait_for_status("chat", lambda found: condition(found, "NameTaken").get("status") == "True")["status"]
    assert name in condition(status, "NameTaken")["message"]
    path = f"/apis/apps/v1/namespaces/{site.namespace}/deployments/{name}"
    after = site.cluster.request("GET", path)
    assert after["spec"] == before["spec"]
    assert "ownerReferences" not in after["metadata"]

    site.cluster.request("DELETE", path)
    site.eventually(lambda: site.variants("chat"), "the name was not taken up when it became free", timeout=60)


def test_broken_services_stop_no_other(site: Site) -> None:
    """Unknown pool, unknown class, impossible objective: each is told with the way out, the good one is served."""
    operator = site.start()
    site.apply_service("lost", pools=["nowhere"])
    site.apply_service("classless", engine={"class": "nothing"})
    site.apply_service("hasty", slo=IMPOSSIBLE)
    site.apply_service("good")
    site.eventually(lambda: site.variants("good"), "the good one is not served")

    lost = site.wait_for_status("lost", lambda found: condition(found, "Ready").get("status") == "False")["status"]
    assert condition(lost, "Ready")["reason"] == "PoolNotFound"
    assert "nowhere" in condition(lost, "Ready")["message"]
    assert condition(lost, "Stalled")["status"] == "False"  # somebody may still create the pool
    classless = site.wait_for_status("classless", lambda found: bool(found.get("conditions")))["status"]
    assert condition(classless, "Ready")["reason"] == "EngineClassNotFound"
    hasty = site.wait_for_status("hasty", lambda found: bool(found.get("plan")))["status"]
    assert hasty["plan"]["bindingConstraint"] == "LatencyFloor"
    assert re.search(r"\d", condition(hasty, "Stalled")["message"])
    assert operator.is_running
    assert "Traceback" not in operator.text()

    # What was missing appears later.
    site.apply("EngineClass", "nothing", {"image": "shoal-sim-engine:0.1.0", "version": "0.33.0"})
    try:
        site.eventually(lambda: site.variants("classless"), "the class that appeared later is not used")
    finally:
        site.cluster.request("DELETE", "/apis/shoal.dev/v1alpha1/engineclasses/nothing")


def test_no_gpus(site: Site) -> None:
    """A pool without a single GPU: numbers and the way out in the condition."""
    empty = f"{site.name}-empty"
    site.apply_pool(name=empty, accelerator="NVIDIA-A10")
    site.start()
    site.apply_service("chat", pools=[empty])
    status = site.wait_for_status("chat", lambda found: bool(found.get("plan")))["status"]
    assert status["plan"]["bindingConstraint"] == "Stock"
    assert not site.variants("chat")
    path = f"/apis/shoal.dev/v1alpha1/gpupools/{empty}"
    pool = site.cluster.wait_for(path, lambda found: bool((found.get("status") or {}).get("stock")))["status"]
    assert pool["stock"]["existing"] == 0
    assert condition(pool, "Ready")["reason"] == "NoGPUs"


def test_observe_mode_changes_nothing(site: Site) -> None:
    site.start()
    site.apply_service("chat", mode="Observe")
    status = site.wait_for_status("chat", lambda found: bool(found.get("plan")))["status"]
    assert status["plan"]["summary"] == "1xTP1"
    assert condition(status, "Ready")["reason"] == "ObserveOnly"
    assert not site.list("apps/v1", "deployments")


def test_what_a_person_changes_is_put_back(site: Site) -> None:
    """A Deployment that was scaled or deleted by hand."""
    site.start()
    site.apply_service("chat")
    (variant,) = site.eventually(lambda: site.variants("chat"), "no Deployment")
    path = f"/apis/apps/v1/namespaces/{site.namespace}/deployments/{variant['metadata']['name']}"
    site.eventually(lambda: site.variants("chat")[0]["spec"]["replicas"] == 1, "not scaled")
    merge = {"content_type": "application/merge-patch+json"}
    site.cluster.request("PATCH", path, {"spec": {"replicas": 3}}, **merge)
    site.eventually(lambda: site.variants("chat")[0]["spec"]["replicas"] == 1, "not scaled back")
    site.cluster.request("DELETE", path)
    again = site.eventually(
        lambda: [v for v in site.variants("chat") if v["metadata"]["uid"] != variant["metadata"]["uid"]],
        "not made again",
    )
    assert again[0]["metadata"]["name"] == variant["metadata"]["name"]


def test_probes_and_metrics(site: Site) -> None:
    operator = site.start()
    site.apply_service("chat")
    site.eventually(lambda: site.variants("chat"), "no Deployment")
    health, metrics = operator.settings["SHOAL_HEALTH_PORT"], operator.settings["SHOAL_METRICS_PORT"]
    assert fetch(f"http://127.0.0.1:{health}/healthz") == "ok\n"
    assert fetch(f"http://127.0.0.1:{health}/readyz") == "ok\n"
    lines = fetch(f"http://127.0.0.1:{metrics}/metrics").splitlines()
    numbers = dict(line.rsplit(" ", 1) for line in lines if "{" not in line)
    assert float(numbers["shoal_leader"]) == 1
    assert float(numbers["shoal_writes_total"]) >= 3
    assert float(numbers["shoal_orphan_claims"]) == 0


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def test_status_is_quiet(site: Site) -> None:
    """Once everything stands, nothing is written any more."""
    operator = site.start(SHOAL_PLANNING_INTERVAL_SECONDS="1")
    site.apply_service("chat")
    site.wait_for_status("chat", lambda found: found.get("replicas") == 1)
    version = _settled(site, "chat")
    time.sleep(0.2)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert site.service("chat")["metadata"]["resourceVersion"] == version, operator.tail()
        time.sleep(0.2)


def _settled(site: Site, name: str) -> str:
    """Its resourceVersion, once that has not moved for two seconds."""
    last, since = "", time.monotonic()
    while time.monotonic() - since < 2:
        version = site.service(name)["metadata"]["resourceVersion"]
        if version != last:
            last, since = version, time.monotonic()
        time.sleep(0.1)
    return last
