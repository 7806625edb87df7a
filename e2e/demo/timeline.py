"""When things happen in the demo, in seconds since the traffic began."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stream:
    """Open-loop Poisson traffic for one ModelService."""

    service: str
    model: str  # the name clients send
    low_rate: float  # requests per second
    high_rate: float
    input_mean: float  # tokens
    output_mean: float
    ttft_ms: float
    itl_ms: float
    seed: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """The script.

    Steps of the rate, then a crash, heat, a full pool; `settle` is what the SLO is not held to after a step.
    """

    step_up: float = 10.0
    crash: float = 20.0
    heat: float = 32.0
    step_down: float = 60.0
    full_pool: float = 75.0
    end: float = 105.0
    settle: float = 45.0
    heat_ratio: float = 0.6

    def schedule(self, stream: Stream) -> list[tuple[float, float]]:
        """Rates as (seconds, requests per second) pieces."""
        return [
            (self.step_up, stream.low_rate),
            (self.step_down - self.step_up, stream.high_rate),
            (self.end - self.step_down, stream.low_rate),
        ]

    def is_settling(self, stream: Stream, at: float) -> bool:
        """Whether a request sent then is within `settle` seconds after a step; a constant stream has none."""
        return stream.low_rate != stream.high_rate and any(
            step <= at < step + self.settle for step in (self.step_up, self.step_down)
        )
