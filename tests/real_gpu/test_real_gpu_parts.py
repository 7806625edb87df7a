"""The pure parts of the run with real GPUs; the whole play is rehearsed with `python -m e2e.real_gpu --rehearse`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from e2e.real_gpu.clients import Lengths, send_lag_p99_ms
from e2e.real_gpu.manifests import dump, make_node, make_pool, make_service, make_values, read_profile
from e2e.real_gpu.play import Wish, split, sum_up
from shoal.api.load import load_text
from shoal.sim.load_report import Outcome, Record

H100 = "NVIDIA-H100-80GB-HBM3"
MEASURED = Path(__file__).parents[2] / "profiles" / "measured"
PROFILE = MEASURED / "measured-qwen2-5-7b-instruct-nvidia-h100-80gb-hbm3.yaml"
WISH = Wish(1000.0, 30.0, ((10.0, 2.0), (20.0, 4.0)), Lengths())


def record(due: float, *, outcome: Outcome = Outcome.ANSWERED, ttft: float = 100.0, itl: float = 20.0) -> Record:
    return Record(due, due + 0.002, 10, 10, outcome=outcome, ttft_ms=ttft, itl_ms=itl)


def test_requests_belong_to_the_piece_in_which_they_were_due() -> None:
    pieces = split([record(0.0), record(9.99), record(10.0), record(29.0)], WISH.schedule)
    assert [len(piece) for piece in pieces] == [2, 2]


def test_a_lost_request_is_outside_the_slo_and_counted() -> None:
    summed = sum_up([record(1), record(2, itl=31.0), record(3, outcome=Outcome.RESET)], WISH)
    assert (summed["sent"], summed["answered"], summed["lost"]) == (3, 2, 1)
    assert summed["withinSlo"] == pytest.approx(1 / 3, abs=1e-4)


def test_nothing_sent_has_no_latencies() -> None:
    assert sum_up([], WISH)["ttftMs"] is None
    assert send_lag_p99_ms([]) == 0.0


def test_the_manifests_are_what_the_api_accepts() -> None:
    objects = [make_pool(H100, 80), make_service(ttft_ms=1000, itl_ms=30, rate=15), read_profile(PROFILE, H100)]
    assert len(load_text(dump(objects))) == 3


def test_a_profile_of_another_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="NVIDIA-H200"):
        read_profile(PROFILE, "NVIDIA-H200")


def test_values_name_real_vllm_unless_rehearsed() -> None:
    real = make_values(engine_version="0.26.0", simulated_profiles=None)["engineClass"]
    assert real["image"] == {"repository": "vllm-openai", "tag": "v0.26.0"}
    assert "--load-format" in real["spec"]["extraArgs"]
    rehearsed = make_values(engine_version="0.26.0", simulated_profiles=Path("/profiles"))["engineClass"]
    assert rehearsed["image"]["repository"] == "shoal-sim-engine"
    assert yaml.safe_dump(rehearsed)


def test_the_node_is_this_machine_unless_rehearsed() -> None:
    assert not make_node(H100, 2, 80, simulated=False).simulated
