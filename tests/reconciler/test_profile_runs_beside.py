"""ProfileRuns beside services: cancelled, with engines that do not start, and giving GPUs back."""

from __future__ import annotations

from pathlib import Path

import pytest
from operators import Site, condition
from run_world import MODEL, SETTINGS, apply_run, leftovers, obey, ready

pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.fixture
def slow_engines(live_site: Site, tmp_path: Path) -> Site:
    return obey(live_site, tmp_path)


def test_cancelled_by_deletion_with_nothing_left(slow_engines: Site) -> None:
    """Also while the operator is away."""
    site = slow_engines
    operator = site.start(**SETTINGS)
    apply_run(site, "qwen")
    site.wait_for_run("qwen", lambda found: ready(found)[1] == "Measuring", timeout=150)
    operator.kill()
    site.cluster.request("DELETE", site.run_path("qwen"))
    site.eventually(lambda: not leftovers(site), "Jobs or claims are left", timeout=150)
    assert site.list("shoal.dev/v1alpha1", "modelprofiles") == []


def test_an_engine_that_does_not_start_is_told(live_site: Site) -> None:
    """Its last words stand in the condition, the other configuration is tried, the GPUs are given back."""
    site = live_site
    site.apply_engine_class(env=[{"name": "SHOAL_SIM_PROFILE_DIR", "value": "/nowhere/at/all"}])
    site.start(**SETTINGS)
    apply_run(site, "qwen", configurations=[{"tensorParallel": 1}, {"tensorParallel": 2}], budgetMinutes=2)
    status = site.wait_for_run("qwen", lambda found: ready(found)[1] == "NothingMeasured", timeout=240)["status"]
    message = condition(status, "Stalled")["message"]
    assert condition(status, "Stalled")["status"] == "True"
    assert "engine-0 does not start: " in message
    assert "/nowhere/at/all" in message
    assert [entry["state"] for entry in status["configurations"]] == ["Failed", "Failed"]
    site.eventually(lambda: not leftovers(site), "Jobs or claims are left", timeout=150)


def test_services_come_first(slow_engines: Site) -> None:
    """A run holds a GPU as `profile ...`, gives it back when a service needs it, and waits with numbers."""
    site = slow_engines
    site.start(**SETTINGS)
    apply_run(site, "qwen")
    site.wait_for_run("qwen", lambda found: ready(found)[1] == "Measuring", timeout=150)
    pool = f"/apis/shoal.dev/v1alpha1/gpupools/{site.pool}"
    holder = f"profile {site.namespace}/qwen"
    site.cluster.wait_for(
        pool, lambda found: holder in [h["name"] for h in found["status"].get("holders") or ()], timeout=90
    )
    manual = {"replicas": 4, "tensorParallel": 1, "enginesPerGPU": 1}
    site.apply_service("chat", model={"name": MODEL}, mode="Manual", manual=manual)
    status = site.wait_for_run("qwen", lambda found: ready(found)[1] == "WaitingForGPUs", timeout=150)["status"]
    site.wait_for_status("chat", lambda found: found.get("readyReplicas") == 4, timeout=90)
    status = site.wait_for_run(
        "qwen", lambda found: "services hold or plan 4" in condition(found, "Ready")["message"], timeout=150
    )["status"]
    assert condition(status, "Reconciling")["status"] == "True"
    assert site.list("batch/v1", "jobs") == []
    site.apply_service("chat", model={"name": MODEL}, mode="Manual", manual=manual | {"replicas": 3})
    site.wait_for_run("qwen", lambda found: ready(found)[1] == "Measuring", timeout=180)
