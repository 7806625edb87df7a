"""The clock of simulated GPUs, from the state file of their node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


class GPUClock:
    """Reads the slowest clock of some GPUs. A file or reading that is missing or broken keeps the last value."""

    def __init__(self, path: Path, uuids: Sequence[str]) -> None:
        self._path = path
        self._uuids = frozenset(uuids)
        self._modified = -1
        self.mhz: float | None = None

    def refresh(self) -> float | None:
        """Read again if the file has changed."""
        try:
            modified = self._path.stat().st_mtime_ns
            if modified != self._modified:
                self.mhz = slowest_clock(json.loads(self._path.read_text()), self._uuids) or self.mhz
                self._modified = modified
        except (OSError, ValueError):
            pass  # being replaced just now, or not there yet: the next look will tell
        return self.mhz


def slowest_clock(state: object, uuids: frozenset[str]) -> float | None:
    """The lowest `clockMHz` among these GPUs; None when none is told."""
    gpus = state.get("gpus") if isinstance(state, dict) else None
    clocks = [
        gpu["clockMHz"]
        for gpu in gpus or ()
        if gpu.get("uuid") in uuids and isinstance(gpu.get("clockMHz"), int | float) and gpu["clockMHz"] > 0
    ]
    return float(min(clocks)) if clocks else None
