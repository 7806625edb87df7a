"""What travels in a termination message: everything comes back, and it always fits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.api.errors import ApiError
from shoal.api.measurement import Measurement, message_bytes, pack, unpack
from shoal.api.model_profile import ProfileRowSpec

LATENCY = st.integers(1000, 9_999_000).map(lambda value: value / 1000)


def make_row(points: int, latencies: list[float]) -> ProfileRowSpec:
    ordered = sorted(latencies)
    quantiles = dict(zip(("p50", "p90", "p95", "p99"), ordered[1:], strict=True)) | {"mean": ordered[0]}
    return ProfileRowSpec.model_validate_json(
        ProfileRowSpec.model_validate(
            {
                "tensor_parallel": 1,
                "engines_per_gpu": 8,
                "max_num_seqs": 256,
                "max_num_batched_tokens": 2048,
                "kv_cache_tokens": 123456.0,
                "input_tokens": {"mean": 512.0, "p95": 1301.0},
                "output_tokens": {"mean": 128.0, "p95": 301.0},
                "overload_rate": 21.37,
                "points": tuple(
                    {
                        "requests_per_second": 1.5 + rate,
                        "ttft_milliseconds": quantiles,
                        "itl_milliseconds": quantiles,
                        "watts": 333.3,
                    }
                    for rate in range(points)
                ),
                "steps": {"alpha_ms": 12.01, "beta_ms_per_token": 0.2495, "gamma_ms_per_kv_token": 0.0005697},
                "step_errors": {
                    "alpha_ms": 0.0701,
                    "beta_ms_per_token": 0.00205,
                    "gamma_ms_per_kv_token": 5.12e-05,
                    "relative_rms": 0.0133,
                    "relative_worst": 0.0188,
                },
                "errors": {"overload_rate": 0.421, "kv_cache_tokens": 0.0},
                "provenance": {"date": "2026-11-28T17:19:35Z", "windows": 11, "requests": 12345},
            }
        ).model_dump_json()
    )


@settings(deadline=None, max_examples=30)
@given(points=st.integers(1, 32), latencies=st.lists(LATENCY, min_size=5, max_size=5), containers=st.integers(2, 9))
def test_a_result_fits_and_comes_back(points: int, latencies: list[float], containers: int) -> None:
    found = Measurement(row=make_row(points, latencies), points=points, note="n" * 200, host="h" * 100, simulated=True)
    most = message_bytes(containers)
    text = pack(found, most)
    assert len(text.encode()) <= most <= 4096
    back = unpack(f"{text}\n")
    assert back.row is not None
    assert found.row is not None
    assert back.model_copy(update={"row": found.row}) == found
    kept = len(back.row.points or ())
    assert back.row.points == (found.row.points or ())[-kept:]


def test_points_of_low_rates_go_first_when_there_is_no_room() -> None:
    values = [float(number) * 1.2345678901234 for number in range(2, 7)]
    rows = make_row(32, values)
    found = Measurement(row=rows)
    kept = unpack(pack(found, 600)).row
    assert kept is not None
    assert kept.points
    assert kept.points[-1] == (rows.points or ())[-1]
    assert len(kept.points) < 32
    with pytest.raises(ValueError, match="does not fit into 100"):
        pack(found, 100)


@pytest.mark.parametrize("text", ["", "Traceback (most recent call last): boom", "é", "c-n0x" * 99])
def test_anything_else_is_refused_in_words(text: str) -> None:
    with pytest.raises(ApiError, match="is no result of a profiler"):
        unpack(text)


def test_a_bomb_stays_small() -> None:
    found = Measurement(problem="")
    text = pack(found, 4096)
    assert unpack(text) == found
    import base64
    import zlib

    bomb = base64.b85encode(zlib.compress(b'{"problem": "' + b"a" * 50_000_000, 9)).decode()
    with pytest.raises(ApiError):
        unpack(bomb)


def test_states() -> None:
    row = make_row(1, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert Measurement(row=row).state == "Measured"
    assert Measurement(row=row, problem="out of budget").state == "Partial"
    assert Measurement(problem="refused").state == "Failed"
