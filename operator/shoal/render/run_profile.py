"""The ModelProfile of a ProfileRun: written anew after each configuration, with what was found of the others before.

It outlives its run (docs/decisions/0101): ours are those that carry its labels, whatever stands there otherwise stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shoal.api.base import API_VERSION
from shoal.api.engine_class import EngineClass
from shoal.api.gpu_pool import GPUPool
from shoal.api.measurement import Measurement
from shoal.api.model_profile import ModelProfileSpec, ProfileRowSpec, RowProvenance
from shoal.api.profile_run import ProfileRun
from shoal.domain.profile import Link, ModelFacts, Source
from shoal.render.measurement import lengths_text
from shoal.render.names import (
    ANNOTATION_RUN,
    LABEL_MANAGED_BY,
    LABEL_PROFILE_RUN,
    MANAGER,
    common_labels,
)
from shoal.render.times import format_time
from shoal.render.words import clip

_ENGINE: Final = "vllm"
_LONGEST_NOTES: Final = 2048
_LONGEST_ROW_NOTES: Final = 512

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProfileSubject:
    """What is measured: by this a profile is looked up."""

    run: ProfileRun
    pool: GPUPool
    engine: EngineClass
    facts: ModelFacts


def profile_name(run: ProfileRun) -> str:
    """Name of the ModelProfile that a run writes."""
    return run.spec.profile_name or run.metadata.name


def is_profile_of(metadata: Mapping[str, Any], run: ProfileRun) -> bool:
    """Whether the ModelProfile with this metadata was written for a run of this name, and so may be replaced."""
    labels = metadata.get("labels") or {}
    return labels.get(LABEL_MANAGED_BY) == MANAGER and labels.get(LABEL_PROFILE_RUN) == run.metadata.name


def make_run_profile(
    subject: ProfileSubject, found: Measurement, existing: Mapping[str, Any] | None, now: float
) -> Object:
    """The object to write. `found` has a row; `existing` is the profile that stands there, kept if of this very run."""
    run, spec = subject.run, existing.get("spec", {}) if existing else {}
    mark = f"{run.metadata.uid}/{run.metadata.generation}"
    annotations = (existing or {}).get("metadata", {}).get("annotations") or {}
    before: Mapping[str, Any] = spec if annotations.get(ANNOTATION_RUN) == mark else {}
    if found.row is None:
        raise ValueError("a profile is made of a row")
    content = {
        "model": {
            "name": run.spec.model.name,
            "parameterCount": subject.facts.parameters,
            "weightsBytes": subject.facts.weights_bytes,
            "kvBytesPerToken": subject.facts.kv_bytes_per_token,
            "maxContextTokens": subject.facts.max_context_tokens,
        },
        "accelerator": subject.pool.spec.accelerator,
        "engine": {"name": subject.engine.spec.engine or _ENGINE, "version": subject.engine.spec.version},
        "link": str(subject.pool.spec.link or Link.NONE),
        **_clock(found, before),
        "source": str(Source.SIMULATED if found.simulated else Source.MEASURED),
        "rows": _rows(_complete(found.row, found, subject), before),
        "provenance": _provenance(subject, found, before, now),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelProfile",
        "metadata": {
            "name": profile_name(run),
            "namespace": run.metadata.namespace,
            "labels": {**common_labels(), LABEL_PROFILE_RUN: run.metadata.name},
            "annotations": {ANNOTATION_RUN: mark},
        },
        "spec": ModelProfileSpec.model_validate_json(_dump(content)).to_dict(),
    }


def says_the_same(profile: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Whether two profiles differ in nothing but the date."""
    return other is not None and _undated(profile) == _undated(other)


def _undated(profile: Mapping[str, Any]) -> object:
    spec, annotations = profile["spec"], profile["metadata"].get("annotations") or {}
    provenance = {key: value for key, value in (spec.get("provenance") or {}).items() if key != "date"}
    return {**spec, "provenance": provenance}, annotations.get(ANNOTATION_RUN)


def _complete(row: ProfileRowSpec, found: Measurement, subject: ProfileSubject) -> ProfileRowSpec:
    """A row with what the profiler in the pod left out for brevity, and how many servers each engine had."""
    servers = subject.engine.spec.api_server_count or 1
    provenance = (row.provenance or RowProvenance()).model_copy(
        update={
            "tool": f"shoal profile {found.tool_version or 'unknown'}",
            "engine": f"{subject.engine.spec.engine or _ENGINE} {found.engine_version or subject.engine.spec.version}",
            "gpu_name": found.gpu_name,
            "driver": found.driver,
            "clock_mhz": found.clock_mhz,
            "link": subject.pool.spec.link,
            "lengths": lengths_text(subject.run),
            "source": Source.SIMULATED if found.simulated else Source.MEASURED,
            "notes": clip(found.note, _LONGEST_ROW_NOTES) if found.note else None,
        }
    )
    return row.model_copy(update={"provenance": provenance, **({"api_servers": servers} if servers > 1 else {})})


def _rows(row: ProfileRowSpec, before: Mapping[str, Any]) -> list[Object]:
    fresh = row.to_dict()
    kept = [old for old in before.get("rows") or () if _identity(old) != _identity(fresh)]
    return sorted([*kept, fresh], key=_identity)


def _identity(row: Mapping[str, Any]) -> tuple[int, ...]:
    names = ("tensorParallel", "enginesPerGPU", "maxNumSeqs", "maxNumBatchedTokens")
    return (*(row[name] for name in names), int(row.get("mps", False)))


def _clock(found: Measurement, before: Mapping[str, Any]) -> Object:
    """The highest clock under load of all configurations."""
    known = [clock for clock in (found.clock_mhz, before.get("clockMHz")) if clock]
    return {"clockMHz": max(known)} if known else {}


def _provenance(subject: ProfileSubject, found: Measurement, before: Mapping[str, Any], now: float) -> Object:
    metadata = subject.run.metadata
    told, assumed = found.engine_version, subject.engine.spec.version
    other = f" The engine calls itself {told}." if told and told != assumed else ""
    notes = [line for line in (before.get("provenance") or {}).get("notes", "").split("\n") if line]
    label = found.note.partition(":")[0]
    notes = [line for line in notes if line.partition(":")[0] != label]
    content = {
        "tool": f"shoal, ProfileRun {metadata.namespace}/{metadata.name}",
        "version": found.tool_version,
        "gpuName": found.gpu_name,
        "driver": found.driver,
        "date": format_time(now),
        "host": found.host,
        "notes": clip("\n".join([*notes, found.note + other]), _LONGEST_NOTES),
    }
    return {key: value for key, value in content.items() if value}


def _dump(content: Object) -> str:
    return json.dumps(content, allow_nan=False)
