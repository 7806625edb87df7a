"""What a service learned from its own traffic, as ModelProfiles that belong to it, and back.

They are the operator's own state: labelled and controlled by the ModelService, so that they go with it. Losing one is
safe, as the estimate counts again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from shoal.api.convert import profile_from_domain, row_to_domain
from shoal.api.model_profile import ModelProfile, Provenance
from shoal.api.model_service import ModelService
from shoal.domain.configuration import Configuration
from shoal.domain.live import Evidence, Learned, Lesson, Tally, Target
from shoal.domain.profile import LengthMix, Profile, ProfileRow, Source
from shoal.domain.service import Service
from shoal.render.names import LABEL_MODEL_SERVICE, learned_name
from shoal.render.variant import make_metadata

Object = dict[str, Any]

_NOTES: Final = (
    "Kept by Shoal from the live traffic of this ModelService, which alone it counts for. A measured profile wins over "
    "it. Delete it to begin anew: nothing is scaled down by that."
)


def make_learned_profiles(resource: ModelService, service: Service, learned: Iterable[Learned]) -> list[Object]:
    """One ModelProfile for each GPU type, of the present model and engine version. Trusted rows are not kept here.

    Raises ValueError for numbers that the schema does not take.
    """
    by_accelerator: dict[str, list[Learned]] = {}
    for one in learned if service.facts is not None else ():
        is_present = (one.model, one.engine_version) == (service.model, service.engine.version)
        if is_present and one.lesson.row is not None and one.lesson.evidence.requests > 0:
            by_accelerator.setdefault(one.lesson.configuration.accelerator, []).append(one)
    return [_make_profile(resource, service, name, found) for name, found in sorted(by_accelerator.items())]


def read_learned(resource: ModelProfile) -> tuple[Learned, ...]:
    """What a ModelProfile of ours keeps."""
    spec = resource.spec
    found = []
    for row_spec in spec.rows:
        if row_spec.evidence is None:
            continue
        row, told = row_to_domain(row_spec), row_spec.evidence
        evidence = Evidence(told.requests, told.highest_rate, told.ttft_ratio or 1.0)
        configuration = Configuration(
            spec.accelerator, row.tensor_parallel, row.engines_per_gpu, row.max_num_seqs, row.max_num_batched_tokens
        )
        tally = Tally(evidence.requests, log_ttft=math.log(evidence.ttft_ratio), highest_rate=evidence.highest_rate)
        target = Target(told.percentile, told.ttft_milliseconds, told.itl_milliseconds)
        found.append(Learned(spec.model.name, spec.engine.version, target, Lesson(configuration, evidence, row), tally))
    return tuple(found)


def _make_profile(resource: ModelService, service: Service, accelerator: str, learned: list[Learned]) -> Object:
    facts = service.facts
    assert facts is not None  # as asked for above
    name = learned_name(resource.metadata.name, accelerator)
    ordered = sorted(learned, key=lambda one: one.lesson.configuration)
    profile = Profile(
        name=name,
        namespace=service.key.namespace,
        model=service.model,
        accelerator=accelerator,
        engine=service.engine.name,
        engine_version=service.engine.version,
        source=Source.LEARNED,
        facts=facts,
        rows=tuple(_writable(one.lesson.row) for one in ordered if one.lesson.row is not None),
    )
    body = profile_from_domain(profile, provenance=Provenance(tool="shoal operator", notes=_NOTES)).to_dict()
    for row, one in zip(body["spec"]["rows"], ordered, strict=True):
        row["evidence"] = _dump_evidence(one)
    labels = {LABEL_MODEL_SERVICE: resource.metadata.name}
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": make_metadata(resource, name, labels, {}),
        "spec": _round(body["spec"]),
    }


def _dump_evidence(learned: Learned) -> Object:
    evidence, target = learned.lesson.evidence, learned.target
    content = {
        "requests": evidence.requests,
        "highestRate": evidence.highest_rate,
        "percentile": target.percentile,
        "ttftMilliseconds": target.ttft_ms,
        "itlMilliseconds": target.itl_ms,
        "ttftRatio": evidence.ttft_ratio,
    }
    return {field: value for field, value in content.items() if value is not None}


def _writable(row: ProfileRow) -> ProfileRow:
    """With lengths as the schema takes them: percentiles from coarse buckets may lie below the mean."""
    lengths = row.lengths
    inputs, outputs = max(1.0, lengths.input_mean), max(1.0, lengths.output_mean)
    tails = max(inputs, lengths.input_p95), max(outputs, lengths.output_p95)
    return replace(row, lengths=LengthMix(inputs, outputs, *tails))


def _round(value: Any) -> Any:
    """Four digits: the rest is noise, and a write."""
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
