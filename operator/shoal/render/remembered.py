"""`status.memory`: what decisions need after a restart. Whatever cannot be read there is forgotten, which is safe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.profile import LengthMix
from shoal.domain.service import Memory, PlacedReplicas
from shoal.render.times import format_time, parse_time

_MOST_PLACEMENTS: Final = 16  # the schema's bound; a shortened target would read as a wish to shrink
_DAY: Final = 86_400.0
_INSTANTS: Final = {
    "last_move_at": "lastMoveAt",
    "last_mix_change_at": "lastMixChangeAt",
    "mix_wanted_since": "mixWantedSince",
}

_LENGTHS: Final = {
    "input_mean": "inputTokensMean",
    "input_p95": "inputTokensP95",
    "output_mean": "outputTokensMean",
    "output_p95": "outputTokensP95",
}


def dump_memory(memory: Memory) -> dict[str, Any]:
    """The memory as the status holds it; instants lose their fraction of a second."""
    result: dict[str, Any] = {}
    if memory.target is not None and len(memory.target) <= _MOST_PLACEMENTS:
        result["target"] = [
            {**dump_placed(entry.placement), "replicas": entry.replicas} for entry in sorted(memory.target, key=_key)
        ]
    for field, name in _INSTANTS.items():
        if (instant := getattr(memory, field)) is not None:
            result[name] = format_time(instant)
    if memory.startup_p90_seconds is not None:
        result["startupSecondsP90"] = round(min(memory.startup_p90_seconds, _DAY), 1)
    if memory.traffic_seen:
        result["trafficSeen"] = True
    if memory.lengths is not None:
        result["lengths"] = {name: round(getattr(memory.lengths, field), 1) for field, name in _LENGTHS.items()}
    return result


def memory_of(status: Mapping[str, Any] | None) -> Memory:
    """What an earlier decision left in this status."""
    found = (status or {}).get("memory")
    if not isinstance(found, Mapping):
        return Memory()
    startup = found.get("startupSecondsP90")
    return Memory(
        target=_target(found.get("target")),
        startup_p90_seconds=float(startup) if isinstance(startup, int | float) and startup >= 0 else None,
        traffic_seen=found.get("trafficSeen") is True,
        lengths=_lengths(found.get("lengths")),
        **{field: _instant(found.get(name)) for field, name in _INSTANTS.items()},
    )


def dump_placed(placement: Placement) -> dict[str, Any]:
    """A placement as every part of the status writes it."""
    configuration = placement.configuration
    return {
        "pool": placement.pool,
        "accelerator": configuration.accelerator,
        "tensorParallel": configuration.tensor_parallel,
        "enginesPerGPU": configuration.engines_per_gpu,
        "maxNumSeqs": configuration.max_num_seqs,
        "maxNumBatchedTokens": configuration.max_num_batched_tokens,
        **({"apiServers": configuration.api_servers} if configuration.api_servers > 1 else {}),
    }


def _key(entry: PlacedReplicas) -> tuple[int, Placement]:
    return -entry.replicas, entry.placement


def _target(found: Any) -> tuple[PlacedReplicas, ...] | None:
    """All of it or nothing: half a target would read as a wish to shrink."""
    try:
        return tuple(
            PlacedReplicas(
                Placement(
                    str(entry["pool"]),
                    Configuration(
                        accelerator=str(entry["accelerator"]),
                        tensor_parallel=int(entry["tensorParallel"]),
                        engines_per_gpu=int(entry["enginesPerGPU"]),
                        max_num_seqs=int(entry["maxNumSeqs"]),
                        max_num_batched_tokens=int(entry["maxNumBatchedTokens"]),
                        api_servers=int(entry.get("apiServers", 1)),
                    ),
                ),
                int(entry["replicas"]),
            )
            for entry in found
        )
    except (KeyError, TypeError, ValueError):
        return None


def _lengths(found: Any) -> LengthMix | None:
    try:
        return LengthMix(**{field: float(found[name]) for field, name in _LENGTHS.items()})
    except (KeyError, TypeError, ValueError):
        return None


def _instant(found: Any) -> float | None:
    try:
        return parse_time(found)
    except (TypeError, ValueError):
        return None
