"""The ModelProfile of a run: rows add up within one run, another run begins anew, others' profiles are told apart."""

from __future__ import annotations

import json
from typing import Any

from render_cases import load_recipe, make_run

from shoal.api.load import parse
from shoal.api.measurement import Measurement
from shoal.api.model_profile import ModelProfile, ProfileRowSpec, RowProvenance
from shoal.api.profile_run import ProfileRun
from shoal.domain.profile import ModelFacts
from shoal.render.run_profile import ProfileSubject, is_profile_of, make_run_profile, says_the_same

FACTS = ModelFacts(7.6e9, 15.2e9, 57344.0, 32768)


def subject(run: ProfileRun) -> ProfileSubject:
    recipe = load_recipe("simple")
    return ProfileSubject(run, recipe.pool, recipe.engine, FACTS)


def found(tensor: int, rate: float, **more: Any) -> Measurement:
    row = {
        "tensorParallel": tensor,
        "enginesPerGPU": 1,
        "maxNumSeqs": 256,
        "maxNumBatchedTokens": 2048,
        "kvCacheTokens": 1e5,
        "inputTokens": {"mean": 512},
        "outputTokens": {"mean": 128},
        "overloadRate": rate,
    }
    note = f"tp{tensor}: knee {rate:g}"
    return Measurement(row=ProfileRowSpec.model_validate_json(json.dumps(row)), note=note, **more)


def rates(body: dict[str, Any]) -> dict[int, float]:
    return {row["tensorParallel"]: row["overloadRate"] for row in body["spec"]["rows"]}


def test_rows_add_up_and_a_repeated_one_replaces() -> None:
    run = make_run()
    first = make_run_profile(subject(run), found(2, 30.0, clock_mhz=1500.0), None, 0.0)
    both = make_run_profile(subject(run), found(1, 20.0, clock_mhz=1700.0), first, 10.0)
    assert rates(both) == {1: 20.0, 2: 30.0}
    again = make_run_profile(subject(run), found(1, 21.0), both, 20.0)
    assert rates(again) == {1: 21.0, 2: 30.0}
    assert again["spec"]["provenance"]["notes"] == "tp2: knee 30\ntp1: knee 21"
    assert again["spec"]["clockMHz"] == 1700.0
    parse(ModelProfile, again, unknown="forbid")
    assert says_the_same(make_run_profile(subject(run), found(1, 21.0), again, 99.0), again)
    assert not says_the_same(again, both)
    assert not says_the_same(again, None)


def test_a_row_says_how_it_came_about() -> None:
    measured = found(1, 20.0, gpu_name="NVIDIA H100", driver="580.1", clock_mhz=1500.0, tool_version="1+abc")
    assert measured.row is not None
    short = RowProvenance(date="2026-11-28T12:00:00Z", windows=9, requests=1200)
    measured = measured.model_copy(update={"row": measured.row.model_copy(update={"provenance": short})})
    (row,) = make_run_profile(subject(make_run()), measured, None, 0.0)["spec"]["rows"]
    how = row["provenance"]
    assert (how["windows"], how["requests"], how["date"]) == (9, 1200, "2026-11-28T12:00:00Z")
    assert (how["tool"], how["gpuName"], how["driver"], how["clockMHz"]) == (
        *("shoal profile 1+abc", "NVIDIA H100", "580.1"),
        1500.0,
    )
    assert (how["source"], how["lengths"]) == ("Measured", "gamma:512,128")
    assert how["engine"].startswith("vllm ")


def test_with_and_without_mps_are_two_rows() -> None:
    run, both = make_run(), None
    for mps in (True, False):
        one = found(1, 20.0 + mps)
        assert one.row is not None
        row = one.row.model_copy(update={"engines_per_gpu": 2, "mps": mps or None})
        both = make_run_profile(subject(run), one.model_copy(update={"row": row}), both, 0.0)
    assert both is not None
    assert [(row.get("mps", False), row["overloadRate"]) for row in both["spec"]["rows"]] == [(False, 20), (True, 21)]


def test_another_run_begins_anew() -> None:
    first = make_run_profile(subject(make_run()), found(2, 30.0), None, 0.0)
    edited = make_run()
    edited = edited.model_copy(update={"metadata": edited.metadata.model_copy(update={"generation": 2})})
    assert rates(make_run_profile(subject(edited), found(1, 20.0), first, 0.0)) == {1: 20.0}


def test_what_is_simulated_is_called_so_and_another_version_is_told() -> None:
    body = make_run_profile(subject(make_run()), found(1, 1.0, simulated=True, engine_version="9.9.9"), None, 0.0)
    assert body["spec"]["source"] == "Simulated"
    assert "calls itself 9.9.9" in body["spec"]["provenance"]["notes"]
    assert make_run_profile(subject(make_run()), found(1, 1.0), None, 0.0)["spec"]["source"] == "Measured"


def test_whose_profile_it_is() -> None:
    run = make_run()
    body = make_run_profile(subject(run), found(1, 1.0), None, 0.0)
    assert is_profile_of(body["metadata"], run)
    assert "ownerReferences" not in body["metadata"]
    assert not is_profile_of({}, run)
    assert not is_profile_of({"labels": {"shoal.dev/profile-run": "qwen"}}, run)
    other = {"app.kubernetes.io/managed-by": "shoal", "shoal.dev/profile-run": "other"}
    assert not is_profile_of({"labels": other}, run)
