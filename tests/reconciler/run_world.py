"""What the tests of live ProfileRuns share: simulated engines with known step times, runs, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from operators import Site, condition

Object = dict[str, Any]

ALPHA, BETA, GAMMA = 30.0, 0.6, 0.0015  # ms: what the simulated engine obeys
STEPS = {"alphaMs": ALPHA, "betaMsPerToken": BETA, "gammaMsPerKVToken": GAMMA}
TERMS = ("alphaMs", "betaMsPerToken")  # that even a short measurement tells
KV_TOKENS = 200_000
INPUT, OUTPUT, BATCH, CHUNK = 64, 16, 16, 1024
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
                "steps": STEPS,
            }
        ],
    },
}
SETTINGS = {
    "SHOAL_PROFILER_IMAGE": "shoal-profiler:test",
    "SHOAL_PLANNING_INTERVAL_SECONDS": "1",
    # Clients, engine and control plane share a few busy cores here.
    "SHOAL_PROFILER_MOST_LAG_MILLISECONDS": "1000",
    "SHOAL_PROFILER_SHORTEST_SECONDS": "2",
}


def obey(site: Site, directory: Path, truth: Object = TRUTH) -> Site:
    """Engines that obey this profile, so slow that the clients need little of the machine."""
    (directory / "truth.yaml").write_text(yaml.safe_dump(truth))
    environment = {"SHOAL_SIM_STARTUP_SECONDS": "1", "SHOAL_SIM_PROFILE_DIR": str(directory)}
    site.apply_engine_class(env=[{"name": name, "value": value} for name, value in environment.items()])
    return site


def assert_agrees(
    row: Object, truth: Object, batch: int, context: float, *, within: float = 0.1, told: tuple[str, ...] = TERMS
) -> None:
    """Each step time within three of its standard errors, and a step of a full batch within a tenth.

    Of the terms in `told` the error must be known; of others it may be absent: then the points could not tell them.
    """
    steps, errors = row["steps"], row["stepErrors"]
    for field, true in truth.items():
        error = errors.get(field)
        assert error is not None or field not in told, row
        assert error is None or abs(steps[field] - true) <= 3 * error, (field, steps, errors)
    assert step_ms(steps, batch, context) == pytest.approx(step_ms(truth, batch, context), rel=within), row


def step_ms(steps: Object, running: float, context: float) -> float:
    """A step that only decodes."""
    return float(steps["alphaMs"] + (steps["betaMsPerToken"] + steps["gammaMsPerKVToken"] * context) * running)


def apply_run(site: Site, name: str, *, namespace: str | None = None, **spec: Any) -> Object:
    wish = {
        "model": {"name": MODEL, "maxContextTokens": 2048},
        "engine": {"class": site.engine_class},
        "pool": site.pool,
        "configurations": [{"maxNumSeqs": BATCH, "maxNumBatchedTokens": CHUNK}],
        "lengths": {"inputTokens": INPUT, "outputTokens": OUTPUT},
        "budgetMinutes": 1,
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
