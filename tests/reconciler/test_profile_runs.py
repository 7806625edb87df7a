"""ProfileRuns against a real API server without nodes: what is told, and what is never touched."""

from __future__ import annotations

from typing import Any

import pytest
from operators import Site, condition

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Object = dict[str, Any]
SETTINGS = {"SHOAL_PROFILER_IMAGE": "shoal-profiler:test", "SHOAL_PLANNING_INTERVAL_SECONDS": "1"}


def apply_run(site: Site, name: str, **spec: Any) -> Object:
    wish = {
        "model": {"name": "Qwen/Qwen2.5-7B-Instruct"},
        "engine": {"class": site.engine_class},
        "pool": site.pool,
        **spec,
    }
    return site.apply("ProfileRun", name, wish, namespace=site.namespace)


def wait_for(site: Site, name: str, reason: str) -> str:
    """Wait for this reason of Ready; its message."""
    found = site.wait_for_run(name, lambda status: condition(status, "Ready").get("reason") == reason, timeout=90)
    message: str = condition(found["status"], "Ready")["message"]
    return message


def test_waits_with_numbers_and_takes_nothing(site: Site) -> None:
    operator = site.start(**SETTINGS)
    apply_run(site, "qwen")
    assert "needs 1 GPU of pool" in wait_for(site, "qwen", "WaitingForGPUs")
    assert "of 0 that Shoal may use" in wait_for(site, "qwen", "WaitingForGPUs")
    status = site.run("qwen")["status"]
    assert status["progress"] == "0/1"
    assert [entry["shape"] for entry in status["configurations"]] == ["TP1"]
    assert condition(status, "Reconciling")["status"] == "True"
    assert site.list("batch/v1", "jobs") == []
    assert site.list("resource.k8s.io/v1", "resourceclaimtemplates") == []
    assert "Traceback" not in operator.text()


def test_problems_are_told(site: Site) -> None:
    site.apply_pool(
        name=f"{site.name}-closed", namespaces=[{"selector": {"matchLabels": {"team": "nobody"}}, "gpuQuota": 1}]
    )
    site.apply_engine_class(allowedSources=["HuggingFace"])
    site.start(**SETTINGS)
    apply_run(site, "a", pool="nowhere")
    apply_run(site, "b", pool=f"{site.name}-closed")
    apply_run(site, "c", engine={"class": "none"})
    apply_run(site, "d", model={"name": "acme/private"})
    apply_run(site, "e", model={"name": "acme/x-400b"})
    apply_run(site, "f", model={"name": "acme/x-1b", "source": {"persistentVolumeClaim": {"claimName": "models"}}})
    assert "no GPUPool nowhere" in wait_for(site, "a", "PoolNotFound")
    assert "does not admit" in wait_for(site, "b", "PoolNotAdmitted")
    assert "no EngineClass none" in wait_for(site, "c", "EngineClassNotFound")
    assert "model.parameters" in wait_for(site, "d", "ModelSizeUnknown")
    assert "a pool with larger ones" in wait_for(site, "e", "DoesNotFit")
    assert "does not allow model source PersistentVolumeClaim" in wait_for(site, "f", "SourceNotAllowed")


def test_what_does_not_fit_fails_at_once_and_the_rest_waits(site: Site) -> None:
    site.start(**SETTINGS)
    sizes = [{"enginesPerGPU": 8}, {"tensorParallel": 1}]
    apply_run(site, "qwen", configurations=sizes)
    wait_for(site, "qwen", "WaitingForGPUs")
    first, second = site.run("qwen")["status"]["configurations"]
    assert first["state"] == "Failed"
    assert "fewer engines per GPU" in first["message"]
    assert second["state"] == "Waiting"
    apply_run(site, "large", configurations=sizes[:1])
    wait_for(site, "large", "NothingMeasured")
    apply_run(site, "large", configurations=sizes[1:])
    wait_for(site, "large", "WaitingForGPUs")


def test_a_profile_of_somebody_else_is_never_touched(site: Site) -> None:
    theirs = {
        "model": {
            "name": "acme/m",
            "parameterCount": 1e9,
            "weightsBytes": 2e9,
            "kvBytesPerToken": 1000,
            "maxContextTokens": 4096,
        },
        "accelerator": "NVIDIA-L40S",
        "engine": {"name": "vllm", "version": "0.33.0"},
        "source": "Measured",
        "rows": [
            {
                "tensorParallel": 1,
                "enginesPerGPU": 1,
                "maxNumSeqs": 256,
                "maxNumBatchedTokens": 2048,
                "kvCacheTokens": 10000,
                "inputTokens": {"mean": 100},
                "outputTokens": {"mean": 50},
                "overloadRate": 3,
            }
        ],
    }
    site.apply("ModelProfile", "qwen", theirs, namespace=site.namespace)
    site.start(**SETTINGS)
    apply_run(site, "qwen")
    assert "ModelProfile qwen exists and is not Shoal's" in wait_for(site, "qwen", "NameTaken")
    site.cluster.request("DELETE", f"/apis/shoal.dev/v1alpha1/namespaces/{site.namespace}/modelprofiles/qwen")
    wait_for(site, "qwen", "WaitingForGPUs")


def test_without_an_image_it_says_so(site: Site) -> None:
    site.start(SHOAL_PLANNING_INTERVAL_SECONDS="1")
    apply_run(site, "qwen")
    assert "SHOAL_PROFILER_IMAGE" in wait_for(site, "qwen", "NoProfilerImage")


def test_the_brake_holds(site: Site) -> None:
    site.start(**SETTINGS, SHOAL_PAUSED="true")
    apply_run(site, "qwen")
    wait_for(site, "qwen", "Paused")


def test_runs_of_the_operators_namespace_count_and_others_do_not(site: Site) -> None:
    """With watched namespaces: the library is measured too, somebody else's namespace is not."""
    site.start(**SETTINGS)
    site.cluster.create_namespace(f"else-{site.name}")
    wish = {"model": {"name": "Qwen/Qwen2.5-7B-Instruct"}, "engine": {"class": site.engine_class}, "pool": site.pool}
    for namespace in (f"else-{site.name}", site.operator_namespace):
        site.apply("ProfileRun", "qwen", wish, namespace=namespace)
    root = "/apis/shoal.dev/v1alpha1/namespaces/{}/profileruns/qwen"
    site.cluster.wait_for(
        root.format(site.operator_namespace),
        lambda found: condition(found.get("status") or {}, "Ready").get("reason") == "WaitingForGPUs",
        timeout=90,
    )
    elsewhere = site.cluster.request("GET", root.format(f"else-{site.name}"))
    assert "status" not in elsewhere
    for namespace in (f"else-{site.name}", site.operator_namespace):
        site.cluster.request("DELETE", root.format(namespace))
