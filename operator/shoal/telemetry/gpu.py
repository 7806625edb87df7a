"""The state of GPUs: what readers answer, and how it travels from the agent to the operator."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

REASONS: Final = {
    0x1: "GpuIdle",
    0x2: "ApplicationsClocksSetting",
    0x4: "SwPowerCap",  # normal at full load
    0x8: "HwSlowdown",
    0x10: "SyncBoost",
    0x20: "SwThermalSlowdown",
    0x40: "HwThermalSlowdown",
    0x80: "HwPowerBrakeSlowdown",
    0x100: "DisplayClockSetting",
}
"""NVML's clock event reasons, by bit."""

FAULTS: Final = frozenset(REASONS[bit] for bit in (0x8, 0x20, 0x40, 0x80))
"""The reasons that mean something is wrong."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at `read_at` (seconds since the epoch).

    Clocks are of the SMs in MHz; `busy` is the share of the last second in which the GPU computed. None: unknown.
    `clock_under_load_mhz` is what derating goes by; only the operator's reader fills it in.
    """

    uuid: str
    index: int
    product: str | None = None
    clock_mhz: float | None = None
    max_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_watts: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    busy: float | None = None
    read_at: float | None = None
    clock_under_load_mhz: float | None = None

    @property
    def faults(self) -> tuple[str, ...]:
        """The throttle reasons that mean something is wrong."""
        return tuple(reason for reason in self.throttle_reasons if reason in FAULTS)


class GpuReader(Protocol):
    """Reads the GPUs of this node."""

    def read(self) -> tuple[GpuReading, ...]:
        """All GPUs, by index. Raises OSError when none can be read at all."""


class StateFileReader:
    """Simulated GPUs: a JSON file `{"gpus": [...]}` with the fields of the agent's answer."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now

    def read(self) -> tuple[GpuReading, ...]:
        """What the file says now. Raises OSError when it cannot be read or is not such a file."""
        try:
            items = json.loads(self._path.read_text())["gpus"]
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(f"{self._path} is not a GPU state file: {error!r}") from error
        return parse_readings(items, read_at=self._now())


def reason_names(mask: int) -> tuple[str, ...]:
    """Names of the clock event reasons in NVML's bit mask."""
    return tuple(name for bit, name in REASONS.items() if mask & bit)


def parse_readings(items: Any, *, read_at: float | None = None) -> tuple[GpuReading, ...]:
    """Readings from JSON. Whatever is not of the right kind is unknown; an item without a UUID is left out.

    `read_at` takes the place of the items' own.
    """
    if not isinstance(items, list):
        return ()
    readings = [_parse_reading(item, read_at) for item in items if isinstance(item, Mapping)]
    return tuple(sorted((r for r in readings if r is not None), key=lambda r: (r.index, r.uuid)))


def _parse_reading(item: Mapping[str, Any], read_at: float | None) -> GpuReading | None:
    uuid, index, product, reasons = (item.get(key) for key in ("uuid", "index", "product", "throttleReasons"))
    if not isinstance(uuid, str) or not uuid or not isinstance(index, int):
        return None
    return GpuReading(
        uuid=uuid,
        index=index,
        product=product if isinstance(product, str) else None,
        clock_mhz=_positive(item.get("clockMHz")),
        max_clock_mhz=_positive(item.get("maxClockMHz")),
        temperature_c=_number(item.get("temperatureC")),
        power_watts=_number(item.get("powerWatts")),
        throttle_reasons=tuple(r for r in reasons if isinstance(r, str)) if isinstance(reasons, list) else (),
        busy=_number(item.get("busy")),
        read_at=_number(item.get("readAt")) if read_at is None else read_at,
    )


def make_json(reading: GpuReading) -> dict[str, Any]:
    """A reading as the agent answers it."""
    return {
        "uuid": reading.uuid,
        "index": reading.index,
        "product": reading.product,
        "clockMHz": reading.clock_mhz,
        "maxClockMHz": reading.max_clock_mhz,
        "temperatureC": reading.temperature_c,
        "powerWatts": reading.power_watts,
        "throttleReasons": list(reading.throttle_reasons),
        "busy": reading.busy,
        "readAt": reading.read_at,
    }


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None
