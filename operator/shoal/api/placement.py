"""How engines are laid over GPUs: the allowed part of the search, and what a person asks for."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shoal.api import defaults
from shoal.api.base import Rule, Shape
from shoal.api.fields import DNSLabel, EnginesPerGPU, Replicas, TensorParallel
from shoal.api.lists import unique


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)


class Parallelism(Shape):
    """The part of the search space that the owner allows."""

    rules: ClassVar = (
        Rule(
            "!has(self.tensor) || !has(self.enginesPerGPU) || 1 in self.tensor || 1 in self.enginesPerGPU",
            "engines share a GPU only with tensor 1: add 1 to tensor or to enginesPerGPU",
            lambda chosen: (
                chosen.tensor is None
                or chosen.engines_per_gpu is None
                or 1 in chosen.tensor
                or 1 in chosen.engines_per_gpu
            ),
        ),
    )

    tensor: Annotated[tuple[TensorParallel, ...], unique(4, min_items=1)] | None = Field(
        None,
        description="GPUs per engine (tensor parallel) that may be used. "
        f"Default: {_listed(defaults.TENSOR_PARALLEL)}.",
    )
    engines_per_gpu: Annotated[tuple[EnginesPerGPU, ...], unique(4, min_items=1)] | None = Field(
        None,
        description="Engines that may share one GPU; more than 1 needs a DRA pool. "
        f"Default: {_listed(defaults.ENGINES_PER_GPU)}.",
    )


class ManualPlacement(Shape):
    """What runs in mode Manual. Shoal chooses what is left out."""

    rules: ClassVar = (
        Rule(
            "!has(self.tensorParallel) || !has(self.enginesPerGPU) || self.tensorParallel == 1 || "
            "self.enginesPerGPU == 1",
            "engines share a GPU only with tensorParallel 1: set one of tensorParallel and enginesPerGPU to 1",
            lambda manual: 1 in (manual.tensor_parallel or 1, manual.engines_per_gpu or 1),
        ),
    )

    replicas: Replicas = Field(description="Replicas to run; 0 stops the service.")
    pool: DNSLabel | None = Field(None, description="GPUPool to run on. Default: the best one allowed.")
    tensor_parallel: TensorParallel | None = Field(None, description="GPUs per engine. Default: Shoal's choice.")
    engines_per_gpu: EnginesPerGPU | None = Field(None, description="Engines on one GPU. Default: Shoal's choice.")
