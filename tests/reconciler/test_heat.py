"""What the GPUs of a service's replicas told last, and which of them are slow."""

from __future__ import annotations

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.profile import LengthMix
from shoal.domain.service import (
    EngineFacts,
    Objective,
    Replica,
    ReplicaPhase,
    RunningVariant,
    Service,
    ServiceKey,
    Workload,
)
from shoal.reconciler.heat import describe_heat, read_gpus
from shoal.render.report import GpuNow
from shoal.telemetry.gpu import GpuReading

HOT = GpuReading(
    "GPU-1", 0, clock_mhz=1200, max_clock_mhz=1980, temperature_c=88, power_watts=500, clock_under_load_mhz=1210
)
COOL = GpuReading("GPU-2", 1, clock_mhz=1980, max_clock_mhz=1980, temperature_c=50)
OTHERS = GpuReading("GPU-3", 2, clock_mhz=345, max_clock_mhz=1980)


def _service() -> Service:
    replicas = (
        Replica("hot", ReplicaPhase.READY, 0.0, node="a", gpus=("GPU-1",)),
        Replica("cool", ReplicaPhase.READY, 0.0, node="a", gpus=("GPU-2",)),
        Replica("unbound", ReplicaPhase.PENDING, 0.0),
    )
    running = RunningVariant("chat-0a1b2c3d", Placement("h100", Configuration("NVIDIA-H100-80GB-HBM3")), 3, replicas)
    return Service(
        key=ServiceKey("team", "chat"),
        uid="1",
        generation=1,
        created_at=0.0,
        model="acme/m",
        facts=None,
        max_context_tokens=8192,
        objective=Objective(95, 1000, 50),
        workload=Workload(1.0, LengthMix(512, 128, 1024, 256)),
        engine=EngineFacts("vllm", "0.33.0"),
        pools=("h100",),
        running=(running,),
    )


def _readings(node: str) -> tuple[GpuReading, ...]:
    return {"a": (HOT, COOL, OTHERS)}.get(node, ())


def test_only_gpus_that_the_service_holds_are_told() -> None:
    assert read_gpus(_service(), _readings) == {"GPU-1": GpuNow(1200, 500, 88), "GPU-2": GpuNow(1980, None, 50)}


def test_a_slow_gpu_is_described() -> None:
    assert describe_heat(_service(), _readings) == {"hot": "1210 of 1980 MHz, 88 °C"}
