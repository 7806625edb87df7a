"""`python -m shoal.sim.make_profiles [--check] DIRECTORY`: the shipped profiles of simulated engines.

Step times are set here, by the arithmetic of datasheets with the efficiencies that real runs showed; everything else in
the files is measured on the simulated engine. So they are true in the simulated world, and labelled so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.api.model_profile import Provenance
from shoal.domain.pool import ClaimKind, Pool
from shoal.domain.profile import LengthMix, Link, ModelFacts, Profile, ProfileRow, Source, StepModel
from shoal.planner.catalog import model_facts
from shoal.planner.datasheets import find_datasheet
from shoal.planner.memory import kv_tokens
from shoal.sim.engine import EngineLimits
from shoal.sim.measure import Effort, measure_overload, measure_points
from shoal.sim.profile_files import render_profile
from shoal.sim.traffic import P95_OVER_MEAN

ENGINE_VERSION = "0.33.0"
NAMESPACE = "shoal-system"
LONGEST = 8192
MAX_NUM_SEQS = 256
MAX_NUM_BATCHED_TOKENS = 2048

# Shares of the datasheet that are reached. Weights: 13-billion-parameter runs of profiles/mem-gap read at 0.66 of the
# peak with an old engine; newer ones come to 0.85.
WEIGHTS_EFFICIENCY = 0.85
COMPUTE_EFFICIENCY = 0.55
KV_EFFICIENCY = 0.6
LAUNCH_MS = 1.5
LINK_MS = 1.5  # all-reduces of one step over NVLink
MIXED_SMALL_MS, MIXED_LARGE_MS = 2.0, 6.0  # what a step that reads prompts takes at least, above one that only decodes
API_TOKENS_PER_SECOND = 17_000.0  # measured on two hosts: 15 to 19 thousand


@dataclass(frozen=True, slots=True)
class Sharing:
    """What several engines on one GPU do to each other: GPU terms and floors stretch, tokens per second shrink."""

    gpu: float = 1.0
    floors: float = 1.0
    api: float = 1.0


# A model of half a billion parameters: four engines give about twice the throughput of one (the published runs have
# 2.3x for 0.125 billion, 1.0 to 1.34x for 1.3 billion).
SHARING = {1: Sharing(), 2: Sharing(1.5, 1.2, 0.74), 4: Sharing(2.6, 1.6, 0.48)}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One profile. `mixes`: mean tokens of prompts and answers."""

    name: str
    model: str
    accelerator: str
    clock_mhz: float
    memory_bytes: float
    link: Link
    mixes: tuple[tuple[float, float], ...]
    tensor: tuple[int, ...] = (1,)
    engines: tuple[int, ...] = (1,)
    host_floors: tuple[float, float] | None = None  # milliseconds; where the host's CPU decides


H100 = ("NVIDIA-H100-80GB-HBM3", 1980.0, 80 * 2.0**30, Link.NVLINK)
L40S = ("NVIDIA-L40S", 2520.0, 48 * 2.0**30, Link.PCIE)
CHAT, DOCUMENTS, PAGES = (512.0, 128.0), (3000.0, 100.0), (2000.0, 100.0)
RECIPES = (
    Recipe("sim-qwen2-5-0-5b-h100", "Qwen/Qwen2.5-0.5B-Instruct", *H100, (CHAT,), (1,), (1, 2, 4), (9.0, 16.0)),
    Recipe("sim-qwen2-5-0-5b-l40s", "Qwen/Qwen2.5-0.5B-Instruct", *L40S, (CHAT,), (1,), (1, 2, 4), (9.0, 16.0)),
    Recipe("sim-qwen2-5-7b-h100", "Qwen/Qwen2.5-7B-Instruct", *H100, (CHAT, DOCUMENTS), (1, 2)),
    Recipe("sim-qwen2-5-7b-l40s", "Qwen/Qwen2.5-7B-Instruct", *L40S, (CHAT, PAGES)),
    Recipe("sim-qwen2-5-14b-h100", "Qwen/Qwen2.5-14B-Instruct", *H100, (CHAT, DOCUMENTS), (1, 2)),
)


def make_profile(recipe: Recipe, effort: Effort) -> Profile:
    """Set the step times, then measure. The same recipe and effort give the same numbers."""
    facts = model_facts(recipe.model)
    assert facts is not None
    rows = [
        _measure_row(_make_row(recipe, facts, tensor, engines, mix), effort)
        for tensor in recipe.tensor
        for engines in recipe.engines
        for mix in recipe.mixes
    ]
    return Profile(
        name=recipe.name,
        namespace=NAMESPACE,
        model=recipe.model,
        accelerator=recipe.accelerator,
        engine="vllm",
        engine_version=ENGINE_VERSION,
        source=Source.SIMULATED,
        facts=facts,
        rows=tuple(rows),
        link=recipe.link,
        clock_mhz=recipe.clock_mhz,
    )


