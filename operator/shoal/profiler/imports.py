"""Profiles from what other tools wrote: results of `vllm bench serve`, and estimates of AIConfigurator."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shoal.api.convert import profile_from_domain
from shoal.api.model_profile import ModelProfile, Provenance
from shoal.domain.profile import LengthMix, Link, ModelFacts, Profile, ProfileRow, Quantiles, RatePoint, Source
from shoal.planner.catalog import model_facts
from shoal.profiler.errors import ProfilerError
from shoal.profiler.profiles import NAMESPACE
from shoal.profiler.versions import tool_version
from shoal.sim.truth import gpu_memory_bytes

SYSTEMS: Final = {
    "h100_sxm": "NVIDIA-H100-80GB-HBM3",
    "h200_sxm": "NVIDIA-H200",
    "b200_sxm": "NVIDIA-B200",
    "a100_sxm": "NVIDIA-A100-SXM4-80GB",
    "l40s": "NVIDIA-L40S",
}
"""AIConfigurator's names of GPU types."""

_NEEDED: Final = ("model", "isl", "osl", "tp", "pp", "bs", "ttft", "tpot", "seq/s", "backend", "version", "system")
_KEPT_UP: Final = 0.95  # of the requests offered: below, the run was overloaded


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the files do not say."""

    model: str | None = None
    accelerator: str | None = None
    engine_version: str | None = None
    tensor_parallel: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    kv_tokens: float | None = None
    parameters: float | None = None
    link: Link = Link.NONE


def import_vllm_bench(paths: Sequence[Path], options: ImportOptions) -> ModelProfile:
    """One row from runs of `vllm bench serve --save-result` of one server. Raises ProfilerError."""
    if options.accelerator is None or options.engine_version is None:
        raise ProfilerError("the files name neither GPU nor engine version: give --accelerator and --engine-version")
    runs = [_read_run(path) for path in paths]
    model = options.model or str(runs[0]["model_id"])
    facts = _facts(model, options)
    done = sum(run["completed"] for run in runs)
    inputs = sum(run["total_input_tokens"] for run in runs) / done
    outputs = sum(run["total_output_tokens"] for run in runs) / done
    over = [run["request_throughput"] for run in runs if not _kept_up(run)]
    points = sorted((_run_point(run) for run in runs if _kept_up(run)), key=lambda point: point.rate)
    row = ProfileRow(
        tensor_parallel=options.tensor_parallel,
        engines_per_gpu=1,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        kv_cache_tokens=_kv_tokens(facts, options.accelerator, options.tensor_parallel, options),
        lengths=LengthMix(inputs, outputs, 2 * inputs, 2 * outputs),
        overload_rate=max(over, default=None),
        points=tuple(points),
    )
    notes = (
        f"{len(runs)} runs of vllm bench serve. Their p95 lengths are not known (twice the mean is written); "
        "percentiles are those that were saved; no step times. Overloaded: "
        + (f"{len(over)} runs." if over else "none.")
    )
    if options.kv_tokens is None:
        notes += " KV cache computed from the GPU's memory, not measured."
    return _make(
        model,
        options.accelerator,
        options.engine_version,
        source=Source.MEASURED,
        facts=facts,
        rows=[row],
        link=options.link,
        notes=notes,
    )


def _read_run(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for name in ("completed", "total_input_tokens", "total_output_tokens", "request_throughput"):
            found[name] = float(found[name])
        for name in ("model_id", "request_rate", "mean_ttft_ms", "mean_tpot_ms"):
            found[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProfilerError(f"{path} is not a result of vllm bench serve --save-result: {error!r}") from error
    if not isinstance(found, dict) or found["completed"] < 1:
        raise ProfilerError(f"{path}: no request was completed")
    return found


def _kept_up(run: dict[str, Any]) -> bool:
    offered = float(run["request_rate"])
    return math.isfinite(offered) and run["request_throughput"] >= _KEPT_UP * offered


def _run_point(run: dict[str, Any]) -> RatePoint:
    def quantiles(name: str) -> Quantiles:
        found = {f"p{p}": run.get(f"p{p}_{name}_ms") for p in (90, 95, 99)}
        return Quantiles(mean=run[f"mean_{name}_ms"], p50=run.get(f"median_{name}_ms"), **found)

    return RatePoint(float(run["request_rate"]), ttft=quantiles("ttft"), itl=quantiles("tpot"))


def import_aiconfigurator(path: Path, options: ImportOptions) -> ModelProfile:
    """Rows from a table of AIConfigurator's aggregated configurations (pareto.csv, best_config_topn.csv).

    Everything in it is computed, so it is labelled Estimated. Raises ProfilerError.
    """
    lines = _read_table(path)
    chosen = [line for line in lines if line["pp"] == "1" and line.get("dp", "1") == "1"]
    models = {options.model or line["model"] for line in chosen}
    engines = {(line["backend"], line["version"], line["system"]) for line in chosen}
    if len(models) != 1 or len(engines) != 1:
        raise ProfilerError(
            f"{path}: expected rows without pipeline or data parallelism of one model, engine and system; it has "
            f"{len(chosen)} such rows of models {sorted(models)} and {sorted(engines)}"
        )
    (model,), ((backend, told, system),) = models, engines
    accelerator = options.accelerator or SYSTEMS.get(system)
    if accelerator is None:
        raise ProfilerError(f"{path}: which GPU is {system}? Give --accelerator")
    facts, rows = _facts(model, options), []
    groups: dict[tuple[int, int, int], list[dict[str, str]]] = defaultdict(list)
    for line in chosen:
        groups[int(float(line["tp"])), int(float(line["isl"])), int(float(line["osl"]))].append(line)
    for (tp, isl, osl), group in sorted(groups.items()):
        points = sorted((_estimated_point(line) for line in group), key=lambda point: point.rate)
        rows.append(
            ProfileRow(
                tensor_parallel=tp,
                engines_per_gpu=1,
                max_num_seqs=max(int(float(line["bs"])) for line in group),
                max_num_batched_tokens=max(options.max_num_batched_tokens, *(int(float(line["bs"])) for line in group)),
                kv_cache_tokens=_kv_tokens(facts, accelerator, tp, options),
                lengths=LengthMix(isl, osl, isl, osl),
                overload_rate=points[-1].rate,
                points=tuple(points[-32:]),
            )
        )
    notes = (
        "AIConfigurator's estimates of closed loops at fixed lengths: means only. overloadRate is the largest of them."
    )
    version = options.engine_version or told
    return _make(
        model,
        accelerator,
        version,
        source=Source.ESTIMATED,
        facts=facts,
        rows=rows,
        link=options.link,
        notes=notes,
        engine=backend,
    )


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ProfilerError(f"{path} cannot be read: {error}") from error
    missing = [name for name in _NEEDED if not lines or name not in lines[0]]
    if missing:
        raise ProfilerError(f"{path} is not a table of AIConfigurator: it lacks {', '.join(missing)}")
    return lines


def _estimated_point(line: dict[str, str]) -> RatePoint:
    watts = float(line.get("power_w") or 0.0) * float(line["tp"])
    return RatePoint(
        rate=float(line["seq/s"]),
        ttft=Quantiles(float(line["ttft"])),
        itl=Quantiles(float(line["tpot"])),
        watts=watts if watts > 0 else None,
    )


def _facts(model: str, options: ImportOptions) -> ModelFacts:
    facts = model_facts(model, options.parameters)
    if facts is None:
        raise ProfilerError(f"nothing is known of the size of {model}: give --parameters COUNT, or --model its name")
    return facts


def _kv_tokens(facts: ModelFacts, accelerator: str, tensor_parallel: int, options: ImportOptions) -> float:
    if options.kv_tokens is not None:
        return options.kv_tokens
    free = 0.9 * gpu_memory_bytes(accelerator) * tensor_parallel - facts.weights_bytes
    if free <= 0:
        raise ProfilerError(
            f"{accelerator} has no room for {facts.weights_bytes / 1e9:.0f} GB of weights: give --kv-tokens"
        )
    return float(free // facts.kv_bytes_per_token)


def _make(
    model: str,
    accelerator: str,
    version: str,
    *,
    source: Source,
    facts: ModelFacts,
    rows: Sequence[ProfileRow],
    link: Link,
    notes: str,
    engine: str = "vllm",
) -> ModelProfile:
    short = "".join(c if c.isalnum() else "-" for c in model.rpartition("/")[2].lower()).strip("-")
    profile = Profile(
        name=f"imported-{short}",
        namespace=NAMESPACE,
        model=model,
        accelerator=accelerator,
        engine=engine,
        engine_version=version,
        source=source,
        facts=facts,
        rows=tuple(rows),
        link=link,
    )
    try:
        return profile_from_domain(
            profile, provenance=Provenance(tool="shoal import", version=tool_version(), notes=notes[:2048])
        )
    except ValueError as error:
        raise ProfilerError(f"the numbers do not make a profile: {' '.join(str(error).split())[:400]}") from error
