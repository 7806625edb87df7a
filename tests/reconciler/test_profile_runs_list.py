"""A list of configurations over two GPUs each, of which the second need not be measured."""

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
    TRUTH,
    apply_run,
    assert_agrees,
    leftovers,
    obey,
    ready,
    step_ms,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long]

LONGEST = 256  # tokens of prompt and answer
STARVED_KV = 480  # tokens: some six requests at once, of a batch limit of sixteen
PAIR = {"alphaMs": 24.0, "betaMsPerToken": 0.5, "gammaMsPerKVToken": 0.0012}


def truth() -> dict[str, Any]:
    (row,) = TRUTH["spec"]["rows"]
    rows = [row | {"tensorParallel": 2, "kvCacheTokens": STARVED_KV, "steps": PAIR}]
    return TRUTH | {"spec": TRUTH["spec"] | {"rows": rows}}


@pytest.mark.timeout(400)
def test_two_gpus_and_a_batch_that_cannot_be_larger(live_site: Site, tmp_path: Path) -> None:
    site = obey(live_site, tmp_path, truth())
    site.start(**SETTINGS)
    two = {"tensorParallel": 2, "maxNumBatchedTokens": CHUNK}
    apply_run(
        site,
        "pair",
        model={"name": "Qwen/Qwen2.5-7B-Instruct", "maxContextTokens": LONGEST},
        configurations=[two | {"maxNumSeqs": BATCH}, two | {"maxNumSeqs": 64}],
        budgetMinutes=2,
    )
    status = site.wait_for_run("pair", lambda found: ready(found)[0] == "True", timeout=300)["status"]
    measured, skipped = status["configurations"]
    assert measured["state"] in ("Measured", "Partial"), measured
    assert measured["mostRunning"] < 0.6 * BATCH
    assert skipped["state"] == "Skipped"
    assert f"of {BATCH} requests ran at once: a larger batch limit changes nothing" in skipped["message"]
    assert "skipped as needless: TP2" in condition(status, "Ready")["message"]

    (profile,) = site.list("shoal.dev/v1alpha1", "modelprofiles")
    (row,) = profile["spec"]["rows"]
    assert (row["tensorParallel"], row["kvCacheTokens"]) == (2, STARVED_KV)
    # Preemption and short windows leave the terms wide of the truth, which their errors say, or say are not known.
    within = max(0.1, 2 * row["stepErrors"]["relativeRms"])
    assert_agrees(row, PAIR, STARVED_KV // (INPUT + OUTPUT), INPUT + OUTPUT, within=within, told=())
    quiet = row["points"][0]["itlMilliseconds"]["mean"]
    assert quiet == pytest.approx(step_ms(PAIR, 2, INPUT + OUTPUT), rel=0.15)
    site.eventually(lambda: not leftovers(site), "Jobs or claims are left", timeout=60)
