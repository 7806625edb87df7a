"""What live traffic says of a configuration: one window of it, and what was learned from many."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.profile import ProfileRow


@dataclass(frozen=True, slots=True)
class LiveSample:
    """What the engines of one variant did in one window. None: not told, which is never zero.

    Rates are requests per second of one engine, the mean over the `engines` that were read through the whole window;
    `rate` are those finished, `offered` those that came. The latencies are means over `requests` requests, in
    milliseconds. `running`, `waiting` (requests of one engine) and `kv_usage` (share, the largest) are as last read.
    """

    age_seconds: float  # since the end of the window
    seconds: float
    engines: int
    rate: float
    requests: float
    offered: float | None = None
    ttft_mean_ms: float | None = None
    itl_mean_ms: float | None = None
    input_mean: float | None = None  # tokens
    output_mean: float | None = None
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What many windows said of one configuration, coarse enough that it does not change with every one of them.

    `highest_rate` is the highest rate per engine at which the objective was met, at the row's lengths. `ttft_ratio` is
    mean TTFT observed over predicted. `drift`: how many times slower than its profile (below 1: faster) a trusted
    configuration has been for long; None: as profiled.
    """

    requests: float
    highest_rate: float
    ttft_ratio: float = 1.0
    drift: float | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the planner is told of a configuration.

    `row` has the estimated step times brought to what was observed; None where the configuration has a trusted
    profile, which counts.
    """

    configuration: Configuration
    evidence: Evidence
    row: ProfileRow | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What the next lesson is made from, not coarse. Losing it loses minutes of evidence.

    `log_time` is the logarithm of how many times slower steps are than in the lesson's row (or the trusted profile),
    `log_ttft` that of TTFT observed over predicted. `taken_until`: end of the last window that counted.
    """

    requests: float = 0.0
    log_time: float = 0.0
    log_ttft: float = 0.0
    highest_rate: float = 0.0
    taken_until: float | None = None
    drift_since: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The SLO that a highest rate was seen within: percentile, TTFT and ITL in milliseconds."""

    percentile: int
    ttft_ms: float | None = None
    itl_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned of one configuration of a service, for one model, engine version and SLO."""

    model: str
    engine_version: str
    target: Target
    lesson: Lesson
    tally: Tally = Tally()


@dataclass(frozen=True, slots=True)
class Residual:
    """The newest window of one placement beside what was predicted for its rate; means, in milliseconds.

    `time_ratio`: how many times slower all steps would have to be for the predicted mean ITL to be the observed one;
    None: it cannot be told. `row` is the row the prediction comes from, `estimated` whether no profile is trusted,
    `rate_at_row` the window's rate at the row's lengths, `within` whether the objective was met (None: not told).
    """

    placement: Placement
    sample: LiveSample
    row: ProfileRow
    estimated: bool
    rate_at_row: float
    predicted_ttft_ms: float | None = None
    predicted_itl_ms: float | None = None
    time_ratio: float | None = None
    within: bool | None = None
