"""The status of a ProfileRun: one row for each state of its truth table, and outcomes that come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.api.load import parse
from shoal.api.measurement import Measurement, Progress
from shoal.api.profile_run import ProfileRun
from shoal.domain.configuration import Configuration
from shoal.render.problems import Problem
from shoal.render.reasons import ProblemReason, RunReason
from shoal.render.run_status import (
    Outcome,
    RunReport,
    make_run_object,
    make_run_status,
    outcome_under_way,
    read_outcomes,
    should_write_run,
)

H100 = "NVIDIA-H100-80GB-HBM3"
ONE, TWO = Configuration(H100), Configuration(H100, tensor_parallel=2)
RUN = ProfileRun.model_validate_json(
    json.dumps(
        {
            "metadata": {"name": "qwen", "namespace": "team", "uid": "u-1", "generation": 3},
            "spec": {"model": {"name": "acme/m"}, "pool": "h100"},
        }
    )
)
GOOD = Outcome(ONE, "Measured", 11, 20.0, "alpha 12")
BETTER = Outcome(TWO, "Measured", 9, 50.0)
FAILED = Outcome(TWO, "Failed", message="engine-0 does not start: no such file")
SKIPPED = Outcome(TWO, "Skipped", message="more GPUs are no gain")
PARTIAL = Outcome(TWO, "Partial", 4, 12.0, "out of budget: raise budgetMinutes")
STARTING = Outcome(TWO, "Starting", message="engines start on node a")
MEASURING = outcome_under_way(TWO, Progress(step="search 3/s", points=5, seconds_left=240.4, requests_per_second=31.0))
NO_POOL = Problem(ProblemReason.POOL_NOT_FOUND, "there is no GPUPool h100")
TOO_LARGE = Problem(ProblemReason.DOES_NOT_FIT, "fits into no number of GPUs", needs_spec_change=True)


def report(*outcomes: Outcome, **more: Any) -> RunReport:
    return RunReport(RUN, 1_800_000_000.0, outcomes, **more)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


@pytest.mark.parametrize(
    ("made", "ready", "reconciling", "stalled", "words"),
    [
        (report(GOOD, BETTER), "True Measured", "False Reached", "False", "TP2 carries most, 25 requests/s per GPU"),
        (report(GOOD, FAILED), "True PartlyMeasured", "False Reached", "False", "no such file"),
        (report(GOOD, PARTIAL), "True PartlyMeasured", "False Reached", "False", "raise budgetMinutes"),
        (report(PARTIAL), "True PartlyMeasured", "False Reached", "False", "0 of 1 complete"),
        (report(GOOD, SKIPPED), "True Measured", "False Reached", "False", "1 measured; TP1 carries most"),
        (report(GOOD, SKIPPED), "True Measured", "False Reached", "False", "skipped as needless: TP2"),
        (report(FAILED), "False NothingMeasured", "False NothingMeasured", "True", "no such file"),
        (report(GOOD, STARTING), "False Starting", "True Starting", "False", "TP2: engines start on node a"),
        (report(GOOD, MEASURING), "False Measuring", "True Measuring", "False", "search 3/s; 240 s left at most"),
        (
            report(GOOD, Outcome(TWO), waits=(RunReason.WAITING_FOR_GPUS, "needs 2 GPUs")),
            "False WaitingForGPUs",
            "True WaitingForGPUs",
            "False",
            "needs 2 GPUs",
        ),
        (report(GOOD, Outcome(TWO), taken="x is not Shoal's"), "False NameTaken", "True NameTaken", "False", "x is"),
        (report(problems=(NO_POOL,)), "False PoolNotFound", "True PoolNotFound", "False", "no GPUPool"),
        (report(problems=(TOO_LARGE,)), "False DoesNotFit", "False DoesNotFit", "True", "fits into no"),
    ],
)
def test_conditions(made: RunReport, ready: str, reconciling: str, stalled: str, words: str) -> None:
    status = make_run_status(None, made)
    found = conditions(status)
    assert " ".join(found["Ready"]) == ready
    assert " ".join(found["Reconciling"]) == reconciling
    assert found["Stalled"][0] == stalled
    assert words in status["conditions"][0]["message"]
    body = make_run_object(RUN, status) | {"spec": RUN.spec.to_dict()}
    parse(ProfileRun, body, unknown="forbid")
    assert len(json.dumps(status)) < 8192


def test_final_outcomes_come_back_and_others_do_not() -> None:
    status = make_run_status(None, report(GOOD, FAILED, MEASURING))
    assert read_outcomes(status, 3, H100) == {ONE: GOOD, TWO: FAILED}
    assert read_outcomes(status, 4, H100) == {}
    assert read_outcomes(None, 3, H100) == {}


def test_progress_and_best() -> None:
    status = make_run_status(None, report(GOOD, MEASURING, seconds_left=240.4, job="qwen-1", profile="qwen"))
    assert status["progress"] == "1/2 +5 points"
    assert status["secondsLeft"] == 240
    assert (status["job"], status["profile"]) == ("qwen-1", "qwen")
    assert status["best"] == {"shape": "TP1", "requestsPerSecondPerGPU": 20.0}
    assert make_run_status(None, report(GOOD, BETTER))["progress"] == "2/2"


def test_seconds_and_words_of_a_step_are_no_reason_to_write() -> None:
    before = make_run_status(None, report(MEASURING, seconds_left=240.0))
    later = Outcome(TWO, "Measuring", 5, 31.0, "search 3/s; 200 s left at most")
    assert not should_write_run(before, make_run_status(before, report(later, seconds_left=200.0)))
    more = Outcome(TWO, "Measuring", 6, 31.0, "search 4/s; 190 s left at most")
    assert should_write_run(before, make_run_status(before, report(more, seconds_left=190.0)))
    assert should_write_run(None, before)


def test_the_longest_status_keeps_to_its_size() -> None:
    outcomes = tuple(
        Outcome(Configuration(H100, max_num_seqs=n), "Partial", 3, 1.23456789, "w" * 400, 12.34, 256.0)
        for n in range(1, 17)
    )
    status = make_run_status(None, report(*outcomes))
    assert len(json.dumps(status)) < 8192


def test_a_result_says_its_state() -> None:
    assert Measurement(problem="x").state == "Failed"
