"""What GPUs do now, and why they are slow, in words."""

from __future__ import annotations

from collections.abc import Callable

from shoal.domain.service import Service
from shoal.render.report import GpuNow
from shoal.telemetry.gpu import GpuReading


def describe_heat(service: Service, readings_of: Callable[[str], tuple[GpuReading, ...]]) -> dict[str, str]:
    """Pod -> what is known of its slowest GPU; pods whose GPUs run at full clock are left out."""
    found = {}
    for variant in service.running:
        for replica in variant.replicas:
            mine = [r for r in readings_of(replica.node or "") if r.uuid in replica.gpus]
            slow = [reading for reading in mine if _is_slow(reading)]
            if slow:
                found[replica.name] = _describe(min(slow, key=_ratio))
    return found


def read_gpus(service: Service, readings_of: Callable[[str], tuple[GpuReading, ...]]) -> dict[str, GpuNow]:
    """UUID -> what each GPU of a service's replicas told last."""
    nodes = {replica.node for variant in service.running for replica in variant.replicas if replica.node}
    held = {uuid for variant in service.running for replica in variant.replicas for uuid in replica.gpus}
    return {
        reading.uuid: GpuNow(reading.clock_mhz, reading.power_watts, reading.temperature_c)
        for node in nodes
        for reading in readings_of(node)
        if reading.uuid in held
    }


def _ratio(reading: GpuReading) -> float:
    clock = reading.clock_under_load_mhz or reading.clock_mhz
    return clock / reading.max_clock_mhz if clock and reading.max_clock_mhz else 1.0


def _is_slow(reading: GpuReading) -> bool:
    return bool(reading.faults) or (reading.clock_under_load_mhz is not None and _ratio(reading) < 0.95)


def _describe(reading: GpuReading) -> str:
    clock = reading.clock_under_load_mhz or reading.clock_mhz
    parts = []
    if clock and reading.max_clock_mhz:
        parts.append(f"{clock:.0f} of {reading.max_clock_mhz:.0f} MHz")
    if reading.temperature_c is not None:
        parts.append(f"{reading.temperature_c:.0f} °C")
    parts.extend(reading.faults)
    return ", ".join(parts)
