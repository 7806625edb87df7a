"""What the operator asks of the profiler in a pod, and what that answers: progress over HTTP, a result at its end.

The result is the container's termination message: the API server keeps it when the pod is over and its GPUs are free,
whether an operator runs or not. All containers of a pod share 12 KiB for these, hence the packing.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from shoal.api.base import Shape
from shoal.api.errors import ApiError
from shoal.api.model_profile import ProfileRowSpec

PROGRESS_PORT: Final = 9441
PROGRESS_PATH: Final = "/v1/progress"
RESULT_VARIABLE: Final = "SHOAL_RESULT_FILE"  # names the file whose content becomes the termination message
RESULT_PATH: Final = "/dev/termination-log"
POD_MESSAGE_BYTES: Final = 12_288  # of all containers of a pod together, as kubelets share it out
MOST_MESSAGE_BYTES: Final = 4096  # of one container
_LARGEST: Final = 1 << 20  # bytes of a result once unpacked

Text = Annotated[str, Field(max_length=512)]
Seconds = Annotated[float, Field(ge=0, le=1e6)]


class MeasurementPlan(Shape):
    """What one pod measures. `lengths` and `objective` are written as `shoal profile` takes them."""

    urls: tuple[str, ...] = Field(min_length=1)
    model: str
    lengths: str
    objective: str
    tensor_parallel: int
    engines_per_gpu: int
    max_num_seqs: int
    max_num_batched_tokens: int
    longest: int
    budget_seconds: float
    most_lag_ms: float
    message_bytes: int
    subject: str | None = None  # the model's name in the profile; `model` is what requests call it
    accelerator: str | None = None
    parameters: float | None = None
    mps: bool = False
    shortest_seconds: float = 4.0  # that any step counts, however small the budget


class Progress(Shape):
    """How far a measurement is."""

    step: Text
    points: int = Field(ge=0)
    seconds_left: Seconds
    requests_per_second: float | None = Field(None, ge=0)


class Measurement(Shape):
    """What was found. `row` None: nothing of use. `problem` empty: complete. The knee is of all engines together."""

    row: ProfileRowSpec | None = None
    points: int = Field(0, ge=0)
    requests_per_second: float | None = Field(None, ge=0)
    idle_gap_ms: float | None = Field(None, gt=0)
    most_running: float | None = Field(None, ge=0)
    problem: Text = ""
    note: Text = ""
    simulated: bool = False
    engine_version: Text | None = None
    gpu_name: Text | None = None
    driver: Text | None = None
    clock_mhz: Annotated[float, Field(ge=1, le=100_000)] | None = None
    host: Text | None = None
    tool_version: Text | None = None

    @property
    def state(self) -> Literal["Measured", "Partial", "Failed"]:
        """What became of the configuration."""
        if self.row is None:
            return "Failed"
        return "Partial" if self.problem else "Measured"


def message_bytes(containers: int) -> int:
    """Bytes of its termination message that a kubelet keeps for each of so many containers."""
    return min(MOST_MESSAGE_BYTES, POD_MESSAGE_BYTES // containers)


def pack(found: Measurement, most: int) -> str:
    """As text of at most `most` bytes; where there are too many points, those of the lowest rates go first.

    Raises ValueError when it does not fit even so.
    """
    while True:
        text = base64.b85encode(zlib.compress(found.model_dump_json(exclude_none=True).encode(), 9)).decode()
        if len(text) <= most:
            return text
        points = found.row.points if found.row else None
        if found.row is None or not points or len(points) <= 2:
            raise ValueError(f"a result of {len(text)} bytes does not fit into {most}")
        row = found.row.model_copy(update={"points": points[1:]})
        found = found.model_copy(update={"row": row})


def unpack(text: str) -> Measurement:
    """The result in a termination message. Raises ApiError for anything else."""
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b85decode(text.strip()), _LARGEST)
        return Measurement.model_validate_json(content)
    except (ValueError, binascii.Error, zlib.error, ValidationError) as error:
        raise ApiError(f"is no result of a profiler: {str(error)[:200]}", where="the termination message") from error
