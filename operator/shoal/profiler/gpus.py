"""What the GPUs did meanwhile: clocks, power, heat, throttle reasons, through NVML when it is on this machine."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pynvml

from shoal.telemetry.gpu import GpuReading
from shoal.telemetry.nvml import NvmlReader

SAMPLE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The GPUs that are measured. None: NVML does not tell, or is not there."""

    name: str | None = None
    driver: str | None = None
    power_limit_watts: float | None = None


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What the GPUs did in a window: power of all together, clock and heat of the typical and the hottest one."""

    watts: float | None = None
    clock_mhz: float | None = None
    temperature_c: float | None = None
    busy: float | None = None
    reasons: tuple[str, ...] = ()


class GpuSampler:
    """Reads the GPUs with these indices twice a second. Without NVML it has no samples. Use as a context manager."""

    def __init__(self, indices: Sequence[int] | None) -> None:
        self._indices = None if indices is None else frozenset(indices)
        self._reader = NvmlReader()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._samples: list[tuple[float, list[GpuReading]]] = []

    def __enter__(self) -> GpuSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def facts(self) -> GpuFacts:
        """Name and driver; empty without NVML."""
        readings = self._read()
        if not readings:
            return GpuFacts()
        return GpuFacts(readings[0].product, _ask_driver(), _ask_power_limit(readings[0].index))

    def between(self, since: float, until: float) -> GpuUse:
        """Sum up a window (time.monotonic)."""
        rows = [readings for at, readings in list(self._samples) if since <= at <= until]
        if not rows:
            return GpuUse()
        each = [reading for readings in rows for reading in readings]
        watts = [sum(reading.power_watts or 0.0 for reading in readings) for readings in rows]
        clocks = [reading.clock_mhz for reading in each if reading.clock_mhz is not None]
        heat = [reading.temperature_c for reading in each if reading.temperature_c is not None]
        busy = [reading.busy for reading in each if reading.busy is not None]
        return GpuUse(
            watts=statistics.mean(watts) if any(watts) else None,
            clock_mhz=statistics.median(clocks) if clocks else None,
            temperature_c=max(heat) if heat else None,
            busy=statistics.mean(busy) if busy else None,
            reasons=tuple(sorted({reason for reading in each for reason in reading.throttle_reasons})),
        )

    def _read(self) -> list[GpuReading]:
        try:
            return [r for r in self._reader.read() if self._indices is None or r.index in self._indices]
        except OSError:
            return []

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            if readings := self._read():
                self._samples.append((time.monotonic(), readings))


def _ask_driver() -> str | None:
    try:
        found = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return None
    return found.decode() if isinstance(found, bytes) else str(found)


def _ask_power_limit(index: int) -> float | None:
    try:
        limit: float = pynvml.nvmlDeviceGetEnforcedPowerLimit(pynvml.nvmlDeviceGetHandleByIndex(index)) / 1000
    except pynvml.NVMLError:
        return None
    return limit
