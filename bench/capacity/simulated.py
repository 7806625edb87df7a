"""The modelled curves beside the simulated engine, which obeys the same step times one step after the other.

Simulated, not real: it shows what the formulas lose against the queue they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.capacity.errors import Errors, Pair
from shoal.domain.profile import LengthMix, RatePoint, StepModel
from shoal.planner.latency import SERVER_MS, EngineModel, modelled_curve
from shoal.sim.engine import EngineLimits
from shoal.sim.measure import measure_overload, measure_points

KV_TOKENS = 400_000
ENGINES = {
    "7B, H100": StepModel(7.0, 0.03, 2e-5, 9.0, 12.0, 15_000),
    "0.5B, host-bound": StepModel(2.0, 0.004, 3e-6, 9.0, 16.0, 15_000),
    "7B, L40S": StepModel(20.0, 0.09, 6e-5, 22.0, 26.0, 15_000),
}
MIXES = ((512, 128), (2048, 128), (3000, 100), (128, 512), (1500, 400))
CHUNKS = (512, 2048, 8192)
SHARES = (0.4, 0.6, 0.75, 0.85, 0.92)
SPREAD = 2.37  # p95 over mean: gamma of shape 2, as the simulated traffic has it


def compare(*, quick: bool = False) -> Iterator[Errors]:
    """Saturation and p95 latencies for every engine; TTFT without the server's constant, which is not simulated."""
    for name, steps in list(ENGINES.items())[: 1 if quick else None]:
        found: dict[str, list[Pair]] = {}
        for mix in MIXES[: 1 if quick else None]:
            for chunk in CHUNKS[: 1 if quick else None]:
                for kind, pair in _compare(steps, LengthMix(*mix, SPREAD * mix[0], SPREAD * mix[1]), chunk, quick):
                    found.setdefault(kind, []).append(pair)
        for kind, pairs in found.items():
            yield Errors(f"simulated: {kind}", name, tuple(pairs))


def _compare(steps: StepModel, lengths: LengthMix, chunk: int, quick: bool) -> Iterator[tuple[str, Pair]]:
    overload, points = _measure(steps, lengths, chunk, 200 if quick else 2000)
    curve = modelled_curve(EngineModel(steps, 256, chunk, KV_TOKENS), lengths, 95)
    assert curve is not None
    where = f"{lengths.input_mean:.0f}+{lengths.output_mean:.0f} tokens, chunk {chunk}"
    yield "saturation", Pair(where, curve.saturation, overload)
    for point in points:
        share = point.rate / overload
        ttft, itl = curve.latencies(share * curve.saturation)
        assert ttft is not None
        assert itl is not None
        assert point.ttft.p95 is not None
        assert point.itl.p95 is not None
        part = "to 0.85" if share < 0.9 else "at 0.92"
        case = f"{where}, {share:.2f} of saturation"
        yield f"p95 TTFT {part} of saturation", Pair(case, ttft - SERVER_MS, point.ttft.p95)
        yield f"p95 ITL {part} of saturation", Pair(case, itl, point.itl.p95)


def _measure(steps: StepModel, lengths: LengthMix, chunk: int, requests: int) -> tuple[float, tuple[RatePoint, ...]]:
    limits = EngineLimits(256, chunk, KV_TOKENS // 16)
    overload = measure_overload(steps, limits, lengths, seed=1, longest=16_000, requests=max(400, requests * 3 // 4))
    points = measure_points(steps, limits, lengths, overload, seed=2, longest=16_000, requests=requests, shares=SHARES)
    return overload, points
