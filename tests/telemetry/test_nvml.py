"""The NVML reader against a stand-in for the module `pynvml`: GPUs of which one thing or another cannot be read.

A stand-in for the module, not for libnvidia-ml.so.1: the bindings between the two are NVIDIA's own, and a C compiler
would be needed wherever the tests run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from shoal.telemetry.gpu import FAULTS, GpuReading, reason_names
from shoal.telemetry.nvml import NvmlReader

H100 = {
    "UUID": "GPU-1",
    "Name": "NVIDIA H100 80GB HBM3",
    "ClockInfo": 1530,
    "MaxClockInfo": 1980,
    "Temperature": 63,
    "PowerUsage": 699_500,
    "CurrentClocksEventReasons": 0x4,
    "UtilizationRates": SimpleNamespace(gpu=97, memory=50),
}
READ_AT = 1_700_000_000.0


@dataclass
class Nvml:
    """Answers from a table for each GPU; what is not in it is not supported."""

    gpus: list[dict[str, Any]]
    starts: int = 0
    error: pynvml.NVMLError | None = None
    asked: list[str] = field(default_factory=list)
    NVMLError = pynvml.NVMLError
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def nvmlInit(self) -> None:  # noqa: N802
        self.starts += 1
        if self.error:
            raise self.error

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if self.error:
            raise self.error
        return len(self.gpus)

    def __getattr__(self, name: str) -> Any:
        assert hasattr(pynvml, name), f"pynvml has no {name}"

        def ask(handle: Any, *_: Any) -> Any:
            if name == "nvmlDeviceGetHandleByIndex":
                gpu, key = self.gpus[handle], "Handle"
                gpu.setdefault("Handle", gpu)
            else:
                gpu, key = handle, name.removeprefix("nvmlDeviceGet")
            answer = gpu.get(key, pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


def read(*gpus: dict[str, Any]) -> tuple[GpuReading, ...]:
    return NvmlReader(nvml=Nvml(list(gpus)), now=lambda: READ_AT).read()


def test_a_gpu_is_read() -> None:
    assert read(dict(H100)) == (
        GpuReading(
            uuid="GPU-1",
            index=0,
            product="NVIDIA-H100-80GB-HBM3",
            clock_mhz=1530,
            max_clock_mhz=1980,
            temperature_c=63,
            power_watts=699.5,
            throttle_reasons=("SwPowerCap",),
            busy=0.97,
            read_at=READ_AT,
        ),
    )


@pytest.mark.parametrize(
    ("missing", "attribute"),
    [
        ("Name", "product"),
        ("ClockInfo", "clock_mhz"),
        ("MaxClockInfo", "max_clock_mhz"),
        ("Temperature", "temperature_c"),
        ("PowerUsage", "power_watts"),
        ("UtilizationRates", "busy"),
    ],
)
@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN, 13, 999])
def test_each_value_may_be_missing_alone(missing: str, attribute: str, error: int) -> None:
    [whole] = read(dict(H100))
    [reading] = read({**H100, missing: pynvml.NVMLError(error)})
    assert getattr(reading, attribute) is None
    for name in ("uuid", "product", "clock_mhz", "max_clock_mhz", "temperature_c", "power_watts", "busy"):
        if name != attribute:
            assert getattr(reading, name) == getattr(whole, name)


def test_older_drivers_know_the_reasons_by_their_old_name() -> None:
    gpu = {key: value for key, value in H100.items() if key != "CurrentClocksEventReasons"}
    assert read({**gpu, "CurrentClocksThrottleReasons": 0x40})[0].throttle_reasons == ("HwThermalSlowdown",)
    assert read(gpu)[0].throttle_reasons == ()


def test_only_four_reasons_are_faults() -> None:
    names = reason_names(0x1FF)
    assert len(names) == 9
    assert {name for name in names if name in FAULTS} == {
        "HwSlowdown",
        "SwThermalSlowdown",
        "HwThermalSlowdown",
        "HwPowerBrakeSlowdown",
    }
    assert GpuReading("u", 0, throttle_reasons=("SwPowerCap", "HwThermalSlowdown")).faults == ("HwThermalSlowdown",)


def test_text_may_come_as_bytes() -> None:
    [reading] = read({**H100, "UUID": b"GPU-1", "Name": b"NVIDIA GB10"})
    assert (reading.uuid, reading.product) == ("GPU-1", "NVIDIA-GB10")


def test_a_gpu_that_fell_off_the_bus_is_still_named() -> None:
    nvml = Nvml([dict(H100), {**H100, "UUID": "GPU-2"}])
    reader = NvmlReader(nvml=nvml, now=lambda: READ_AT)
    reader.read()
    nvml.gpus[1] = {"Handle": pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)}
    first, second = reader.read()
    assert first.clock_mhz == 1530
    assert second == GpuReading("GPU-2", 1, read_at=READ_AT)


def test_a_gpu_that_was_never_seen_is_not_made_up() -> None:
    assert read({"Handle": pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)}, dict(H100))[0].index == 1


def test_a_driver_that_goes_and_comes_back() -> None:
    nvml = Nvml([dict(H100)], error=pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    reader = NvmlReader(nvml=nvml)
    with pytest.raises(OSError, match="NVML cannot be read"):
        reader.read()
    nvml.error = None
    assert len(reader.read()) == 1
    nvml.error = pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
    with pytest.raises(OSError, match="NVML cannot be read"):
        reader.read()
    nvml.error = None
    assert len(reader.read()) == 1
    assert nvml.starts == 3


def test_the_real_bindings_read_gpus_or_say_why_not() -> None:
    """Without libnvidia-ml.so.1 an OSError; on a GPU machine its GPUs."""
    outcome: str | tuple[GpuReading, ...]
    try:
        outcome = NvmlReader().read()
    except OSError as error:
        outcome = str(error)
    if isinstance(outcome, str):
        assert outcome.startswith("NVML cannot be read: ")
    else:
        assert all(reading.uuid.startswith("GPU-") for reading in outcome)
