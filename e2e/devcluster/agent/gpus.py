"""The GPUs of a node: simulated ones with a clock and a temperature, or the machine's own by NVML."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.devcluster.agent.products import find_product, product_name
from e2e.devcluster.config import ConfigError, NodeConfig
from e2e.devcluster.state import write_json

_NAMESPACE = uuid.UUID("6b3c1c50-6d0c-4a43-9f2b-52a8f0f5d1a7")
# A GPU warms up and cools down over about a minute; ten seconds let a demo show it.
_THERMAL_SECONDS = 10.0
_IDLE_CELSIUS, _BUSY_CELSIUS = 36.0, 64.0
# Slowdown begins near 87 °C on these boards; a throttled GPU sits there however far its clock has fallen.
_HOT_CELSIUS = 88.0


@dataclass(frozen=True)
class Gpu:
    """One GPU as a claim or a device plugin hands it out."""

    index: int
    uuid: str

    @property
    def device(self) -> str:
        """Its name in ResourceSlices."""
        return f"gpu-{self.index}"


@dataclass
class _Thermal:
    """What changes of a simulated GPU."""

    ratio: float = 1.0
    celsius: float = _IDLE_CELSIUS


def compute_temperature(celsius: float, target: float, seconds: float) -> float:
    """Return the temperature after `seconds` of approaching `target` exponentially."""
    return target + (celsius - target) * math.exp(-seconds / _THERMAL_SECONDS)


class NodeGpus:
    """All GPUs of one node; `path` is the state file that its containers read when the GPUs are simulated."""

    def __init__(self, node: NodeConfig, directory: Path) -> None:
        self.node = node
        self.path = directory / f"{node.name}.json"
        self.gpus = _simulated(node) if node.simulated else _read_nvml(node)
        self._thermal = {gpu.index: _Thermal() for gpu in self.gpus}
        self._missing: set[int] = set()
        self._written = time.monotonic()

    def heat(self, index: int, ratio: float) -> None:
        """Hold a GPU's clock at `ratio` of its maximum from now on. Raises LookupError and ValueError."""
        if index not in self._thermal or not self.node.simulated:
            raise LookupError(f"node {self.node.name} has no simulated GPU {index}")
        if not 0.0 < ratio <= 1.0:
            raise ValueError(f"the ratio must be above 0 and at most 1, not {ratio:g}")
        self._thermal[index].ratio = ratio

    def hide(self, index: int, *, hidden: bool) -> None:
        """Stop (or resume) reporting a GPU's readings, as a driver does that lost it. Raises LookupError."""
        if index not in self._thermal:
            raise LookupError(f"node {self.node.name} has no simulated GPU {index}")
        (self._missing.add if hidden else self._missing.discard)(index)

    def write(self, busy: Collection[int]) -> None:
        """Let time pass and write the state file; `busy` are the GPUs that running containers hold."""
        if not (self.gpus and self.node.simulated):
            return
        seconds, self._written = time.monotonic() - self._written, time.monotonic()
        for index, thermal in self._thermal.items():
            cool = _BUSY_CELSIUS if index in busy else _IDLE_CELSIUS
            target = _HOT_CELSIUS if thermal.ratio < 1.0 else cool
            thermal.celsius = compute_temperature(thermal.celsius, target, seconds)
        readings = [self._reading(gpu, gpu.index in busy) for gpu in self.gpus if gpu.index not in self._missing]
        self.path.parent.mkdir(exist_ok=True)
        write_json(self.path, {"node": self.node.name, "gpus": readings})

    def _reading(self, gpu: Gpu, busy: bool) -> dict[str, Any]:
        thermal, product = self._thermal[gpu.index], find_product(self.node.accelerator or "")
        share = 0.75 * thermal.ratio if busy else 0.15
        return {
            "uuid": gpu.uuid,
            "index": gpu.index,
            "product": self.node.accelerator,
            "clockMHz": round(product.max_clock_mhz * thermal.ratio),
            "maxClockMHz": product.max_clock_mhz,
            "temperatureC": round(thermal.celsius, 1),
            "powerWatts": round(product.power_watts * share),
            "throttleReasons": ["SwThermal"] if thermal.ratio < 1.0 else [],
            "busy": 0.9 if busy else 0.0,
            "readAt": time.time(),
        }

    def variables(self, indices: Collection[int]) -> dict[str, str]:
        """Return what a container runtime would give a container that holds these GPUs."""
        held = [gpu for gpu in self.gpus if gpu.index in indices]
        if not self.node.simulated:
            return {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu.index) for gpu in held)}
        return {
            "SHOAL_SIM_GPU_UUIDS": ",".join(gpu.uuid for gpu in held),
            "SHOAL_SIM_ACCELERATOR": self.node.accelerator or "",
        }

    def node_variables(self) -> dict[str, str]:
        """Return what every container on the node may read: the state of simulated GPUs, as NVML is for all."""
        return {"SHOAL_GPU_STATE_FILE": str(self.path)} if self.gpus and self.node.simulated else {}

    def slice_devices(self) -> list[dict[str, Any]]:
        """Return the ResourceSlice's devices, with the attributes NVIDIA's driver publishes."""
        accelerator = self.node.accelerator or ""
        product = find_product(accelerator)
        attributes = {
            "type": {"string": "gpu"},
            "productName": {"string": product_name(accelerator)},
            "brand": {"string": "Nvidia"},
            "architecture": {"string": product.architecture},
            "cudaComputeCapability": {"version": product.compute_capability},
            "driverVersion": {"version": "580.95.5"},
        }
        return [
            {
                "name": gpu.device,
                "attributes": {**attributes, "uuid": {"string": gpu.uuid}, "index": {"int": gpu.index}},
                "capacity": {"memory": {"value": self.node.memory}},
            }
            for gpu in self.gpus
        ]


def _simulated(node: NodeConfig) -> list[Gpu]:
    return [Gpu(i, f"GPU-{uuid.uuid5(_NAMESPACE, f'{node.name}/{i}')}") for i in range(node.gpus)]


def _read_nvml(node: NodeConfig) -> list[Gpu]:
    """Return the first `gpus` GPUs of this machine. Raises ConfigError when there are fewer."""
    import pynvml  # noqa: PLC0415 - loads the driver's library, which only machines with GPUs have

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        found = [Gpu(index, str(pynvml.nvmlDeviceGetUUID(handle))) for index, handle in enumerate(handles)]
    except pynvml.NVMLError as error:
        raise ConfigError(f"node {node.name}: simulated: false needs NVIDIA GPUs here: {error}") from error
    if len(found) < node.gpus:
        raise ConfigError(f"node {node.name} wants {node.gpus} GPUs; this machine has {len(found)}")
    return found[: node.gpus]
