"""A decision that was taken, with everything it was taken from, so that it can be taken again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shoal.domain.codec import CodecError, decode, encode
from shoal.domain.plan import Decision, PlanSet
from shoal.domain.service import ServiceKey
from shoal.domain.snapshot import Snapshot
from shoal.planner.decide import decide

FORMAT: Final = "shoal.dev/snapshot"
VERSION: Final = 1  # raised when a field changes its meaning; new fields with defaults do not


@dataclass(frozen=True, slots=True)
class Record:
    """What one `decide()` saw and answered. `made_by`: the version of the operator."""

    made_by: str
    snapshot: Snapshot
    answer: PlanSet


def encode_record(record: Record) -> dict[str, Any]:
    """As a document, which JSON can hold."""
    return {"format": FORMAT, "version": VERSION, **encode(Record, record)}


def decode_record(document: Any) -> Record:
    """Read a document. Raises CodecError, which says what is wrong with it."""
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise CodecError("this is no snapshot of Shoal: make one with `shoal explain NAMESPACE/NAME --dump FILE`")
    if document.get("version") != VERSION:
        found, way = document.get("version"), "read it with the version of Shoal that wrote it"
        raise CodecError(f"the snapshot is of version {found}, this Shoal reads {VERSION}: {way}")
    return decode(Record, {key: value for key, value in document.items() if key not in ("format", "version")})


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a repeated decision is another one: the field, what was decided then and what is now."""

    service: ServiceKey
    field: str
    then: str
    now: str


def replay(record: Record) -> tuple[PlanSet, tuple[Difference, ...]]:
    """Decide again; the answer, and how it differs from the recorded one: not at all, by the same planner."""
    answer = decide(record.snapshot)
    differences: list[Difference] = []
    for key in sorted({*record.answer.decisions, *answer.decisions}):
        then, now = record.answer.decisions.get(key), answer.decisions.get(key)
        differences += _compare(key, then, now)
    return answer, tuple(differences)


def _compare(key: ServiceKey, then: Decision | None, now: Decision | None) -> list[Difference]:
    if then is None or now is None or type(then) is not type(now):
        return [Difference(key, "decision", _kind(then), _kind(now))]
    # As data: there NaN equals NaN, and what is equal is so to the last bit.
    old, new = encode(type(then), then), encode(type(now), now)
    return [Difference(key, path, _clip(left), _clip(right)) for path, left, right in _walk("", old, new)]


def _walk(path: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """The smallest parts that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [found for key in keys for found in _walk(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [found for at, (left, right) in pairs for found in _walk(f"{path}[{at}]", left, right)]
    return [] if old == new else [(path, old, new)]


def _kind(decision: Decision | None) -> str:
    return "none" if decision is None else type(decision).__name__


def _clip(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
