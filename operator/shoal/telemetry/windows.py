"""The windows of several engines as one sample: what the engines of a variant did lately."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.domain.live import LiveSample
from shoal.telemetry.engine_page import Histogram
from shoal.telemetry.engines import EngineWindow, QueueState


def make_sample(windows: Sequence[EngineWindow], now: float) -> LiveSample | None:
    """Means over these engines; None without any. A latency that no engine told is None, not zero."""
    if not windows:
        return None
    engine_seconds = sum(window.seconds for window in windows)
    queues = [window.queue for window in windows if window.queue is not None]
    return LiveSample(
        age_seconds=max(0.0, now - min(window.until for window in windows)),
        seconds=engine_seconds / len(windows),
        engines=len(windows),
        rate=sum(window.finished for window in windows) / engine_seconds,
        requests=sum(window.finished for window in windows),
        offered=sum(window.arrived for window in windows) / engine_seconds,
        ttft_mean_ms=_mean(windows, "ttft", 1000.0),
        itl_mean_ms=_mean(windows, "itl", 1000.0),
        input_mean=_mean(windows, "input"),
        output_mean=_mean(windows, "output"),
        running=_mean_of([queue.running for queue in queues]),
        waiting=_mean_of([queue.waiting for queue in queues]),
        kv_usage=_largest_usage(queues),
    )


def _mean(windows: Sequence[EngineWindow], name: str, factor: float = 1.0) -> float | None:
    histograms = [window.histograms.get(name, Histogram()) for window in windows]
    count = sum(histogram.count for histogram in histograms)
    return factor * sum(histogram.total for histogram in histograms) / count if count > 0 else None


def _mean_of(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _largest_usage(queues: Sequence[QueueState]) -> float | None:
    return max((queue.kv_usage for queue in queues if queue.kv_usage is not None), default=None)
