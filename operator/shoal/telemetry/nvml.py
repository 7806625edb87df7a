"""Reads GPUs through NVML. Every value may be missing on some GPU or driver, and none is missed by the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import pynvml

from shoal.telemetry.gpu import GpuReading, reason_names

_MILLIWATTS: Final = 1000.0


class NvmlReader:
    """The GPUs of this node. Needs no privileges; NVML is loaded with the first read, so that it may come later.

    Known quirks: boxes with unified memory (GB10) report a memory temperature of 0, which is not asked for; drivers
    before 535 know the clock event reasons by their old name; a GPU that fell off the bus answers nothing, not even its
    UUID, and is then listed by the one it had.
    """

    def __init__(self, *, nvml: Any = pynvml, now: Callable[[], float] = time.time) -> None:
        """`nvml` is the module pynvml, or one like it."""
        self._nvml = nvml
        self._now = now
        self._is_open = False
        self._uuids: dict[int, str] = {}

    def read(self) -> tuple[GpuReading, ...]:
        """All GPUs, by index. Raises OSError when NVML or its driver is not there."""
        try:
            self._open()
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            self._is_open = False  # a driver that is reloaded wants a new start
            raise OSError(f"NVML cannot be read: {error}") from error
        readings = (self._read_gpu(index) for index in range(count))
        return tuple(reading for reading in readings if reading is not None)

    def _open(self) -> None:
        if not self._is_open:
            self._nvml.nvmlInit()
            self._is_open = True

    def _read_gpu(self, index: int) -> GpuReading | None:
        nvml = self._nvml
        handle = self._ask(nvml.nvmlDeviceGetHandleByIndex, index)
        uuid = _text(self._ask(nvml.nvmlDeviceGetUUID, handle)) or self._uuids.get(index)
        if uuid is None:
            return None
        self._uuids[index] = uuid
        name = _text(self._ask(nvml.nvmlDeviceGetName, handle))
        usage = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        power = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        return GpuReading(
            uuid=uuid,
            index=index,
            product=name.replace(" ", "-") if name else None,
            clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            max_clock_mhz=self._ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            power_watts=None if power is None else power / _MILLIWATTS,
            throttle_reasons=reason_names(self._reasons(handle)),
            busy=None if usage is None else usage.gpu / 100.0,
            read_at=self._now(),
        )

    def _reasons(self, handle: Any) -> int:
        nvml = self._nvml
        mask = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
        if mask is None:
            mask = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return mask or 0

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer; None when this GPU or driver has none, or the handle is already None."""
        if arguments[0] is None:
            return None
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


def _text(value: Any) -> str | None:
    """Newer releases of the bindings answer text, older ones bytes."""
    if value is None:
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
