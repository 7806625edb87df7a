"""Open-loop Poisson load from several processes, so that the clients are not what is measured."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import uvloop

from shoal.sim.load import LoadGenerator
from shoal.sim.load_report import Outcome, Record
from shoal.sim.traffic import Traffic

PROCESSES = 6
INPUT_MEAN, OUTPUT_MEAN = 512.0, 128.0
LONGEST = 2000


def send(url: str, rate: float, seconds: float, seed: int, grace: float) -> tuple[list[Record], dict[str, Any]]:
    """Offer `rate` requests/s for `seconds`; wait at most `grace` seconds for the rest.

    Returns records and client facts.
    """
    started = time.monotonic() + 1.0
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [
            pool.submit(_send_part, url, _make_traffic(rate / PROCESSES, seconds, seed * 100 + index), started, grace)
            for index in range(PROCESSES)
        ]
        done = [part.result() for part in parts]
    records = [record for records, _ in done for record in records]
    facts = {
        "processes": PROCESSES,
        "cpuPerProcess": round(max(cpu for _, cpu in done), 3),
        "sendLagP99Ms": round(quantile([(r.sent_at - r.due_at) * 1000 for r in records], 0.99), 2),
    }
    return records, facts


def _make_traffic(rate: float, seconds: float, seed: int) -> Traffic:
    return Traffic(((seconds, rate),), INPUT_MEAN, OUTPUT_MEAN, seed, LONGEST)


def _send_part(url: str, traffic: Traffic, started: float, grace: float) -> tuple[list[Record], float]:
    return uvloop.run(_run(url, traffic, started, grace))


async def _run(url: str, traffic: Traffic, started: float, grace: float) -> tuple[list[Record], float]:
    generator = LoadGenerator(url=f"{url}/v1", model="m", traffic=traffic, timeout_seconds=traffic.seconds + grace)
    loop = asyncio.get_running_loop()
    origin = loop.time() + max(0.0, started - time.monotonic())
    cpu = time.process_time()
    # An overloaded server: what it has not answered in time is dropped.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(origin + traffic.seconds + grace):
            await generator.run(started=origin)
    return generator.records, (time.process_time() - cpu) / traffic.seconds


def quantile(values: list[float], q: float) -> float:
    """Return the q-quantile (0 to 1) by linear interpolation; NaN without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summarise(records: list[Record], *, since: float, until: float) -> dict[str, Any]:
    """Sum up requests sent in a window; latencies in milliseconds."""
    kept = [record for record in records if since <= record.sent_at < until]
    answered = [record for record in kept if record.outcome is Outcome.ANSWERED]
    ended = [
        r for r in records if r.outcome is Outcome.ANSWERED and r.ended_at is not None and since <= r.ended_at < until
    ]
    return {
        "sent": len(kept),
        "answered": len(answered),
        "finishedPerSecond": len(ended) / (until - since),
        "ttftMs": _quantiles([r.ttft_ms for r in answered if r.ttft_ms is not None]),
        "itlMs": _quantiles([r.itl_ms for r in answered if r.itl_ms is not None]),
        "inputMean": sum(r.prompt_tokens for r in kept) / max(len(kept), 1),
        "outputMean": sum(r.output_tokens for r in kept) / max(len(kept), 1),
    }


def _quantiles(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": sum(values) / len(values)} | {f"p{q}": quantile(values, q / 100) for q in (50, 90, 95, 99)}
