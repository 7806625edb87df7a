"""The status of a ProfileRun, made from what was seen of it; and what an older status says of configurations.

| condition | status | reasons |
|---|---|---|
| Ready | True | Measured, PartlyMeasured |
| | False | a problem, NameTaken, NothingMeasured; WaitingForPlans, WaitingForGPUs, Paused, Starting, Measuring |
| Reconciling | True | the reason of Ready, while it goes on |
| | False | Reached, the reason of Stalled |
| Stalled | True | a problem that only a change of spec can help, NothingMeasured |
| | False | NothingWrong |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shoal.api.base import API_VERSION
from shoal.api.measurement import Measurement, Progress
from shoal.api.profile_run import ProfileRun
from shoal.domain.configuration import Configuration
from shoal.render.problems import Problem
from shoal.render.reasons import ConditionReason, ConditionType, RunReason
from shoal.render.times import format_time
from shoal.render.words import bounded, clip

Status = dict[str, Any]

FINAL: Final = ("Measured", "Partial", "Failed", "Skipped")
_MOST_RATE: Final = 1e6
_LONGEST_MESSAGE: Final = 150  # of a configuration; 16 of them fit into the 8 KB of a status


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one configuration, or is becoming of it: a state of the schema. The rate is of all engines.

    `idle_gap_ms` and `most_running` tell, with the rate, which later configurations need not be measured.
    """

    configuration: Configuration
    state: str = "Waiting"
    points: int | None = None
    rate: float | None = None
    message: str = ""
    idle_gap_ms: float | None = None
    most_running: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be measured of it."""
        return self.state in FINAL

    @property
    def rate_per_gpu(self) -> float | None:
        """Its highest rate for each GPU."""
        return None if self.rate is None else self.rate / self.configuration.gpus_per_replica


@dataclass(frozen=True, slots=True)
class RunReport:
    """All that the status of one ProfileRun is made from.

    `outcomes`: of every configuration, in order; empty while they are not known. `waits`: why nothing is measured now.
    `taken`: what stands in the place of an object that is to be written. `profile`: the ModelProfile that holds
    results.
    """

    resource: ProfileRun
    now: float
    outcomes: tuple[Outcome, ...] = ()
    problems: tuple[Problem, ...] = ()
    waits: tuple[RunReason, str] | None = None
    taken: str | None = None
    job: str | None = None
    profile: str | None = None
    seconds_left: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether every configuration has its outcome."""
        return bool(self.outcomes) and all(outcome.is_final for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: str
    reason: str
    message: str


def outcome_of(configuration: Configuration, found: Measurement) -> Outcome:
    """What a result says."""
    message = found.problem if found.state != "Measured" else found.note
    rate, gap, running = found.requests_per_second, found.idle_gap_ms, found.most_running
    return Outcome(configuration, found.state, found.points, rate, message, gap, running)


def outcome_under_way(configuration: Configuration, progress: Progress) -> Outcome:
    """What a measurement says of itself while it goes on."""
    message = f"{progress.step}; {progress.seconds_left:.0f} s left at most"
    return Outcome(configuration, "Measuring", progress.points, progress.requests_per_second, message)


def read_outcomes(status: Mapping[str, Any] | None, generation: int, accelerator: str) -> dict[Configuration, Outcome]:
    """The final outcomes that a status holds of this generation. Losing them is safe: it is measured again."""
    if not status or status.get("observedGeneration") != generation:
        return {}
    found = {}
    for entry in status.get("configurations") or ():
        configuration = Configuration(
            accelerator=accelerator,
            tensor_parallel=entry["tensorParallel"],
            engines_per_gpu=entry["enginesPerGPU"],
            max_num_seqs=entry["maxNumSeqs"],
            max_num_batched_tokens=entry["maxNumBatchedTokens"],
        )
        if entry["state"] in FINAL:
            found[configuration] = Outcome(
                configuration,
                entry["state"],
                entry.get("points"),
                entry.get("requestsPerSecond"),
                entry.get("message", ""),
                entry.get("idleGapMilliseconds"),
                entry.get("mostRunning"),
            )
    return found


def make_run_status(previous: Mapping[str, Any] | None, report: RunReport) -> Status:
    """The status to write; `previous` is the one that stands there."""
    status: Status = {
        "observedGeneration": report.resource.metadata.generation,
        "conditions": list(_conditions(previous or {}, report)),
    }
    if report.outcomes:
        status["progress"] = _progress(report.outcomes)
        status["configurations"] = [_entry(outcome) for outcome in report.outcomes]
    best = _best(report.outcomes)
    if best is not None:
        rate = bounded(best.rate_per_gpu, 0.0, _MOST_RATE)
        status["best"] = {"shape": best.configuration.shape, "requestsPerSecondPerGPU": rate}
    if report.seconds_left is not None and not report.is_over:
        status["secondsLeft"] = round(report.seconds_left)
    if report.profile:
        status["profile"] = report.profile
    if report.job:
        status["job"] = report.job
    return status


def make_run_object(run: ProfileRun, status: Status) -> dict[str, Any]:
    """What is applied; with the UID, so that the status of one object never lands on its successor of the name."""
    metadata = run.metadata
    identity = {"namespace": metadata.namespace, "name": metadata.name, "uid": metadata.uid}
    return {"apiVersion": API_VERSION, "kind": "ProfileRun", "metadata": identity, "status": status}


def should_write_run(old: Mapping[str, Any] | None, new: Status) -> bool:
    """Whether more than the seconds left and the words about a step under way have changed."""
    return not old or _essence(old) != _essence(new)


def _essence(status: Mapping[str, Any]) -> object:
    entries = [
        {key: value for key, value in entry.items() if key != "message" or entry["state"] != "Measuring"}
        for entry in status.get("configurations") or ()
    ]
    conditions = [
        (c["type"], c["status"], c["reason"], "" if c["reason"] == RunReason.MEASURING else c["message"])
        for c in status.get("conditions") or ()
    ]
    left = ("secondsLeft", "configurations", "conditions")
    return {key: value for key, value in status.items() if key not in left}, entries, conditions


# -- parts ---------------------------------------------------------------------------------------------------------


def _progress(outcomes: Sequence[Outcome]) -> str:
    """`1/3`, or `1/3 +5 points` while the second is measured."""
    done = sum(outcome.is_final for outcome in outcomes)
    points = next((outcome.points for outcome in outcomes if outcome.state == "Measuring"), None)
    return f"{done}/{len(outcomes)}" + (f" +{points} points" if points else "")


def _entry(outcome: Outcome) -> Status:
    configuration = outcome.configuration
    entry: Status = {
        "shape": configuration.shape,
        "tensorParallel": configuration.tensor_parallel,
        "enginesPerGPU": configuration.engines_per_gpu,
        "maxNumSeqs": configuration.max_num_seqs,
        "maxNumBatchedTokens": configuration.max_num_batched_tokens,
        "state": outcome.state,
    }
    if outcome.points is not None:
        entry["points"] = outcome.points
    if outcome.rate is not None:
        entry["requestsPerSecond"] = bounded(outcome.rate, 0.0, _MOST_RATE)
        entry["requestsPerSecondPerGPU"] = bounded(outcome.rate_per_gpu, 0.0, _MOST_RATE)
    if outcome.idle_gap_ms is not None:
        entry["idleGapMilliseconds"] = outcome.idle_gap_ms
    if outcome.most_running is not None:
        entry["mostRunning"] = bounded(outcome.most_running, 0.0, _MOST_RATE)
    if outcome.message:
        entry["message"] = clip(outcome.message, _LONGEST_MESSAGE)
    return entry


def _best(outcomes: Sequence[Outcome]) -> Outcome | None:
    known = [outcome for outcome in outcomes if outcome.rate_per_gpu is not None and outcome.is_final]
    return max(known, key=lambda outcome: outcome.rate_per_gpu or 0.0, default=None)


def _conditions(previous: Mapping[str, Any], report: RunReport) -> Iterator[Status]:
    """The transition time of a condition moves only when its status does."""
    known = {condition["type"]: condition for condition in previous.get("conditions") or ()}
    ready = _ready(report)
    stalled = _stalled(report, ready)
    verdicts = {
        ConditionType.READY: ready,
        ConditionType.RECONCILING: _reconciling(ready, stalled),
        ConditionType.STALLED: stalled,
    }
    for kind, verdict in verdicts.items():
        old = known.get(kind)
        same = old is not None and old["status"] == verdict.status
        yield {
            "type": str(kind),
            "status": verdict.status,
            "observedGeneration": report.resource.metadata.generation,
            "lastTransitionTime": old["lastTransitionTime"] if old and same else format_time(report.now),
            "reason": str(verdict.reason),
            "message": clip(verdict.message, 512),
        }


def _ready(report: RunReport) -> _Verdict:
    if report.problems:
        first = report.problems[0]
        return _Verdict("False", first.reason, first.message)
    if report.taken:
        return _Verdict("False", ConditionReason.NAME_TAKEN, report.taken)
    if report.is_over:
        return _summarise(report)
    if report.waits:
        return _Verdict("False", *report.waits)
    return _under_way(report)


def _summarise(report: RunReport) -> _Verdict:
    good = [outcome for outcome in report.outcomes if outcome.state == "Measured"]
    skipped = [outcome for outcome in report.outcomes if outcome.state == "Skipped"]
    other = [outcome for outcome in report.outcomes if outcome not in good and outcome not in skipped]
    bad = "; ".join(f"{o.configuration.shape}: {o.state.lower()}, {o.message}" for o in other)
    best = _best(report.outcomes)
    most = f"; {best.configuration.shape} carries most, {best.rate_per_gpu:.4g} requests/s per GPU" if best else ""
    if skipped:
        most += f"; skipped as needless: {', '.join(o.configuration.shape for o in skipped)}"
    if not other:
        return _Verdict("True", RunReason.MEASURED, f"{len(good)} measured{most}")
    if all(outcome.state == "Failed" for outcome in other) and not good:
        return _Verdict("False", RunReason.NOTHING_MEASURED, bad)
    return _Verdict("True", RunReason.PARTLY_MEASURED, f"{len(good)} of {len(report.outcomes)} complete{most}; {bad}")


def _under_way(report: RunReport) -> _Verdict:
    current = next((outcome for outcome in report.outcomes if not outcome.is_final), None)
    if current is None:
        return _Verdict("False", RunReason.STARTING, "not begun yet")
    reason = RunReason.MEASURING if current.state == "Measuring" else RunReason.STARTING
    return _Verdict("False", reason, f"{current.configuration.shape}: {current.message or 'is being started'}")


def _stalled(report: RunReport, ready: _Verdict) -> _Verdict:
    needs_change = any(problem.needs_spec_change for problem in report.problems)
    if needs_change or ready.reason == RunReason.NOTHING_MEASURED:
        return _Verdict("True", ready.reason, ready.message)
    return _Verdict("False", ConditionReason.NOTHING_WRONG, "nothing needs a change of spec")


def _reconciling(ready: _Verdict, stalled: _Verdict) -> _Verdict:
    if stalled.status == "True":
        return _Verdict("False", stalled.reason, stalled.message)
    if ready.status == "True":
        return _Verdict("False", ConditionReason.REACHED, "everything was measured that can be")
    return _Verdict("True", ready.reason, ready.message)
