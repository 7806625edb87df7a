"""Status of a ProfileRun: how far it is, what was found, what failed."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from shoal.api.base import Shape
from shoal.api.conditions import Conditions
from shoal.api.fields import BatchLimit, DNSSubdomain, EnginesPerGPU, Generation, Rate, TensorParallel
from shoal.api.lists import atomic

MOST_CONFIGURATIONS: Final = 16

ShortText = Annotated[str, Field(max_length=63)]
Count = Annotated[int, Field(ge=0, le=100_000)]


class ConfigurationStatus(Shape):
    """What became of one configuration."""

    shape: ShortText = Field(description="Engines and GPUs, as in the column PLAN of a ModelService.")
    tensor_parallel: TensorParallel = Field(description="GPUs per engine.")
    engines_per_gpu: EnginesPerGPU = Field(description="Engines that share one GPU.")
    max_num_seqs: BatchLimit = Field(description="Requests an engine works on at once, at most.")
    max_num_batched_tokens: BatchLimit = Field(description="Tokens an engine computes in one step, at most.")
    state: Literal["Waiting", "Starting", "Measuring", "Measured", "Partial", "Failed", "Skipped"] = Field(
        description="Partial: it ended early, and what was measured is in the profile. Failed: nothing could be "
        "measured. Skipped: those before it tell that nothing is to be gained."
    )
    points: Count | None = Field(None, description="Points measured so far.")
    requests_per_second: Rate | None = Field(
        None, description="Highest rate that met the objective, of all engines together; absent while unknown."
    )
    requests_per_second_per_gpu: Rate | None = Field(None, description="The same for each GPU.")
    idle_gap_milliseconds: Annotated[float, Field(gt=0, le=86_400_000)] | None = Field(
        None, description="Gap between the tokens of a lonely request."
    )
    most_running: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Most requests that ran at once, on all engines together."
    )
    message: Annotated[str, Field(max_length=320)] | None = Field(None, description="What is happening, or went wrong.")


class BestConfiguration(Shape):
    """The configuration that carries most per GPU."""

    shape: ShortText = Field(description="Engines and GPUs.")
    requests_per_second_per_gpu: Rate = Field(description="Its highest rate for each GPU.")


class ProfileRunStatus(Shape):
    """How far it is, and what was found."""

    observed_generation: Generation | None = Field(None, description="metadata.generation this status is about.")
    conditions: Conditions | None = Field(None, description="Ready, and what is wrong.")
    progress: ShortText | None = Field(None, description="Configurations done of all, and points of the present one.")
    seconds_left: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Seconds of measuring that are left, at most, without starts of engines."
    )
    configurations: Annotated[tuple[ConfigurationStatus, ...], atomic(MOST_CONFIGURATIONS)] | None = Field(
        None, description="What became of each configuration."
    )
    best: BestConfiguration | None = Field(None, description="The configuration that carries most per GPU, so far.")
    profile: DNSSubdomain | None = Field(None, description="ModelProfile that holds the results so far.")
    job: DNSSubdomain | None = Field(None, description="Job that measures now.")
