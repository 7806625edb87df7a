"""Engines that run: nodes with simulated GPUs, real processes, a real Envoy."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from operators import Site, condition

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Object = dict[str, Any]


def manual(replicas: int) -> Object:
    return {"mode": "Manual", "manual": {"replicas": replicas, "tensorParallel": 1, "enginesPerGPU": 1}}


def wait_until_ready(site: Site, name: str, replicas: int) -> Object:
    return site.wait_for_status(
        name,
        lambda found: (
            found.get("readyReplicas") == replicas == found.get("replicas")
            and condition(found, "Ready").get("status") == "True"
        ),
        timeout=90,
    )["status"]


def router_address(site: Site) -> str:
    service = site.cluster.request("GET", f"/api/v1/namespaces/{site.namespace}/services/shoal-router")
    return f"http://{service['spec']['clusterIP']}:8080"


def complete(url: str, model: str, tokens: int = 4) -> int:
    """Send one request; its HTTP status, 0 for a broken connection."""
    body = json.dumps({"model": model, "prompt": "hello", "max_tokens": tokens}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


@contextmanager
def traffic(url: str, model: str, clients: int = 4) -> Iterator[list[int]]:
    """Clients that send one request after the other and never retry; yields the statuses they got."""
    results: list[int] = []
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            results.append(complete(url, model, tokens=40))

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for_answers(site: Site, results: list[int], more: int) -> None:
    goal = len(results) + more
    site.eventually(lambda: len(results) >= goal, "no traffic")


def test_served_scaled_and_nothing_lost(live_site: Site) -> None:
    """From apply to an answer through Envoy; up and down by hand under traffic; GPUs named in the status."""
    site = live_site
    operator = site.start(SHOAL_ROUTER_IMAGE="envoy:1.40", SHOAL_PLANNING_INTERVAL_SECONDS="1")
    site.apply_service("chat", **manual(1))
    status = wait_until_ready(site, "chat", 1)
    (gpu,) = status["gpus"]
    assert gpu["node"] == "gpu-a"
    assert gpu["uuid"].startswith("GPU-")
    assert status["url"].endswith("/chat/v1")
    url = f"{router_address(site)}/chat"
    site.eventually(lambda: complete(url, "chat") == 200, "not served through Envoy")

    with traffic(url, "chat") as results:
        site.apply_service("chat", **manual(3))
        status = wait_until_ready(site, "chat", 3)
        assert len({gpu["uuid"] for gpu in status["gpus"]}) == 3
        wait_for_answers(site, results, 20)
        site.apply_service("chat", **manual(1))
        wait_until_ready(site, "chat", 1)
        wait_for_answers(site, results, 20)
    assert set(results) == {200}, {status: results.count(status) for status in set(results)}
    assert [v["spec"]["replicas"] for v in site.variants("chat")] == [1]
    assert operator.is_running
    assert "Traceback" not in operator.text()


def test_the_last_gpu_is_spent_once(live_site: Site) -> None:
    """Two want three of four GPUs each: the second gets what is left, is told, and gets more once it is free."""
    site = live_site
    site.start(SHOAL_PLANNING_INTERVAL_SECONDS="1")
    pool = f"/apis/shoal.dev/v1alpha1/gpupools/{site.pool}"
    site.cluster.wait_for(pool, lambda found: found.get("status", {}).get("stock", {}).get("free") == 4)
    site.apply_service("first", **manual(3))
    wait_until_ready(site, "first", 3)
    site.apply_service("second", **manual(3))
    status = site.wait_for_status(
        "second", lambda found: (found.get("plan") or {}).get("bindingConstraint") == "Stock", timeout=60
    )["status"]
    assert f"needs 3 {site.pool}; 4 exist: " in condition(status, "Degraded")["message"]
    wait_until_ready(site, "second", 1)
    desired = {name: [v["spec"]["replicas"] for v in site.variants(name)] for name in ("first", "second")}
    assert desired == {"first": [3], "second": [1]}
    # The first gives up two: the second gets them, and never before they are free.
    site.apply_service("first", **manual(1))
    wait_until_ready(site, "second", 3)
    pods = site.list("v1", "pods", "app.kubernetes.io/component=engine")
    assert len([pod for pod in pods if pod["status"]["phase"] == "Running"]) == 4


def test_a_newer_render_revision_rolls_no_pod(live_site: Site, tmp_path: Path) -> None:
    site = live_site
    old = site.start(identity="operator", SHOAL_PLANNING_INTERVAL_SECONDS="1")
    site.apply_service("chat", **manual(2))
    wait_until_ready(site, "chat", 2)
    before = {pod["metadata"]["uid"] for pod in site.list("v1", "pods", "shoal.dev/model-service=chat")}
    old.stop()
    (tmp_path / "sitecustomize.py").write_text("import shoal.render.names as names\nnames.RENDER_REVISION += 1\n")
    path = f"{tmp_path}:{Path(__file__).resolve().parent.parent.parent / 'operator'}"
    new = site.start(identity="operator", SHOAL_PLANNING_INTERVAL_SECONDS="1", PYTHONPATH=path)
    site.eventually(lambda: "leading" in new.text(), "not leading")
    site.apply_service("other", **manual(1))
    wait_until_ready(site, "other", 1)
    (made,) = site.variants("other")
    assert made["metadata"]["annotations"]["shoal.dev/render-revision"] == "2"
    after = {pod["metadata"]["uid"] for pod in site.list("v1", "pods", "shoal.dev/model-service=chat")}
    assert after == before
    site.apply_service("chat", **manual(1))
    wait_until_ready(site, "chat", 1)
    kept = {pod["metadata"]["uid"] for pod in site.list("v1", "pods", "shoal.dev/model-service=chat")}
    assert kept <= before


def test_a_killed_pod_is_replaced_without_the_operator(live_site: Site) -> None:
    """The operator is away: pods heal, the routers serve on."""
    site = live_site
    operator = site.start(SHOAL_ROUTER_IMAGE="envoy:1.40", SHOAL_PLANNING_INTERVAL_SECONDS="1")
    site.apply_service("chat", **manual(2))
    wait_until_ready(site, "chat", 2)
    url = f"{router_address(site)}/chat"
    site.eventually(lambda: complete(url, "chat") == 200, "not served through Envoy")
    operator.kill()
    pods = site.list("v1", "pods", "shoal.dev/model-service=chat")
    victim = pods[0]["metadata"]["name"]
    site.cluster.request("DELETE", f"/api/v1/namespaces/{site.namespace}/pods/{victim}")

    def healed() -> bool:
        found = site.list("v1", "pods", "shoal.dev/model-service=chat")
        ready = [
            p
            for p in found
            if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", ()))
        ]
        return len(ready) == 2 and victim not in {p["metadata"]["name"] for p in ready}

    site.eventually(healed, "not healed", timeout=60)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert complete(url, "chat") == 200
