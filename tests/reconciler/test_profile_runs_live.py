"""A ProfileRun measures what the engine obeys, whatever becomes of the operator, under the chart's permissions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from operators import Operator, Site
from proxy import Proxy, Script, Write
from run_world import (
    BATCH,
    CHUNK,
    INPUT,
    KV_TOKENS,
    OUTPUT,
    SETTINGS,
    STEPS,
    apply_run,
    assert_agrees,
    leftovers,
    obey,
    ready,
    step_ms,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long]

OF_RUNS = ("jobs", "resourceclaimtemplates", "modelprofiles", "profileruns")


@pytest.fixture
def slow_engines(live_site: Site, tmp_path: Path) -> Site:
    return obey(live_site, tmp_path)


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
    notes = profile["spec"]["provenance"]["notes"]
    assert_agrees(row, STEPS, BATCH, INPUT + OUTPUT)
    how = row["provenance"]
    assert (how["source"], how["lengths"]) == ("Simulated", f"gamma:{INPUT},{OUTPUT}")
    assert min(how["windows"], how["requests"]) > 0
    assert row["errors"]["kvCacheTokens"] == 0
    full_batch = step_ms(STEPS, BATCH, INPUT + OUTPUT)
    per_request = OUTPUT * full_batch / BATCH + INPUT * STEPS["betaMsPerToken"]  # ms of the engine
    assert row["overloadRate"] == pytest.approx(1000 / per_request, rel=0.15), notes
    # So short a budget leaves the bracket around the knee up to a quarter wide.
    assert status["configurations"][0]["requestsPerSecond"] == pytest.approx(1000 / per_request, rel=0.3)
