"""Events of ModelServices and ProfileRuns: what changed between two statuses, once, with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from shoal.api.base import API_VERSION
from shoal.api.model_service import ModelService
from shoal.api.profile_run import ProfileRun
from shoal.render.names import MANAGER, common_labels, short_hash
from shoal.render.reasons import ConditionType, EventReason
from shoal.render.times import format_time
from shoal.render.words import clip

_GOOD_WHEN_TRUE: Final = (ConditionType.READY, ConditionType.SLO_MET, ConditionType.OBSERVED)
_BAD_WHEN_TRUE: Final = (ConditionType.STALLED, ConditionType.DEGRADED)
_UNTOLD_REASONS: Final = (  # every service or run goes through them
    "NotDecided",
    "Starting",
    "NoTraffic",
    "NothingRuns",
    "WaitingForPlans",
    "Measuring",
)
_MESSAGE_SIZE: Final = 1000  # the API server takes 1024


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, in words."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def find_events(previous: Mapping[str, Any] | None, status: Mapping[str, Any]) -> tuple[Event, ...]:
    """What is worth an Event: another plan, and conditions that turned good or bad or have another reason to be bad."""
    return (*_plan_events(previous or {}, status), *_condition_events(previous or {}, status))


def make_event(resource: ModelService | ProfileRun, event: Event, now: float) -> dict[str, Any]:
    """The object to apply with manager `shoal`.

    Its name comes from its content: the same thing said again renews the times of the one Event.
    """
    metadata, at = resource.metadata, format_time(now)
    content = short_hash([metadata.uid, event.type, event.reason, event.message])
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata.name}.{content}",
            "namespace": metadata.namespace,
            "labels": common_labels(),
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": resource.kind,
            "namespace": metadata.namespace,
            "name": metadata.name,
            "uid": metadata.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": clip(event.message, _MESSAGE_SIZE),
        "source": {"component": MANAGER},
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def _plan_events(previous: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Event]:
    """The newest entry of the history, if it is new."""
    old, new = previous.get("history") or [], status.get("history") or []
    if new and new[0] not in old:
        entry = new[0]
        yield Event("Normal", EventReason.PLANNED, f"{entry['from']} -> {entry['to']}: {entry['why']}")


def _condition_events(previous: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Event]:
    known = {condition["type"]: condition for condition in previous.get("conditions") or ()}
    for condition in status.get("conditions") or ():
        old = known.get(condition["type"], {"status": "Unknown", "reason": ""})
        if (event := _condition_event(old, condition)) is not None:
            yield event


def _condition_event(old: Mapping[str, Any], new: Mapping[str, Any]) -> Event | None:
    kind, was, now = new["type"], old["status"], new["status"]
    if kind not in (*_GOOD_WHEN_TRUE, *_BAD_WHEN_TRUE) or now == "Unknown" or new["reason"] in _UNTOLD_REASONS:
        return None
    good = (now == "True") == (kind in _GOOD_WHEN_TRUE)
    if was == now and (good or old["reason"] == new["reason"]):
        return None
    if good and was == "Unknown" and kind != ConditionType.READY:
        return None  # nothing was wrong before
    return Event("Normal" if good else "Warning", new["reason"], f"{kind}: {new['message']}")
