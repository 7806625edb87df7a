"""Whether a status is worth a write: decisions and heat at once, measurements rarely, times never."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from shoal.render.derating import has_heat_changed, read_deratings
from shoal.render.times import parse_time

MEASUREMENT_SECONDS: Final = 60.0
TOLERANCE: Final = 0.1  # of the larger of two numbers

_DECIDED: Final = (
    "observedGeneration",
    "url",
    "selector",
    "replicas",
    "readyReplicas",
    "effective",
    "sloSummary",
)
_DECIDED_OF_PLAN: Final = ("summary", "gpus", "bindingConstraint")
_DECIDED_OF_VARIANT: Final = ("name", "replicas")
_DECIDED_OF_MEMORY: Final = ("target", "lastMoveAt", "lastMixChangeAt", "trafficSeen")
_GPU_NOW: Final = ("clockMHz", "powerWatts", "temperatureC")
_TIMES: Final = ("at", "lastTransitionTime")
_NUMBER: Final = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
# How long something was watched, in seconds or in requests: a time, like those above.
_DURATION: Final = re.compile(r"\b\d+ s\b|\b[\d,]+ requests\b")


def should_write(old: Mapping[str, Any] | None, new: Mapping[str, Any], now: float) -> bool:
    """Whether `new` shall replace `old`, which stands in the object.

    At once when something was decided, a condition is another one or has another reason, or a GPU has become hot or
    cool: the routers' weights come from here. Else at most every
    MEASUREMENT_SECONDS (counted from `observed.at` of `old`), and only when a number differs by more than TOLERANCE or
    words differ.
    """
    if not old or _essence(old) != _essence(new):
        return True
    if has_heat_changed(read_deratings(old), read_deratings(new)):
        return True
    return now - _written_at(old) >= MEASUREMENT_SECONDS and not is_close(_without_noise(old), _without_noise(new))


def _without_noise(status: Mapping[str, Any]) -> dict[str, Any]:
    """Requests that were learned from only grow, and a GPU's clock and power are never still: neither is news."""
    learning = [{**entry, "requests": None} for entry in status.get("learning") or ()]
    gpus = [{name: value for name, value in gpu.items() if name not in _GPU_NOW} for gpu in status.get("gpus") or ()]
    return {**status, "learning": learning, "gpus": gpus}


def _essence(status: Mapping[str, Any]) -> dict[str, Any]:
    """What was decided, without numbers that move with every measurement."""
    plan = status.get("plan") or {}
    return {
        **{field: status.get(field) for field in _DECIDED},
        "conditions": [(c["type"], c["status"], c["reason"]) for c in status.get("conditions") or ()],
        "plan": [plan.get(field) for field in _DECIDED_OF_PLAN],
        "variants": [[v.get(field) for field in _DECIDED_OF_VARIANT] for v in plan.get("variants") or ()],
        "history": [(entry["from"], entry["to"]) for entry in status.get("history") or ()],
        "memory": [(status.get("memory") or {}).get(field) for field in _DECIDED_OF_MEMORY],
    }


def _written_at(status: Mapping[str, Any]) -> float:
    """When the measurements in a status were written; long ago when it does not say so."""
    try:
        return parse_time((status.get("observed") or {})["at"])
    except (KeyError, TypeError, ValueError):
        return 0.0


def is_close(old: Any, new: Any) -> bool:
    """Equal but for times, and for numbers (in sentences as well) within the tolerance."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = (old.keys() | new.keys()).difference(_TIMES)
        return all(key in old and key in new and is_close(old[key], new[key]) for key in keys)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(is_close, old, new))
    if isinstance(old, str) and isinstance(new, str):
        old, new = _DURATION.sub("", old), _DURATION.sub("", new)
        return _NUMBER.sub("", old) == _NUMBER.sub("", new) and all(
            map(_near, map(_read_number, _NUMBER.findall(old)), map(_read_number, _NUMBER.findall(new)))
        )
    if isinstance(old, int | float) and isinstance(new, int | float):
        return _near(old, new)
    return bool(old == new)


def _read_number(text: str) -> float:
    return float(text.replace(",", ""))


def _near(old: float, new: float) -> bool:
    return abs(old - new) <= TOLERANCE * max(abs(old), abs(new))
