"""Real vLLM on H100 and H200 (profiles/measured): points left out, and percentiles from means alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.capacity.errors import Errors, Pair
from shoal.api.convert import profile_to_domain
from shoal.api.load import load_text
from shoal.api.model_profile import ModelProfile
from shoal.domain.profile import ProfileRow, StepModel
from shoal.planner.capacity import OVERLOADED, measured_curve
from shoal.planner.latency import EngineModel, mean_context, modelled_curve

LEAST_POINTS, USUAL_CHUNK = 3, 2048
FOLDER = Path(__file__).resolve().parents[2] / "profiles" / "measured"


def read_rows() -> Iterator[tuple[str, ProfileRow]]:
    """Every row with a saturation, one engine on its GPUs and points enough, with its model's and its GPU's name.

    Points from saturation on show the queue: they are left out.
    """
    for path in sorted(FOLDER.glob("*.yaml")):
        for resource in load_text(path.read_text(), where=path.name):
            if isinstance(resource, ModelProfile):
                profile = profile_to_domain(resource)
                name = f"{profile.model.rsplit('/', 1)[-1]}, {profile.accelerator.removeprefix('NVIDIA-')[:4]}"
                for row in profile.rows:
                    points = tuple(
                        point for point in row.points if point.rate < OVERLOADED * (row.overload_rate or 0.0)
                    )
                    if row.engines_per_gpu == 1 and len(points) >= LEAST_POINTS:
                        yield f"{name}{_variant(row)}", replace(row, points=points)


def _variant(row: ProfileRow) -> str:
    """What sets a row apart from the usual one of its model."""
    tensor = f", TP{row.tensor_parallel}" if row.tensor_parallel > 1 else ""
    chunk = f", chunk {row.max_num_batched_tokens}" if row.max_num_batched_tokens != USUAL_CHUNK else ""
    return tensor + chunk


def leave_one_out() -> Iterator[Errors]:
    """p95 at every inner point, from the curve through the others."""
    for model, row in read_rows():
        pairs: dict[str, list[Pair]] = {"TTFT": [], "ITL": []}
        for left_out in range(1, len(row.points) - 1):
            point = row.points[left_out]
            others = replace(row, points=row.points[:left_out] + row.points[left_out + 1 :])
            curve = measured_curve(others, 95)
            for name, value, known in zip(
                pairs, curve.latencies(point.rate), (point.ttft.p95, point.itl.p95), strict=True
            ):
                assert value is not None
                assert known is not None
                pairs[name].append(Pair(f"{point.rate:.1f} req/s", value, known))
        for name, found in pairs.items():
            yield Errors(f"p95 {name} at a point left out", model, tuple(found))


def from_means() -> Iterator[Errors]:
    """Step times from mean ITL alone (Little's law gives the batch): then saturation and p95 are predictions."""
    for model, row in read_rows():
        steps = fit_from_means(row)
        curve = modelled_curve(
            EngineModel(steps, row.max_num_seqs, row.max_num_batched_tokens, row.kv_cache_tokens), row.lengths, 95
        )
        assert curve is not None
        assert row.overload_rate is not None
        yield Errors("saturation from mean ITL", model, (Pair("overloaded", curve.saturation, row.overload_rate),))
        ttft: list[Pair] = []
        itl: list[Pair] = []
        for point in row.points:
            share = point.rate / row.overload_rate
            latencies = curve.latencies(share * curve.saturation)
            for found, value, known in zip((ttft, itl), latencies, (point.ttft.p95, point.itl.p95), strict=True):
                assert value is not None
                assert known is not None
                found.append(Pair(f"{share:.2f} of saturation", value, known))
        yield Errors("p95 TTFT from mean ITL", model, tuple(ttft))
        yield Errors("p95 ITL from mean ITL", model, tuple(itl))


def fit_from_means(row: ProfileRow) -> StepModel:
    """alpha and one cost for each computed token, by least squares of relative errors; keys cost nothing of their own.

    With N = rate * m * ITL running, a mean step takes `alpha + beta * (1 + i/m) * N`.
    """
    lengths = row.lengths
    gaps = np.array([point.itl.mean for point in row.points])
    running = np.array([point.rate for point in row.points]) * lengths.output_mean * gaps / 1000
    terms = np.stack([np.ones_like(gaps), running * (1 + lengths.input_mean / lengths.output_mean)], axis=1)
    alpha, beta = np.linalg.lstsq(terms / gaps[:, None], np.ones_like(gaps), rcond=None)[0]
    assert mean_context(lengths) > 0
    return StepModel(float(max(alpha, 0.05)), float(max(beta, 0.0)), 0.0)
