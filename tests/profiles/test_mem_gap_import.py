"""Profiles made from published runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from shoal.cli import import_
from shoal.domain.profile import Source, StepModel
from shoal.sim.mem_gap import (
    CLOCK_MHZ,
    Run,
    fit_steps,
    import_runs,
    make_profile,
    read_runs,
    scale_to_variable_lengths,
    steps_gap,
)
from shoal.sim.profile_files import read_profiles

EXTRACT = Path(__file__).parent / "data" / "mem_gap_extract.json"
TRUE = StepModel(alpha_ms=5.0, beta_ms_per_token=0.02, gamma_ms_per_kv_token=0.0002)


def made_run(batch: int, inputs: float, outputs: float, *, noise: float = 1.0, fixed: bool = True) -> Run:
    """A run in which the model holds exactly, but for `noise`."""
    per_sequence = TRUE.beta_ms_per_token * (1 + inputs / outputs) + TRUE.gamma_ms_per_kv_token * (inputs + outputs / 2)
    gap = (TRUE.alpha_ms + per_sequence * batch) * noise
    tokens = batch / gap * 1000
    return Run("opt-1.3b", fixed, 1, batch, tokens / outputs, tokens, gap, inputs, outputs, 1000, 0.0, 0.5)


GRID = [(batch, outputs) for batch in (1, 8, 64, 128) for outputs in (130.0, 520.0)]


def test_the_fit_finds_what_made_the_runs() -> None:
    fit = fit_steps(made_run(batch, 250, outputs) for batch, outputs in GRID)
    assert fit.steps.alpha_ms == pytest.approx(TRUE.alpha_ms)
    assert fit.steps.beta_ms_per_token == pytest.approx(TRUE.beta_ms_per_token)
    assert fit.steps.gamma_ms_per_kv_token == pytest.approx(TRUE.gamma_ms_per_kv_token)
    assert fit.worst < 1e-9


def test_the_fit_tells_how_far_it_may_be_off() -> None:
    noisy = [made_run(b, 250, o, noise=1 + 0.03 * (-1) ** n) for n, (b, o) in enumerate(GRID)]
    fit = fit_steps(noisy)
    assert fit.rms == pytest.approx(0.03, rel=0.5)
    assert abs(fit.steps.alpha_ms - TRUE.alpha_ms) < 3 * fit.errors[0]


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least four steady runs"):
        fit_steps([made_run(b, 250, 130) for b in (1, 2, 4)])


def test_one_mix_of_lengths_is_not_enough() -> None:
    with pytest.raises(ValueError, match="cannot be told apart"):
        fit_steps([made_run(b, 250, 130) for b in (1, 2, 4, 8, 16)])


def test_variable_lengths_stretch_the_terms_that_grow_with_the_batch() -> None:
    slower = [made_run(b, 110, 300) for b in (1, 16, 64)]
    stretched = scale_to_variable_lengths(
        StepModel(TRUE.alpha_ms, TRUE.beta_ms_per_token / 2, TRUE.gamma_ms_per_kv_token / 2), slower
    )
    assert stretched.beta_ms_per_token == pytest.approx(TRUE.beta_ms_per_token)
    assert all(steps_gap(stretched, run) == pytest.approx(run.gap_ms) for run in slower)


def test_the_published_runs_fit_within_a_few_percent() -> None:
    profile, provenance = make_profile("opt-1.3b", read_runs(EXTRACT))
    assert profile.source is Source.MEASURED
    assert profile.clock_mhz == CLOCK_MHZ
    steps = profile.rows[0].steps
    assert steps is not None
    assert steps.alpha_ms == pytest.approx(3.5, abs=0.2)  # a batch of one: 3.55 to 3.65 ms
    assert "Not measured: latency at a rate" in (provenance.notes or "")
    assert all(not row.points for row in profile.rows)
    alone = next(row for row in profile.rows if row.max_num_seqs == 128 and row.lengths.output_mean == 130)
    assert alone.overload_rate == pytest.approx(64.76, abs=0.01)
    assert alone.kv_cache_tokens == 18526 * 16


def test_engines_that_share_a_gpu_are_counted_each() -> None:
    profile, _ = make_profile("opt-1.3b", read_runs(EXTRACT))
    shared = [row for row in profile.rows if row.engines_per_gpu > 1]
    assert {row.engines_per_gpu for row in shared} == {2, 4}
    both = next(row for row in shared if row.engines_per_gpu == 2 and row.max_num_seqs == 256)
    assert both.overload_rate == pytest.approx(35.527 / 2, abs=0.001)
    alone = next(row for row in profile.rows if row.engines_per_gpu == 1)
    assert both.kv_cache_tokens < alone.kv_cache_tokens / 2


def test_runs_at_another_clock_and_unknown_models_are_left_out() -> None:
    runs = read_runs(EXTRACT)
    assert {run.model for run in runs} == {"opt-1.3b", "llama-2-7b"}
    assert len(runs) < len(json.loads(EXTRACT.read_text()))
    assert not any(run.max_num_seqs == 192 and run.model == "llama-2-7b" for run in runs)  # 1605 MHz


def test_the_command_writes_profiles_that_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    import_.register(parser.add_subparsers())
    arguments = parser.parse_args(["import", "mem-gap", str(EXTRACT), "-d", str(tmp_path), "-o", "json"])
    assert arguments.run(arguments) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert [Path(name).name for name in written] == ["mem-gap-opt-1-3b.yaml", "mem-gap-llama-2-7b.yaml"]
    assert {profile.model for profile in read_profiles(tmp_path)} == {"facebook/opt-1.3b", "meta-llama/Llama-2-7b-hf"}


@pytest.mark.parametrize("text", ["{}", "[1]", "[]", "no json"])
def test_files_that_are_something_else_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the JSON parser's for one of them
        import_runs(path, tmp_path)
