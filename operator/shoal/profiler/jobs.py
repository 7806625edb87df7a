"""What is asked of the client processes, and what they answer."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.profiler.lengths import Ints, LengthSource

Floats = NDArray[np.float64]


class Ended(enum.IntEnum):
    """What became of a request."""

    UNDER_WAY = 0  # when the clients stopped
    ANSWERED = 1
    REFUSED = 2  # 4xx
    SERVER_ERROR = 3  # 5xx
    BROKEN = 4  # no connection, or one that broke
    SHORT = 5  # the stream ended early, or brought nothing


FAILED = (Ended.REFUSED, Ended.SERVER_ERROR, Ended.BROKEN, Ended.SHORT)


@dataclass(frozen=True, slots=True)
class Job:
    """Requests for one process. `began` is an instant of `time.monotonic`, everything else is seconds after it.

    `due`: when each request is sent (open loop); None: `connections` send one after the other until `send_until`
    (closed loop). `targets`: which URL each request (open) or connection (closed) goes to. What is not answered at
    `give_up` is dropped. `window`: requests due in it are counted for the objectives, which progress is told about.
    """

    urls: tuple[str, ...]
    model: str
    due: Floats | None
    prompts: Ints
    outputs: Ints
    targets: Ints
    began: float
    send_until: float
    give_up: float
    seed: int
    connections: int = 0
    window: tuple[float, float] = (0.0, 0.0)
    ttft_ms: float | None = None
    itl_ms: float | None = None


@dataclass(slots=True)
class Records:
    """Requests as their clients saw them: one entry each; seconds after the beginning, NaN where it never came."""

    due: Floats
    sent: Floats
    first: Floats
    last: Floats
    prompts: Ints
    outputs: Ints
    ended: Ints
    cpu: Floats  # of each process, in cores
    errors: tuple[str, ...] = ()

    @property
    def ttft_ms(self) -> Floats:
        """Time to first token."""
        return (self.first - self.sent) * 1000

    @property
    def itl_ms(self) -> Floats:
        """Mean gap between the tokens of each answer; NaN for answers of one token."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.outputs > 1, (self.last - self.first) * 1000 / (self.outputs - 1), np.nan)

    @property
    def e2e_ms(self) -> Floats:
        """Time to the last token."""
        return (self.last - self.sent) * 1000


def join_records(parts: list[Records]) -> Records:
    """All processes' requests, by the instant they were due."""
    order = np.argsort(np.concatenate([part.due for part in parts]), kind="stable")

    def joined(name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = np.concatenate([getattr(part, name) for part in parts])[order]
        return values

    return Records(
        due=joined("due"),
        sent=joined("sent"),
        first=joined("first"),
        last=joined("last"),
        prompts=joined("prompts").astype(np.int64),
        outputs=joined("outputs").astype(np.int64),
        ended=joined("ended").astype(np.int64),
        cpu=np.concatenate([part.cpu for part in parts]),
        errors=tuple(dict.fromkeys(error for part in parts for error in part.errors))[:5],
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """What one process says while it works, about requests of the window: violations of either objective, failures."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    late_first: int = 0
    late_gap: int = 0
    open: int = 0
    oldest: float = 0.0  # seconds the longest-waiting request has no first token

    def plus(self, other: Progress) -> Progress:
        """Both together."""
        return Progress(
            self.sent + other.sent,
            self.answered + other.answered,
            self.failed + other.failed,
            self.late_first + other.late_first,
            self.late_gap + other.late_gap,
            self.open + other.open,
            max(self.oldest, other.oldest),
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """One stream of requests: Poisson arrivals of one per second, rescaled in time for every rate."""

    arrivals: Floats
    prompts: Ints
    outputs: Ints

    def up_to(self, rate: float, seconds: float) -> Trace:
        """The requests of the first seconds at a rate."""
        count = int(np.searchsorted(self.arrivals, rate * seconds))
        return Trace(self.arrivals[:count] / rate, self.prompts[:count], self.outputs[:count])


def make_trace(lengths: LengthSource, *, seed: int, longest: int, requests: int) -> Trace:
    """The first `requests` of the stream with this seed; asking for more leaves the earlier ones as they are."""
    gaps = np.random.default_rng([seed, 2]).exponential(1.0, requests)
    size = _round_up(requests)  # lengths are drawn in whole arrays: a longer array would be another sample
    prompts, outputs = lengths.draw(size, seed=seed, longest=longest)
    return Trace(np.cumsum(gaps), prompts[:requests], outputs[:requests])


def _round_up(requests: int) -> int:
    return max(1 << 16, 1 << (requests - 1).bit_length())
