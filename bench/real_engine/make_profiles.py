"""`python -m bench.real_engine.make_profiles [--check]`: profiles/measured from the results of `measure.py`."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shoal.api.model_profile import Provenance
from shoal.domain.profile import LengthMix, Link, Profile, ProfileRow, Quantiles, RatePoint, Source
from shoal.planner.catalog import model_facts
from shoal.sim.profile_files import render_profile
from shoal.sim.traffic import P95_OVER_MEAN

HERE = Path(__file__).parent
OUT = HERE.parent.parent / "profiles" / "measured"
ENGINE_VERSION = "0.26.0"
MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS = 256, 2048
NAMESPACE = "shoal-system"
BUSY_LOAD = 0.85  # points from here on show the clock under load
NOTES = (
    "Real vLLM, dummy weights (speed does not depend on their values), prompts of random token ids, gamma "
    "lengths (mean 512 in, 128 out; coefficient of variation 0.71), open-loop Poisson over HTTP from 6 client "
    "processes on the server's host (send lag p99 below 2.5 ms), windows of 20 s after 5 s of warm-up, one run "
    "each. Two servers were on the GPU, one loaded at a time. No step times yet: other length mixes are scaled "
    "by size. overloadRate is the throughput while far more arrives, which costs the server's CPU: small "
    "models carried more just below it."
)


def make_profiles() -> Iterator[tuple[str, str]]:
    """File name and YAML text of every profile."""
    for path in sorted((HERE / "results").glob("*.json")):
        results = json.loads(path.read_text())
        for model, entry in results["models"].items():
            profile = _make_profile(model, entry, results)
            provenance = _make_provenance(entry, results)
            header = "Made by python -m bench.real_engine.make_profiles"
            yield f"{profile.name}.yaml", render_profile(profile, provenance, header)


def _make_profile(model: str, entry: dict[str, Any], results: dict[str, Any]) -> Profile:
    facts = model_facts(model)
    assert facts is not None, model
    sent = sum(point["sent"] for point in entry["points"])
    inputs = sum(point["inputMean"] * point["sent"] for point in entry["points"]) / sent
    outputs = sum(point["outputMean"] * point["sent"] for point in entry["points"]) / sent
    row = ProfileRow(
        tensor_parallel=1,
        engines_per_gpu=1,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        kv_cache_tokens=float(_cache_tokens(entry["page"]["cacheConfig"][0])),
        lengths=LengthMix(inputs, outputs, P95_OVER_MEAN * inputs, P95_OVER_MEAN * outputs),
        overload_rate=entry["overload"]["finishedPerSecond"],
        points=tuple(_make_point(point, results["gpu"]) for point in entry["points"]),
    )
    name = re.sub(r"[^a-z0-9]+", "-", model.lower().rpartition("/")[2].removesuffix("-instruct"))
    return Profile(
        name=f"measured-{name}-h100",
        namespace=NAMESPACE,
        model=model,
        accelerator=results["device"]["name"].replace(" ", "-"),
        engine="vllm",
        engine_version=ENGINE_VERSION,
        source=Source.MEASURED,
        facts=facts,
        rows=(row,),
        link=Link.NONE,
        clock_mhz=_clock_under_load(entry, results["gpu"]),
    )


def _make_provenance(entry: dict[str, Any], results: dict[str, Any]) -> Provenance:
    began = datetime.fromtimestamp(entry["overload"]["began"], UTC)
    return Provenance(
        tool="bench.real_engine.measure",
        version="0.1.0",
        gpu_name=results["device"]["name"],
        driver=results["device"]["driver"],
        date=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        host="16 CPU cores, shared by server and clients",
        command=f"vllm 0.26.0, {' '.join(entry['arguments'])}",
        notes=NOTES,
    )


def _make_point(point: dict[str, Any], samples: list[dict[str, Any]]) -> RatePoint:
    watts = [sample["watts"] for sample in _during(point, samples)]
    return RatePoint(
        rate=point["rate"],
        ttft=Quantiles(**point["ttftMs"]),
        itl=Quantiles(**point["itlMs"]),
        watts=statistics.mean(watts) if watts else None,
    )


def _clock_under_load(entry: dict[str, Any], samples: list[dict[str, Any]]) -> float:
    busy = [point for point in entry["points"] if point["load"] >= BUSY_LOAD]
    return float(statistics.median(sample["clockMHz"] for point in busy for sample in _during(point, samples)))


def _during(point: dict[str, Any], samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples of the GPU in the point's window; its clients start within a second, and warm up for 5 s."""
    return [sample for sample in samples if point["began"] + 6 <= sample["at"] <= point["began"] + 26]


def _cache_tokens(line: str) -> int:
    found = re.search(r'kv_cache_size_tokens="(\d+)"', line)
    assert found is not None
    return int(found[1])


def main() -> int:
    """Write the profiles, or compare; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a file differs")
    check = parser.parse_args().check
    stale = [name for name, text in make_profiles() if not (OUT / name).exists() or (OUT / name).read_text() != text]
    if check:
        for name in stale:
            print(f"profiles/measured/{name} differs: run python -m bench.real_engine.make_profiles", file=sys.stderr)
        return 1 if stale else 0
    OUT.mkdir(parents=True, exist_ok=True)
    for name, text in make_profiles():
        (OUT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
