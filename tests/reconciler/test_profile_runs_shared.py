"""Two engines on one simulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from operators import Site
from run_world import (
    BATCH,
    CHUNK,
    INPUT,
    OUTPUT,
    SETTINGS,
    TRUTH,
    apply_run,
    assert_agrees,
    obey,
    ready,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long]

SHARED = {"alphaMs": 45.0, "betaMsPerToken": 0.9, "gammaMsPerKVToken": 0.002}


def truth() -> dict[str, Any]:
    (row,) = TRUTH["spec"]["rows"]
    return TRUTH | {"spec": TRUTH["spec"] | {"rows": [row | {"enginesPerGPU": 2, "steps": SHARED}]}}


@pytest.mark.timeout(400)
def test_two_engines_on_one_gpu(live_site: Site, tmp_path: Path) -> None:
    site = obey(live_site, tmp_path, truth())
    site.start(**SETTINGS)
    two = {"enginesPerGPU": 2, "maxNumSeqs": BATCH, "maxNumBatchedTokens": CHUNK}
    apply_run(site, "shared", configurations=[two])
    status = site.wait_for_run("shared", lambda found: ready(found)[0] == "True", timeout=300)["status"]
    (profile,) = site.list("shoal.dev/v1alpha1", "modelprofiles")
    (row,) = profile["spec"]["rows"]
    assert (row["enginesPerGPU"], row.get("mps")) == (2, None)
    assert_agrees(row, SHARED, BATCH, INPUT + OUTPUT, within=0.15)
    # The rates of a row are of one engine, those of a status of all engines.
    (entry,) = status["configurations"]
    assert entry["requestsPerSecond"] > 1.2 * row["overloadRate"]
    assert BATCH < entry["mostRunning"] <= 2 * BATCH
