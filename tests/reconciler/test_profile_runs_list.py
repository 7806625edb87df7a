"""A list of configurations on simulated GPUs: over two GPUs, two engines on one, and one that need not be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from operators import Site, condition
from run_world import (
    BATCH,
    CHUNK,
    INPUT,
    OUTPUT,
    SETTINGS,
    STEPS,
    TRUTH,
    apply_run,
    assert_agrees,
    leftovers,
    obey,
    ready,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long]

LONGEST = 256  # tokens of prompt and answer
STARVED_KV = 480  # tokens: some six requests at once, of a batch limit of sixteen
PAIR = {"alphaMs": 24.0, "betaMsPerToken": 0.5, "gammaMsPerKVToken": 0.0012}
SHARED = {"alphaMs": 45.0, "betaMsPerToken": 0.9, "gammaMsPerKVToken": 0.002}


def truth() -> dict[str, Any]:
    (row,) = TRUTH["spec"]["rows"]
    rows = [
        row | {"tensorParallel": 2, "kvCacheTokens": STARVED_KV, "steps": PAIR},
        row | {"enginesPerGPU": 2, "steps": SHARED},
        row | {"steps": STEPS},
    ]
    return TRUTH | {"spec": TRUTH["spec"] | {"rows": rows}}


@pytest.mark.timeout(400)
def test_two_gpus_two_engines_and_a_batch_that_cannot_be_larger(live_site: Site, tmp_path: Path) -> None:
    """Two runs at the same time, on GPUs of their own."""
    site = obey(live_site, tmp_path, truth())
    site.start(**SETTINGS)
    model = {"name": "Qwen/Qwen2.5-7B-Instruct", "maxContextTokens": LONGEST}
    limits = {"maxNumSeqs": BATCH, "maxNumBatchedTokens": CHUNK}
    pair = [limits | {"tensorParallel": 2}, {"tensorParallel": 2, "maxNumSeqs": 64, "maxNumBatchedTokens": CHUNK}]
    apply_run(site, "pair", model=model, configurations=pair, budgetMinutes=2)
    apply_run(site, "shared", model=model, configurations=[limits | {"enginesPerGPU": 2}])
    statuses = {
        name: site.wait_for_run(name, lambda found: ready(found)[0] == "True", timeout=300)["status"]
        for name in ("pair", "shared")
    }
    measured, skipped = statuses["pair"]["configurations"]
    assert measured["state"] in ("Measured", "Partial"), measured
    assert measured["mostRunning"] < 0.6 * BATCH
    assert skipped["state"] == "Skipped"
    assert f"of {BATCH} requests ran at once: a larger batch limit changes nothing" in skipped["message"]
    assert "skipped as needless: TP2" in condition(statuses["pair"], "Ready")["message"]

    profiles = {item["metadata"]["name"]: item["spec"] for item in site.list("shoal.dev/v1alpha1", "modelprofiles")}
    (two,), (both,) = profiles["pair"]["rows"], profiles["shared"]["rows"]
    assert (two["tensorParallel"], two["kvCacheTokens"]) == (2, STARVED_KV)
    assert_agrees(two, PAIR, STARVED_KV // (INPUT + OUTPUT), INPUT + OUTPUT)
    assert (both["enginesPerGPU"], both.get("mps")) == (2, None)
    assert_agrees(both, SHARED, BATCH, INPUT + OUTPUT)
    # The rates of a row are of one engine, those of a status of all engines.
    (entry,) = statuses["shared"]["configurations"]
    assert entry["requestsPerSecond"] > 1.4 * both["overloadRate"]
    site.eventually(lambda: not leftovers(site), "Jobs or claims are left", timeout=60)
