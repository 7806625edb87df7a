"""ProfileRuns that run: engines and profilers as processes on simulated GPUs, under the chart's permissions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from operators import Operator, Site, condition
from proxy import Proxy, Script, Write

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Object = dict[str, Any]

ALPHA, BETA, GAMMA = 30.0, 0.6, 0.0015  # ms: what the simulated engine obeys
KV_TOKENS = 200_000
INPUT, OUTPUT, BATCH, CHUNK = 128, 32, 16, 1024
MODEL = "Qwen/Qwen2.5-7B-Instruct"
TRUTH = {
    "apiVersion": "shoal.dev/v1alpha1",
    "kind": "ModelProfile",
    "metadata": {"name": "truth"},
    "spec": {
        "model": {
            "name": MODEL,
            "parameterCount": 7_616_000_000,
            "weightsBytes": 15_232_000_000,
            "kvBytesPerToken": 57344,
            "maxContextTokens": 32768,
        },
        "accelerator": "NVIDIA-H100-80GB-HBM3",
        "engine": {"name": "vllm", "version": "0.33.0"},
        "source": "Simulated",
        "rows": [
            {
                "tensorParallel": 1,
                "enginesPerGPU": 1,
                "maxNumSeqs": BATCH,
                "maxNumBatchedTokens": CHUNK,
                "kvCacheTokens": KV_TOKENS,
                "inputTokens": {"mean": INPUT},
                "outputTokens": {"mean": OUTPUT},
                "steps": {"alphaMs": ALPHA, "betaMsPerToken": BETA, "gammaMsPerKVToken": GAMMA},
            }
        ],
    },
}
OF_RUNS = ("jobs", "resourceclaimtemplates", "modelprofiles", "profileruns")
SETTINGS = {
    "SHOAL_PROFILER_IMAGE": "shoal-profiler:test",
    "SHOAL_PLANNING_INTERVAL_SECONDS": "1",
    # Clients, engine and control plane share a few busy cores here.
    "SHOAL_PROFILER_MOST_LAG_MILLISECONDS": "1000",
}


@pytest.fixture
def slow_engines(live_site: Site, tmp_path: Path) -> Site:
    """Engines that obey TRUTH, so slow that the clients need little of the machine."""
    (tmp_path / "truth.yaml").write_text(yaml.safe_dump(TRUTH))
    environment = {"SHOAL_SIM_STARTUP_SECONDS": "1", "SHOAL_SIM_PROFILE_DIR": str(tmp_path)}
    live_site.apply_engine_class(env=[{"name": name, "value": value} for name, value in environment.items()])
    return live_site


def apply_run(site: Site, name: str, *, namespace: str | None = None, **spec: Any) -> Object:
    wish = {
        "model": {"name": MODEL, "maxContextTokens": 2048},
        "engine": {"class": site.engine_class},
        "pool": site.pool,
        "configurations": [{"maxNumSeqs": BATCH, "maxNumBatchedTokens": CHUNK}],
        "lengths": {"inputTokens": INPUT, "outputTokens": OUTPUT},
        "budgetMinutes": 2,
        **spec,
    }
    return site.apply("ProfileRun", name, wish, namespace=namespace or site.namespace)


def ready(status: Object) -> tuple[str | None, str | None]:
    found = condition(status, "Ready")
    return found.get("status"), found.get("reason")


def leftovers(site: Site) -> list[Object]:
    """Jobs, their pods, claims and claim templates that are still there."""
    kinds = (
        ("batch/v1", "jobs"),
        ("v1", "pods"),
        ("resource.k8s.io/v1", "resourceclaims"),
        ("resource.k8s.io/v1", "resourceclaimtemplates"),
    )
    return [item for kind in kinds for item in site.list(*kind, selector="shoal.dev/profile-run")]


class KillAfterEachKindOfWrite(Script):
    """Kills the operator when it has the answer to a write for a run; `killed` names their kinds.

    Of the writes of statuses, those that tell of points under way are let through.
    """

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.killed: list[str] = []
        self.answered = self._kill
        self._operator = operator
        self._last = ""

    def _kill(self, write: Write) -> None:
        kind = next((kind for kind in OF_RUNS if f"/{kind}/" in f"{write.path}/"), None)
        if kind is None:
            return
        last, self._last = self._last, kind
        if kind != "profileruns" or last != "profileruns":
            self.killed.append(f"{write.method} {kind}")
            self._operator.process.kill()


@pytest.fixture
def proxy(slow_engines: Site) -> Iterator[Proxy]:
    with Proxy(slow_engines.cluster.admin_kubeconfig_path).running() as running:
        yield running


@pytest.mark.timeout(700)
def test_measures_what_the_engine_obeys_whatever_becomes_of_the_operator(slow_engines: Site, proxy: Proxy) -> None:
    """The operator dies after each kind of write. The profile is the engine's own, and nothing is left over."""
    site = slow_engines
    operator = site.start(server=proxy.url, identity="operator", **SETTINGS)
    killer = proxy.script = KillAfterEachKindOfWrite(operator)
    apply_run(site, "qwen", profileName="measured-qwen")

    def live_on() -> None:
        if not operator.is_running:
            operator.restart()

    def is_over() -> bool:
        live_on()
        return ready(site.run("qwen").get("status") or {})[0] == "True"

    def is_clean() -> bool:
        live_on()
        return not leftovers(site)

    site.eventually(is_over, "not measured", timeout=500)
    status = site.run("qwen")["status"]
    assert ready(status) in (("True", "Measured"), ("True", "PartlyMeasured")), status
    site.eventually(is_clean, "Jobs or claims are left", timeout=150)
    assert {"POST jobs", "PATCH resourceclaimtemplates", "PATCH modelprofiles", "PATCH profileruns"} <= {*killer.killed}
    assert killer.killed.index("PATCH modelprofiles") < len(killer.killed) - 1

    (profile,) = site.list("shoal.dev/v1alpha1", "modelprofiles")
    assert profile["metadata"]["name"] == status["profile"] == "measured-qwen"
    assert profile["spec"]["source"] == "Simulated"
    (row,) = profile["spec"]["rows"]
    assert row["kvCacheTokens"] == KV_TOKENS
    assert (row["maxNumSeqs"], row["maxNumBatchedTokens"]) == (BATCH, CHUNK)
    notes, steps, errors = profile["spec"]["provenance"]["notes"], row["steps"], row["stepErrors"]
    for field, truth in (("alphaMs", ALPHA), ("betaMsPerToken", BETA), ("gammaMsPerKVToken", GAMMA)):
        error = errors.get(field)  # absent: the points could not tell
        assert error is not None or field == "gammaMsPerKVToken", notes
        assert error is None or abs(steps[field] - truth) <= 3 * error, (field, steps, errors)
    context = INPUT + OUTPUT
    full_batch = ALPHA + (BETA + GAMMA * context) * BATCH
    told = steps["alphaMs"] + (steps["betaMsPerToken"] + steps["gammaMsPerKVToken"] * context) * BATCH
    assert told == pytest.approx(full_batch, rel=0.1), notes
    per_request = OUTPUT * full_batch / BATCH + INPUT * BETA  # ms of the engine
    assert row["overloadRate"] == pytest.approx(1000 / per_request, rel=0.15)
    # So short a budget leaves the bracket around the knee up to a quarter wide.
    assert status["configurations"][0]["requestsPerSecond"] == pytest.approx(1000 / per_request, rel=0.3)


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
    apply_run(site, "qwen", configurations=[{"tensorParallel": 1}, {"tensorParallel": 2}])
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
