"""What a service learns from its own traffic, window by window: Estimated becomes Learned, a profile that drifts stale.

An estimated configuration: the logarithm of the time ratio is averaged over requests (the newest `MEMORY` of them count
most; what is known before counts as `PRIOR_REQUESTS`), and the row's step times are brought to it. A trusted one keeps
its row; when it has been `DRIFT` times slower or faster for `DRIFT_SECONDS`, its lesson says so.

Lessons are coarse: they change when something moved by more than the steps below. A capacity that followed every window
would make replicas go back and forth.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from shoal.domain.configuration import Configuration
from shoal.domain.live import Evidence, Learned, Lesson, Residual, Tally, Target
from shoal.domain.plan import Decision
from shoal.domain.profile import ProfileRow, Quantiles, RatePoint, StepModel
from shoal.domain.service import Service
from shoal.planner.credit import LOOK, PRIOR
from shoal.planner.residual import ENOUGH_REQUESTS

PRIOR_REQUESTS: Final = LOOK / PRIOR**2
MEMORY: Final = 5000.0  # requests
WINDOW_SLACK_SECONDS: Final = 1.0
TIME_STEP: Final = 0.05  # of the logarithm: smaller changes of the step times are not told
RATE_STEP: Final = 1.05
TTFT_STEP: Final = 0.15
REQUESTS_STEP: Final = 1.5
DRIFT: Final = 1.3
DRIFT_OVER: Final = 1.15  # within this the drift is over
DRIFT_SECONDS: Final = 600.0
DRIFT_WEIGHT: Final = 0.3  # of the newest window
DRIFT_STEP: Final = 0.1
MOST_CONFIGURATIONS: Final = 16


def learn(service: Service, decision: Decision, at: float) -> tuple[Learned, ...]:
    """What is known after this decision, `at` being its instant: to be handed to the next one, as memory is.

    Losing it is safe: the estimate counts again, which never takes replicas away.
    """
    known = {learned.lesson.configuration: learned for learned in applicable(service)}
    demand = decision.explanation.demand
    for residual in decision.explanation.residuals:
        configuration = residual.placement.configuration
        age = residual.sample.age_seconds + residual.sample.seconds
        if demand.observed and not demand.changing and demand.window_seconds >= age:
            before = known.pop(configuration, None) or _begin(service, configuration)
            known[configuration] = take_in(before, residual, at)
    return tuple(known.values())[-MOST_CONFIGURATIONS:]


def applicable(service: Service) -> tuple[Learned, ...]:
    """What was learned of this model with this engine version. Under another SLO no rate was seen within it yet."""
    target = _target_of(service)
    return tuple(
        learned if learned.target == target else _retarget(learned, target)
        for learned in service.learned
        if learned.model == service.model and learned.engine_version == service.engine.version
    )


def _target_of(service: Service) -> Target:
    objective = service.objective
    return Target(objective.percentile, objective.ttft_ms, objective.itl_ms)


def _retarget(learned: Learned, target: Target) -> Learned:
    evidence = replace(learned.lesson.evidence, highest_rate=0.0)
    return replace(
        learned,
        target=target,
        lesson=replace(learned.lesson, evidence=evidence),
        tally=replace(learned.tally, highest_rate=0.0),
    )


def take_in(learned: Learned, residual: Residual, at: float) -> Learned:
    """One window more. Those that overlap the last one, or tell nothing, change nothing."""
    sample, until = residual.sample, at - residual.sample.age_seconds
    taken = learned.tally.taken_until
    if residual.time_ratio is None or (taken is not None and until - sample.seconds < taken - WINDOW_SLACK_SECONDS):
        return learned
    if residual.estimated:
        return _learn_speed(learned, residual, residual.time_ratio, until)
    return _watch_drift(learned, residual, residual.time_ratio, until)


def scale_row(row: ProfileRow, factor: float) -> ProfileRow:
    """The row of an engine that takes `factor` times as long for everything."""
    return replace(
        row,
        overload_rate=None if row.overload_rate is None else row.overload_rate / factor,
        points=tuple(_scale_point(point, factor) for point in row.points),
        steps=None if row.steps is None else _scale_steps(row.steps, factor),
    )


def _begin(service: Service, configuration: Configuration) -> Learned:
    lesson = Lesson(configuration, Evidence(0.0, 0.0))
    return Learned(service.model, service.engine.version, _target_of(service), lesson)


def _learn_speed(learned: Learned, residual: Residual, ratio: float, until: float) -> Learned:
    if learned.lesson.row is None:  # new, or its trusted profile is gone: nothing of that one counts here
        learned = replace(
            learned, lesson=Lesson(residual.placement.configuration, Evidence(0.0, 0.0), residual.row), tally=Tally()
        )
    tally, requests = learned.tally, residual.sample.requests
    weight = requests / (PRIOR_REQUESTS + min(tally.requests, MEMORY) + requests)
    ttft = _log_ratio(residual.sample.ttft_mean_ms, residual.predicted_ttft_ms)
    highest = max(tally.highest_rate, residual.rate_at_row if residual.within else 0.0)
    tally = replace(
        tally,
        requests=tally.requests + requests,
        log_time=tally.log_time + weight * (math.log(ratio) - tally.log_time),
        log_ttft=tally.log_ttft if ttft is None else tally.log_ttft + weight * (ttft - tally.log_ttft),
        highest_rate=highest,
        taken_until=until,
    )
    return _publish(replace(learned, tally=tally))


def _publish(learned: Learned) -> Learned:
    """Tell what has become different enough. Step times once told are the new ground that ratios are counted from."""
    tally, lesson = learned.tally, learned.lesson
    before, row = lesson.evidence, lesson.row
    assert row is not None  # only estimated configurations come here
    is_new = (
        abs(tally.log_time) > TIME_STEP
        or tally.requests >= REQUESTS_STEP * before.requests
        or tally.highest_rate >= RATE_STEP * before.highest_rate > 0
        or (tally.highest_rate > 0) != (before.highest_rate > 0)
        or abs(tally.log_ttft - math.log(before.ttft_ratio)) > TTFT_STEP
    )
    if not is_new:
        return learned
    if abs(tally.log_time) > TIME_STEP:
        row, tally = scale_row(row, math.exp(tally.log_time)), replace(tally, log_time=0.0)
    evidence = Evidence(tally.requests, tally.highest_rate, math.exp(tally.log_ttft))
    return replace(learned, lesson=replace(lesson, evidence=evidence, row=row), tally=tally)


def _watch_drift(learned: Learned, residual: Residual, ratio: float, until: float) -> Learned:
    if learned.lesson.row is not None:  # it was estimated until now
        learned = replace(learned, lesson=Lesson(residual.placement.configuration, Evidence(0.0, 0.0)), tally=Tally())
    tally, sample = learned.tally, residual.sample
    if sample.requests < ENOUGH_REQUESTS:
        return learned
    first = tally.taken_until is None
    log_time = math.log(ratio) if first else tally.log_time + DRIFT_WEIGHT * (math.log(ratio) - tally.log_time)
    since = tally.drift_since
    if abs(log_time) > math.log(DRIFT):
        since = until - sample.seconds if since is None else since
    elif abs(log_time) < math.log(DRIFT_OVER):
        since = None
    tally = replace(
        tally,
        requests=tally.requests + sample.requests,
        log_time=log_time,
        highest_rate=max(tally.highest_rate, residual.rate_at_row if residual.within else 0.0),
        taken_until=until,
        drift_since=since,
    )
    return _publish_drift(replace(learned, tally=tally))


def _publish_drift(learned: Learned) -> Learned:
    tally, before = learned.tally, learned.lesson.evidence
    since, until = tally.drift_since, tally.taken_until
    lasted = since is not None and until is not None and until - since >= DRIFT_SECONDS
    drift = before.drift
    if since is None:
        drift = None
    elif lasted and (drift is None or abs(math.log(drift) - tally.log_time) > DRIFT_STEP):
        drift = math.exp(tally.log_time)
    if drift == before.drift and tally.requests < REQUESTS_STEP * before.requests:
        return learned
    evidence = Evidence(tally.requests, tally.highest_rate, drift=drift)
    return replace(learned, lesson=replace(learned.lesson, evidence=evidence))


def _log_ratio(observed: float | None, predicted: float | None) -> float | None:
    return math.log(observed / predicted) if observed and predicted else None


def _scale_steps(steps: StepModel, factor: float) -> StepModel:
    tokens = steps.api_tokens_per_second
    return StepModel(
        alpha_ms=steps.alpha_ms * factor,
        beta_ms_per_token=steps.beta_ms_per_token * factor,
        gamma_ms_per_kv_token=steps.gamma_ms_per_kv_token * factor,
        floor_small_ms=steps.floor_small_ms * factor,
        floor_large_ms=steps.floor_large_ms * factor,
        api_tokens_per_second=None if tokens is None else tokens / factor,
    )


def _scale_point(point: RatePoint, factor: float) -> RatePoint:
    return replace(point, rate=point.rate / factor, ttft=_scale(point.ttft, factor), itl=_scale(point.itl, factor))


def _scale(values: Quantiles, factor: float) -> Quantiles:
    p50, p90, p95, p99 = (
        None if value is None else value * factor for value in (values.p50, values.p90, values.p95, values.p99)
    )
    return Quantiles(values.mean * factor, p50, p90, p95, p99)
