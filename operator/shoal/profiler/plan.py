"""What `--plan` reads: which engines to start, in which configurations, on which GPUs."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shoal.profiler.errors import ProfilerError
from shoal.profiler.measured import Shape

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(value: Any) -> Any:
    """24GiB, 24Gi, 24G or a number -> bytes (powers of two)."""
    if isinstance(value, str) and (found := re.fullmatch(r"([\d.]+)\s*([KMGT]?)(?:i?B?)", value.strip())):
        return int(float(found[1]) * _UNITS[found[2]])
    return value


def parse_cpus(value: Any) -> Any:
    """`0-7,12` -> the CPUs' numbers."""
    if not isinstance(value, str):
        return value
    cpus: list[int] = []
    for part in filter(None, value.split(",")):
        low, _, high = part.partition("-")
        if not low.strip().isdigit() or (high and not high.strip().isdigit()):
            raise ValueError(f"{value!r}: write CPUs as 0-7,12")
        cpus.extend(range(int(low), int(high or low) + 1))
    return cpus


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Counts = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_listed)]
Cpus = Annotated[list[int], BeforeValidator(parse_cpus)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=2**20)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineCommand(_Part):
    """How a server is started. `{model}`, `{name}` and `{port}` are filled in."""

    command: list[str] = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    args: list[str] = ["--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    env: dict[str, str] = {}
    start_seconds: float = 300.0


class Configurations(_Part):
    """Every combination of these is measured. `kv` is bytes of KV cache per engine."""

    tp: Counts = [1]
    engines: Counts = [1]
    mps: Annotated[list[bool], BeforeValidator(_listed)] = [False]
    max_num_seqs: Counts = [256]
    max_num_batched_tokens: Counts = [2048]
    kv: Annotated[list[Bytes | None], BeforeValidator(_listed)] = [None]
    args: list[str] = []


class ModelPlan(_Part):
    """One model: its name in the profile, where it lies, and what to try."""

    name: str
    path: str | None = None
    parameters: float | None = None
    configurations: list[Configurations] = Field(min_length=1)
    args: list[str] = []
    env: dict[str, str] = {}
    lengths: str | None = None
    longest: int | None = None


class Lane(_Part):
    """GPUs that work on one configuration after the other, and the CPUs that belong to them."""

    gpus: list[int] = Field(min_length=1)
    server_cpus: Cpus = []
    client_cpus: Cpus = []
    clients: int | None = None


class Plan(_Part):
    """A whole file. Times in seconds, `budget` in minutes for each configuration."""

    models: list[ModelPlan] = Field(min_length=1)
    lanes: list[Lane] = [Lane(gpus=[0])]
    engine: EngineCommand = EngineCommand()
    lengths: str = "gamma:512,128"
    slo: str = ""
    longest: int = 2048
    horizon: float = Field(60.0, gt=0)
    warm_up: float = Field(10.0, ge=0)
    probe: float = Field(10.0, gt=0)
    budget: float = Field(10.0, gt=0)
    tolerance: float = Field(0.08, gt=0)
    repeats: int = Field(1, ge=1)
    seed: int = 1
    probes: bool = True
    burst: bool = False
    served_name: str = "m"
    accelerator: str | None = None
    engine_version: str | None = None
    link: str = "None"


class Job(_Part):
    """One model in one configuration. `kv_bytes` None: as the engine finds it."""

    model: ModelPlan
    shape: Shape
    kv_bytes: int | None
    args: list[str]

    @property
    def label(self) -> str:
        """A name, fit for a file."""
        name = re.sub(r"[^a-z0-9.]+", "-", self.model.name.rpartition("/")[2].lower())
        kv = f"-kv{self.kv_bytes / 2**30:.3g}g" if self.kv_bytes else ""
        return f"{name}-{self.shape.label}{kv}"

    @property
    def gpus(self) -> int:
        """GPUs it needs."""
        return self.shape.tensor_parallel


def load_plan(path: Path) -> Plan:
    """Read a plan. Raises ProfilerError."""
    try:
        return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ProfilerError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ProfilerError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ProfilerError(f"{path}: {place}: {first['msg']}") from error


def make_jobs(plan: Plan) -> list[Job]:
    """All combinations, in the order of the file; small ones first within each, so that later ones can be skipped."""
    jobs: list[Job] = []
    for model in plan.models:
        for one in model.configurations:
            for tp, k, mps, chunk, batch, kv in itertools.product(
                one.tp, one.engines, one.mps, one.max_num_batched_tokens, one.max_num_seqs, one.kv
            ):
                if (tp > 1 and k > 1) or (mps and k == 1 and False in one.mps and len(one.mps) > 1):
                    continue  # engines share a GPU only without tensor parallelism; alone, MPS changes nothing
                shape = Shape(tp, k, batch, max(chunk, batch), mps=mps)
                job = Job(model=model, shape=shape, kv_bytes=kv, args=[*model.args, *one.args])
                if job not in jobs:
                    jobs.append(job)
    return jobs
