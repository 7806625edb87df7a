"""The clocks of simulated GPUs, from the state file of their node."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class GPUClocks:
    """Says how much slower than `reference_mhz` the slowest of some GPUs runs.

    None as reference: the highest clock of each. A file or reading that is missing or broken keeps the last value.
    """

    def __init__(self, path: Path, uuids: Sequence[str], reference_mhz: float | None) -> None:
        self._path = path
        self._uuids = frozenset(uuids)
        self._reference = reference_mhz
        self._modified = -1
        self._ratio = 1.0

    def refresh(self) -> float:
        """The reference over the present clock; read again if the file has changed."""
        try:
            modified = self._path.stat().st_mtime_ns
            if modified != self._modified:
                self._ratio = slowdown(json.loads(self._path.read_text()), self._uuids, self._reference) or self._ratio
                self._modified = modified
        except (OSError, ValueError):
            pass  # being replaced just now, or not there yet: the next look will tell
        return self._ratio


def slowdown(state: Any, uuids: frozenset[str], reference_mhz: float | None) -> float | None:
    """The largest ratio among these GPUs of a state (`docs/architecture.md`); None when none tells its clock."""
    gpus = state.get("gpus") if isinstance(state, dict) else None
    ratios = [
        reference / clock
        for gpu in gpus or ()
        if gpu.get("uuid") in uuids
        and (clock := _positive(gpu, "clockMHz"))
        and (reference := reference_mhz or _positive(gpu, "maxClockMHz"))
    ]
    return max(ratios, default=None)


def _positive(gpu: Mapping[str, Any], field: str) -> float | None:
    value = gpu.get(field)
    return float(value) if isinstance(value, int | float) and value > 0 else None
