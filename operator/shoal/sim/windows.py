"""What simulated engines tell of their traffic, as the operator's telemetry would."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from shoal.domain.live import LiveSample
from shoal.domain.service import RunningVariant
from shoal.sim.batch import Sequence as EngineSequence
from shoal.sim.engine import Report
from shoal.sim.fleet import Fleet
from shoal.sim.fleet_parts import SimEngine
from shoal.sim.measure import mean_gap_ms, ttft_ms

WINDOW_SECONDS: Final = 60.0


class Windows:
    """The requests that each engine ended in the last minute."""

    def __init__(self) -> None:
        self._ended: dict[SimEngine, deque[EngineSequence]] = defaultdict(deque)

    def record(self, engine: SimEngine, reports: Sequence[Report]) -> None:
        """Take in what an engine did."""
        self._ended[engine].extend(s for report in reports for s in report.ended if not s.aborted)

    def observe(self, running: Iterable[RunningVariant], fleet: Fleet, now: float) -> tuple[RunningVariant, ...]:
        """The variants with what their engines did."""
        alive = set(fleet.all_engines())
        self._ended = defaultdict(deque, {engine: ended for engine, ended in self._ended.items() if engine in alive})
        return tuple(
            replace(variant, observed=self._sample(_serving_engines(fleet, variant), now)) for variant in running
        )

    def _sample(self, engines: Iterable[SimEngine], now: float) -> LiveSample | None:
        """The last minute of the engines that served through all of it; None without any."""
        told = [e for e in engines if e.ready and now - (e.ready_at or 0.0) >= WINDOW_SECONDS]
        if not told:
            return None
        for engine in told:
            while self._ended[engine] and (self._ended[engine][0].finished_at or 0.0) <= now - WINDOW_SECONDS:
                self._ended[engine].popleft()
        ended = [sequence for engine in told for sequence in self._ended[engine]]
        return LiveSample(
            age_seconds=0.0,
            seconds=WINDOW_SECONDS,
            engines=len(told),
            rate=len(ended) / len(told) / WINDOW_SECONDS,
            requests=float(len(ended)),
            ttft_mean_ms=_mean(ttft_ms(sequence) for sequence in ended),
            itl_mean_ms=_mean(mean_gap_ms(sequence) for sequence in ended),
            input_mean=_mean(sequence.prompt_tokens for sequence in ended),
            output_mean=_mean(sequence.output_tokens for sequence in ended),
            running=_mean(len(engine.engine.running) for engine in told),
            waiting=_mean(len(engine.engine.waiting) for engine in told),
            kv_usage=max(engine.engine.kv_usage_at(now) for engine in told),
        )


def _serving_engines(fleet: Fleet, variant: RunningVariant) -> list[SimEngine]:
    known = fleet.variants.get(variant.name)
    return [] if known is None else [engine for replica in known.replicas for engine in replica.engines]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
