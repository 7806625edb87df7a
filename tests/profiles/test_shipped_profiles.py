"""The profiles that are shipped: they load, say where they come from, and hold what they claim."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from shoal.api.load import load_files
from shoal.api.model_profile import ModelProfile
from shoal.domain.profile import Profile, ProfileRow, Source
from shoal.sim import make_profiles
from shoal.sim.engine import Engine, EngineLimits
from shoal.sim.make_profiles import RECIPES, main, make_steps
from shoal.sim.measure import Effort, measure_overload, measure_point
from shoal.sim.profile_files import read_profiles

PROFILES = Path(__file__).parents[2] / "profiles"
FILES = sorted(PROFILES.glob("*/*.yaml"))
MEASURED, SIMULATED = read_profiles(PROFILES / "mem-gap"), read_profiles(PROFILES / "simulated")
LARGEST = 256 * 1024


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_a_profile_with_provenance(path: Path) -> None:
    (profile,) = load_files([path])
    assert isinstance(profile, ModelProfile)
    assert profile.metadata.name == path.stem
    assert profile.spec.provenance is not None
    assert profile.spec.provenance.notes
    assert path.stat().st_size < LARGEST


def test_sources_are_told_apart() -> None:
    assert {profile.source for profile in MEASURED} == {Source.MEASURED}
    assert {profile.source for profile in SIMULATED} == {Source.SIMULATED}


def throughput(row: ProfileRow) -> float:
    """Of as many equal requests at once as keep the batch full most of the time."""
    assert row.steps is not None
    limits = EngineLimits(
        row.max_num_seqs, max(row.max_num_batched_tokens, row.max_num_seqs), int(row.kv_cache_tokens // 16)
    )
    engine, requests = Engine(row.steps, limits), 2000 if row.max_num_seqs > 16 else 20 * row.max_num_seqs
    for _ in range(requests):
        engine.submit(round(row.lengths.input_mean), round(row.lengths.output_mean), 0.0)
    end = 0.0
    while engine.wake_at is not None:
        end = engine.wake_at
        engine.advance(end)
    return requests / end


def fixed_rows(profile: Profile) -> list[ProfileRow]:
    return [row for row in profile.rows if row.lengths.input_p95 == row.lengths.input_mean]


@pytest.mark.parametrize("profile", MEASURED, ids=lambda profile: profile.name)
def test_the_simulated_engine_repeats_what_was_measured(profile: Profile) -> None:
    """With the fitted steps it has the throughput of the real runs, preemptions and all: within 8 %, 1 % on average."""
    rows = random.Random(1).sample(fixed_rows(profile), 12)
    ratios = [throughput(row) / (row.overload_rate or 0.0) for row in rows]
    assert max(abs(ratio - 1) for ratio in ratios) < 0.08
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("profile", SIMULATED, ids=lambda profile: profile.name)
def test_latencies_rise_with_the_rate(profile: Profile) -> None:
    for row in profile.rows:
        means = [point.ttft.mean for point in row.points]
        assert means == sorted(means)
        assert row.overload_rate is not None
        assert row.points[-1].rate < row.overload_rate


def test_a_profile_is_what_is_measured_now(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(PROFILES / "simulated"), "--check", "--only", "7b-l40s"]) == 0, capsys.readouterr().err


@pytest.mark.long
def test_all_profiles_are_what_is_measured_now(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(PROFILES / "simulated"), "--check"]) == 0, capsys.readouterr().err


def test_a_changed_file_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_profiles, "Effort", lambda: Effort(overload=60, point=60))
    command = [str(tmp_path), "--only", "7b-l40s"]
    assert main(command) == 0
    assert main([*command, "--check"]) == 0
    path = tmp_path / "sim-qwen2-5-7b-l40s.yaml"
    path.write_text(path.read_text().replace("maxNumSeqs: 256", "maxNumSeqs: 255"))
    assert main([*command, "--check"]) == 1
    assert str(path) in capsys.readouterr().err


def test_the_small_model_waits_for_its_cpu_and_the_large_ones_for_the_gpu() -> None:
    """What a clock of 0.7 costs: nothing near the limit of the one, most of a third of the others."""
    kept = {}
    for profile in SIMULATED:
        row = profile.rows[0]
        assert row.steps is not None
        slow = type(row.steps)(
            row.steps.alpha_ms,
            row.steps.beta_ms_per_token / 0.7,
            row.steps.gamma_ms_per_kv_token,
            row.steps.floor_small_ms,
            row.steps.floor_large_ms,
            row.steps.api_tokens_per_second,
        )
        limits = EngineLimits(row.max_num_seqs, row.max_num_batched_tokens, int(row.kv_cache_tokens // 16))
        rate = measure_overload(slow, limits, row.lengths, seed=1, longest=8192, requests=1000)
        kept[profile.name] = rate / (row.overload_rate or 0.0)
    assert kept["sim-qwen2-5-0-5b-h100"] > 0.97
    assert kept["sim-qwen2-5-7b-h100"] < 0.85
    assert kept["sim-qwen2-5-14b-h100"] < 0.85


def test_measuring_counts_no_request_twice_and_sees_the_idle_latency() -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.name == "sim-qwen2-5-7b-l40s")
    row = next(profile for profile in SIMULATED if profile.name == recipe.name).rows[0]
    assert row.steps is not None
    limits = EngineLimits(256, 2048, int(row.kv_cache_tokens // 16))
    idle = measure_point(row.steps, limits, row.lengths, 0.01, seed=1, longest=8192, requests=200)
    assert idle.itl.mean == pytest.approx(row.steps.alpha_ms, rel=0.05)
    prefill = row.steps.alpha_ms + row.steps.beta_ms_per_token * row.lengths.input_mean
    assert idle.ttft.mean == pytest.approx(prefill, rel=0.1)


def test_tensor_parallel_steps_are_shorter_but_not_by_the_number_of_gpus() -> None:
    profile = next(profile for profile in SIMULATED if profile.name == "sim-qwen2-5-14b-h100")
    recipe = next(recipe for recipe in RECIPES if recipe.name == profile.name)
    one, two = (make_steps(recipe, profile.facts, tensor, 1) for tensor in (1, 2))
    assert one.alpha_ms / 2 < two.alpha_ms < one.alpha_ms