def make_steps(recipe: Recipe, facts: ModelFacts, tensor: int, engines: int) -> StepModel:
    """Step times of one engine."""
    datasheet, share = find_datasheet(_pool(recipe))[0], SHARING[engines]
    bandwidth, flops = datasheet.memory_bandwidth * tensor / 1000, datasheet.flops_16bit * tensor / 1000
    alpha = LAUNCH_MS + (LINK_MS if tensor > 1 else 0.0) + facts.weights_bytes / (bandwidth * WEIGHTS_EFFICIENCY)
    small, large = recipe.host_floors or (alpha + MIXED_SMALL_MS, alpha + MIXED_LARGE_MS)
    return StepModel(
        alpha_ms=alpha * share.gpu,
        beta_ms_per_token=2 * facts.parameters / (flops * COMPUTE_EFFICIENCY) * share.gpu,
        gamma_ms_per_kv_token=facts.kv_bytes_per_token / (bandwidth * KV_EFFICIENCY) * share.gpu,
        floor_small_ms=small * share.floors,
        floor_large_ms=large * share.floors,
        api_tokens_per_second=API_TOKENS_PER_SECOND * share.api,
    )


def _pool(recipe: Recipe) -> Pool:
    return Pool(
        name="simulated",
        accelerator=recipe.accelerator,
        memory_bytes=recipe.memory_bytes,
        reserve_bytes=2 * 2.0**30,
        claim=ClaimKind.DRA,
        price_per_gpu_hour=0.0,
        stock=None,
    )


def _make_row(recipe: Recipe, facts: ModelFacts, tensor: int, engines: int, mix: tuple[float, float]) -> ProfileRow:
    inputs, outputs = mix
    kv = kv_tokens(_pool(recipe), facts, tensor_parallel=tensor, engines_per_gpu=engines)
    return ProfileRow(
        tensor_parallel=tensor,
        engines_per_gpu=engines,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        kv_cache_tokens=float(int(kv)),
        lengths=LengthMix(inputs, outputs, P95_OVER_MEAN * inputs, P95_OVER_MEAN * outputs),
        steps=make_steps(recipe, facts, tensor, engines),
    )


def _measure_row(row: ProfileRow, effort: Effort) -> ProfileRow:
    assert row.steps is not None
    limits = EngineLimits(row.max_num_seqs, row.max_num_batched_tokens, int(row.kv_cache_tokens // 16))
    rate = measure_overload(row.steps, limits, row.lengths, seed=1, longest=LONGEST, requests=effort.overload)
    points = measure_points(row.steps, limits, row.lengths, rate, seed=2, longest=LONGEST, requests=effort.point)
    return ProfileRow(
        row.tensor_parallel,
        row.engines_per_gpu,
        row.max_num_seqs,
        row.max_num_batched_tokens,
        row.kv_cache_tokens,
        row.lengths,
        rate,
        points,
        row.steps,
    )


def render(recipe: Recipe, effort: Effort) -> str:
    """The text of one file."""
    provenance = Provenance(
        tool="python -m shoal.sim.make_profiles",
        notes=(
            "Measured on Shoal's simulated engine, not on a GPU. Step times are the datasheet's arithmetic with usual "
            f"efficiencies; overloadRate is of {effort.overload} requests at once, each point of {effort.point} "
            "open-loop Poisson requests with gamma-distributed lengths (shape 2), the first tenth left out. Clock: the "
            "highest."
        ),
    )
    return render_profile(make_profile(recipe, effort), provenance, "Made by python -m shoal.sim.make_profiles")


def render_all(effort: Effort, only: str = "") -> Iterator[tuple[str, str]]:
    """(file name, text) of the profiles whose name contains `only`."""
    for recipe in RECIPES:
        if only in recipe.name:
            yield f"{recipe.name}.yaml", render(recipe, effort)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with --check compare them. Status 1: a file differs."""
    parser = argparse.ArgumentParser(prog="python -m shoal.sim.make_profiles", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    parser.add_argument("--only", default="", metavar="PART", help="only profiles with this in their name")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in render_all(Effort(), options.only):
        path = options.directory / name
        if options.check:
            if not path.exists() or path.read_text() != text:
                stale.append(str(path))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(path)
    if stale:
        print(f"not what is made now: {', '.join(stale)}; run without --check", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
