"""The GPU agent: `python -m shoal.telemetry.agent` on every GPU node.

`GET /v1/gpus` is for the operator, `GET /metrics` says the same to Prometheus, `GET /healthz` is for the kubelet. It
reads NVML, or the file in `SHOAL_GPU_STATE_FILE`; it changes nothing, and knows nothing of Kubernetes. `POD_IP` is the
address it listens on, `NODE_NAME` what it calls its node.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shoal.telemetry.gpu import FAULTS, GpuReader, GpuReading, StateFileReader, make_json
from shoal.telemetry.nvml import NvmlReader

PORT: Final = 9440
ANSWER_SECONDS: Final = 2.0
"""A driver in trouble can hang for minutes; whoever asks is told so after this."""

_GAUGES: Final[tuple[tuple[str, str, Callable[[GpuReading], float | None]], ...]] = (
    ("shoal_gpu_clock_mhz", "SM clock.", lambda gpu: gpu.clock_mhz),
    ("shoal_gpu_max_clock_mhz", "Highest SM clock.", lambda gpu: gpu.max_clock_mhz),
    ("shoal_gpu_temperature_celsius", "Temperature of the core.", lambda gpu: gpu.temperature_c),
    ("shoal_gpu_power_watts", "Power draw.", lambda gpu: gpu.power_watts),
    ("shoal_gpu_busy_ratio", "Share of time in which it computed.", lambda gpu: gpu.busy),
)


class Agent:
    """Answers from one reader, however many ask at once."""

    def __init__(self, node: str, reader: GpuReader) -> None:
        self._node = node
        self._reader = reader
        self._reading: asyncio.Task[tuple[GpuReading, ...]] | None = None

    def make_app(self) -> web.Application:
        """The HTTP application."""
        app = web.Application()
        app.router.add_get("/v1/gpus", self._get_gpus)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/healthz", self._get_health)
        return app

    async def _get_gpus(self, _: web.Request) -> web.Response:
        readings = await self._read()
        return web.json_response({"node": self._node, "gpus": [make_json(reading) for reading in readings]})

    async def _get_metrics(self, _: web.Request) -> web.Response:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_GpuMetrics(self._node, await self._read()))
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _get_health(self, _: web.Request) -> web.Response:
        """The process answers. Whether the driver does is for `/v1/gpus`: a restart of this pod would not mend it."""
        return web.Response(text="ok\n")

    async def _read(self) -> tuple[GpuReading, ...]:
        """Read in a thread; whoever comes meanwhile gets the same answer."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(asyncio.to_thread(self._reader.read))
        try:
            return await asyncio.wait_for(asyncio.shield(self._reading), ANSWER_SECONDS)
        except TimeoutError:
            raise web.HTTPServiceUnavailable(text="the GPU driver does not answer\n") from None
        except OSError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from error


class _GpuMetrics(Collector):
    def __init__(self, node: str, readings: tuple[GpuReading, ...]) -> None:
        self._node = node
        self._readings = readings

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One family for each number; a GPU without it is left out."""
        names = ("node", "uuid", "index", "product")
        for name, about, get in _GAUGES:
            family = GaugeMetricFamily(name, about, labels=names)
            for gpu in self._readings:
                value = get(gpu)
                if value is not None:
                    family.add_metric(self._labels(gpu), value)
            yield family
        reasons = GaugeMetricFamily("shoal_gpu_throttled", "1 for each reason now.", labels=(*names, "reason", "fault"))
        for gpu in self._readings:
            for reason in gpu.throttle_reasons:
                reasons.add_metric([*self._labels(gpu), reason, str(reason in FAULTS).lower()], 1)
        yield reasons

    def _labels(self, gpu: GpuReading) -> list[str]:
        return [self._node, gpu.uuid, str(gpu.index), gpu.product or ""]


def make_reader(environment: Mapping[str, str]) -> GpuReader:
    """The simulated reader if `SHOAL_GPU_STATE_FILE` is set, else NVML."""
    path = environment.get("SHOAL_GPU_STATE_FILE")
    return StateFileReader(Path(path)) if path else NvmlReader()


def main() -> None:
    """Serve until SIGTERM."""
    node = os.environ.get("NODE_NAME") or os.uname().nodename
    app = Agent(node, make_reader(os.environ)).make_app()
    web.run_app(
        app, host=os.environ.get("POD_IP") or "127.0.0.1", port=PORT, print=None, access_log=None, shutdown_timeout=2
    )


if __name__ == "__main__":
    main()
