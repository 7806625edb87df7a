"""What was measured: one configuration with its points, and the names under which a profile is looked up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from shoal.domain.profile import Link, StepModel
from shoal.profiler.fit import StepFit, fit_steps
from shoal.profiler.knee import Bracket, find_bracket, overload_of
from shoal.profiler.points import Point
from shoal.profiler.roofline import roofline_steps
from shoal.profiler.specs import Settings


@dataclass(frozen=True, slots=True)
class Shape:
    """One configuration as it ran. `kv_cache_tokens` of one engine, None: neither told nor given."""

    tensor_parallel: int = 1
    engines_per_gpu: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    kv_cache_tokens: float | None = None
    mps: bool = False

    @property
    def label(self) -> str:
        """A short name, fit for a file."""
        mps = "-mps" if self.mps else ""
        return (
            f"tp{self.tensor_parallel}-k{self.engines_per_gpu}{mps}-b{self.max_num_seqs}-c{self.max_num_batched_tokens}"
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that is known of one configuration. `complete`: nothing was left out for want of budget."""

    shape: Shape
    settings: Settings
    points: tuple[Point, ...]
    complete: bool
    facts: dict[str, Any]

    @property
    def bracket(self) -> Bracket | None:
        """The knee, of all engines together."""
        return find_bracket(self.points, self.settings.objective)

    @property
    def saturation(self) -> float | None:
        """Requests per second when overloaded, of all engines together."""
        over = overload_of(self.points)
        return over.throughput if over is not None else None

    def fit(self, datasheet: StepModel | None = None) -> StepFit | None:
        """Step times of one engine; what the points do not tell stays near the datasheet's."""
        shape, engines = self.shape, self.settings.engines
        return fit_steps(self.points, chunk=shape.max_num_batched_tokens, engines=engines, datasheet=datasheet)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured: the names under which a profile is looked up."""

    model: str
    accelerator: str
    engine_version: str
    engine: str = "vllm"
    link: Link = Link.NONE
    simulated: bool = False
    parameters: float | None = None

    def datasheet_steps(self, shape: Shape) -> StepModel | None:
        """What the GPU's datasheet says of this model's step times; None for simulated engines, which obey none."""
        if self.simulated:
            return None
        return roofline_steps(
            self.model,
            self.accelerator,
            parameters=self.parameters,
            tensor_parallel=shape.tensor_parallel,
            engines_per_gpu=shape.engines_per_gpu,
        )


def with_kv_tokens(shape: Shape, told: float | None, given: float | None) -> Shape:
    """The size of the KV cache: as given, else as the server tells."""
    return replace(shape, kv_cache_tokens=given or told)
