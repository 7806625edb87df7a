"""What can be seen of a service from outside: arrivals, lengths and latencies of late, as an operator collects them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

import numpy as np

from shoal.domain.profile import LengthMix
from shoal.domain.service import Load, Objective, Tick
from shoal.sim.engine import Report
from shoal.sim.measure import mean_gap_ms, ttft_ms
from shoal.sim.policies.laws import Signals
from shoal.sim.quantiles import percentile
from shoal.sim.traffic import Arrival

COUNTS = 2  # of arrivals in a planning interval, as in the operator
TICKS_KEPT = 360 * COUNTS
LENGTHS_SECONDS, LATENCIES_SECONDS = 300.0, 60.0  # over which they are observed, as in the operator
ENOUGH_LENGTHS = 20


class Watch:
    """Eyes on one service. A tick is a part of a planning interval."""

    def __init__(self, interval_seconds: float) -> None:
        self.arrived = 0  # in the present tick
        self._interval_seconds = interval_seconds
        self._ticks: deque[Tick] = deque(maxlen=TICKS_KEPT)
        self._lengths_at: deque[float] = deque()
        self._prompts: deque[int] = deque()
        self._outputs: deque[int] = deque()
        self._ttft: deque[tuple[float, float]] = deque()
        self._gaps: deque[tuple[float, float]] = deque()

    def forget(self) -> None:
        """Lose everything, as a restart does."""
        self.arrived = 0
        for seen in (self._ticks, self._lengths_at, self._prompts, self._outputs, self._ttft, self._gaps):
            seen.clear()

    def note_arrival(self, now: float, arrival: Arrival) -> None:
        """A request came in."""
        self.arrived += 1
        self._lengths_at.append(now)
        self._prompts.append(arrival.prompt_tokens)
        self._outputs.append(arrival.output_tokens)

    def note_report(self, report: Report) -> None:
        """An engine did something: first tokens tell the TTFT, last ones the gaps."""
        for sequence in report.started:
            if (ttft := ttft_ms(sequence)) is not None:
                self._ttft.append((report.at, ttft))
        for sequence in report.ended:
            if not sequence.aborted and (gap := mean_gap_ms(sequence)) is not None:
                self._gaps.append((report.at, gap))

    @property
    def tick_seconds(self) -> float:
        """Length of a tick."""
        return self._interval_seconds / COUNTS

    def end_tick(self) -> Tick:
        """Close a tick."""
        tick = Tick(self.arrived)
        self._ticks.append(tick)
        self.arrived = 0
        return tick

    def load(self, now: float) -> Load:
        """What the planner is told."""
        while self._lengths_at and self._lengths_at[0] < now - LENGTHS_SECONDS:
            for lengths in (self._lengths_at, self._prompts, self._outputs):
                lengths.popleft()
        for latencies in (self._ttft, self._gaps):
            while latencies and latencies[0][0] < now - LATENCIES_SECONDS:
                latencies.popleft()
        return Load(
            ticks=tuple(self._ticks),
            tick_seconds=self.tick_seconds,
            ticks_to_settle=COUNTS,
            fresh_fraction=1.0,
            lengths=self._mix(),
            ttft_mean_ms=_mean([ttft for _, ttft in self._ttft]),
            itl_mean_ms=_mean([gap for _, gap in self._gaps]),
        )

    def signals(self, now: float, objective: Objective, *, desired: int, ready: int, active: int) -> Signals:
        """What other laws are told: of the last planning interval."""
        since = now - self._interval_seconds
        return Signals(
            now=now,
            desired=desired,
            ready=ready,
            rate=sum(tick.count for tick in islice(reversed(self._ticks), COUNTS)) / self._interval_seconds,
            active=active,
            ttft_share=_p90_share(self._ttft, since, objective.ttft_ms),
            itl_share=_p90_share(self._gaps, since, objective.itl_ms),
        )

    def _mix(self) -> LengthMix | None:
        """Means and 95th percentiles; None as long as there are too few."""
        if len(self._lengths_at) < ENOUGH_LENGTHS:
            return None
        prompts, outputs = (np.fromiter(values, float, len(values)) for values in (self._prompts, self._outputs))
        return LengthMix(
            float(prompts.mean()),
            float(outputs.mean()),
            float(np.quantile(prompts, 0.95)),
            float(np.quantile(outputs, 0.95)),
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _p90_share(seen: deque[tuple[float, float]], since: float, objective: float | None) -> float | None:
    values = sorted(value for at, value in seen if at > since)
    return percentile(values, 0.9) / objective if values and objective is not None else None
