"""Step times from measured gaps: alpha, beta, gamma, the floors of mixed steps and the API server's limit.

Every point gives one equation: the mean gap between tokens is the mean time of a step,
`max(alpha + (beta + gamma*ctx)*N + beta*A, floor(A), N/Phi)` over the steps it consists of. How many requests decoded
(N) and how many prompt tokens came (A) is measured; how they fall into steps is not seen from outside, so each point
is played as a few hundred steps: prompts arrive as Poisson, at most the chunk is computed in one step, the rest waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shoal.domain.profile import StepModel
from shoal.profiler.jobs import Floats
from shoal.profiler.points import Point
from shoal.profiler.specs import Kind

GRAPH_TOKENS: Final = 512  # the largest captured graph: steps above it have the larger floor
NAMES: Final = ("alpha", "beta", "gamma", "floorSmall", "floorLarge", "apiLimit")
_STEPS: Final = 4096  # played for each point: chance in them is then below 1 %
_SETTLE: Final = 64
_ENOUGH: Final = 6  # points, so that others can be left out
_HUBER: Final = 1.5
_LEAST_NOISE: Final = 0.005  # relative; no gap is known better
_DROPS: Final = 1.2  # a term that lowers the error by less than this factor is left out
_GOOD: Final = 0.01  # relative error below which no further term is asked for
_API: Final = NAMES.index("apiLimit")
_APPROACHED: Final = 0.9  # of the API limit
_UNSEEN: Final = 0.002  # relative
_SMALLEST: Final = 1e-9
PRIOR_SPREAD: Final = 0.5  # natural logarithm: how far real step times lie from the datasheet's, one standard deviation
_NOTHING: Final = 1e-6  # information on the logarithm of a term
_UNTOLD: Final = 10.0  # standard deviation of the logarithm
_USUAL_NOISE: Final = 0.02  # relative error of a point, for the weight of the datasheet beside it


@dataclass(frozen=True, slots=True)
class Observation:
    """One point, per engine: gap in ms and how precisely it is known, played steps (decoding, prompt tokens), ctx."""

    name: str
    gap_ms: float
    noise: float  # relative
    decoding: Floats
    prompts: Floats
    context: float


@dataclass(frozen=True, slots=True)
class StepFit:
    """The step times with standard errors by name (NAMES; None: not to be told from these points).

    `residuals`: (step, measured gap, fitted gap); `rms` and `worst` are relative.
    """

    steps: StepModel
    errors: dict[str, float | None]
    rms: float
    worst: float
    residuals: tuple[tuple[str, float, float], ...]


def fit_steps(
    points: Sequence[Point], *, chunk: int, engines: int, datasheet: StepModel | None = None
) -> StepFit | None:
    """Fit what the points can tell; None when they are too few for alpha, beta and gamma.

    What they cannot tell stays near `datasheet`, the step times of a roofline for the same engine: a prompt that fills
    every chunk, say, is explained by beta as well as by a floor. A point counts (0.5/0.02)^2 times as much.
    """
    steady = [point for point in points if not point.engine.get("preemptions")]  # else prompts are computed twice
    chosen = steady if len(steady) >= _ENOUGH else points
    observations = [o for o in (observe(point, chunk, engines) for point in chosen) if o is not None]
    if len(observations) < 4 or not _tells_apart(observations):
        return None
    # Six terms explain six points whatever they are; the datasheet keeps them apart where there is one.
    several = datasheet is not None or len(observations) >= len(NAMES) + 2
    active = [True, True, True, several, several, several]
    best, cost = _solve(observations, active, datasheet)
    for index in (5, 3, 4) if several else ():  # the simplest model that explains the points as well
        if _binds_nowhere(observations, best, index):
            best = np.where(np.arange(len(NAMES)) == index, 0.0, best)
            active = [on and place != index for place, on in enumerate(active)]
            continue
        fewer = [on and place != index for place, on in enumerate(active)]
        found, dearer = _solve(observations, fewer, datasheet)
        unproven = index == _API and _is_far_from_limit(observations, best)
        if unproven or dearer <= max(cost * _DROPS, _GOOD):
            best, cost, active = found, dearer, fewer
    return _make_fit(observations, best, active, prior=datasheet is not None)


def _binds_nowhere(observations: Sequence[Observation], values: Floats, index: int) -> bool:
    """Whether a floor or limit changes no point: then it is only where the search happened to leave it."""
    without = np.where(np.arange(len(NAMES)) == index, 0.0, values)
    return all(abs(predict(without, o) / predict(values, o) - 1) < _UNSEEN for o in observations)


def _is_far_from_limit(observations: Sequence[Observation], values: Floats) -> bool:
    """Whether no point streamed nearly as many tokens as the API limit allows: then it was never seen."""
    most = max(float(o.decoding.mean()) / o.gap_ms for o in observations)
    return most * float(values[_API]) < _APPROACHED


def observe(point: Point, chunk: int, engines: int) -> Observation | None:
    """A point as an equation; None when it has no steady gap."""
    gap_ms = point.step_ms
    if point.client_failed or point.stopped or gap_ms is None or not point.decoding or point.itl is None:
        return None
    if point.spec.kind is Kind.BURST or point.answered < 2 or not point.prompt_quantiles:
        return None
    rng = np.random.default_rng(len(point.spec.key))
    running = point.decoding / engines
    decoding: Floats
    if point.spec.kind is Kind.OPEN:  # a token sees the others, and its own request
        decoding = rng.poisson(running, _STEPS + _SETTLE).astype(np.float64) + 1.0
        if point.spec.name == "overload":
            decoding[:] = running
    else:
        decoding = np.full(_STEPS + _SETTLE, max(running, 1.0))
    arriving = (point.engine.get("promptRate") or point.prompt_rate) / engines * gap_ms / 1000
    prompts = _play_prompts(rng, arriving, np.array(point.prompt_quantiles), np.maximum(chunk - decoding, 1.0))
    if point.spec.name == "idle":
        prompts[:] = 0.0  # alone: its own prompt is over before its first gap
    low, high = point.itl.mean_interval
    noise = max((high - low) / 3.92 / point.itl.mean, _LEAST_NOISE)
    return Observation(point.spec.key, gap_ms, noise, decoding[_SETTLE:], prompts[_SETTLE:], point.context)


def _play_prompts(rng: np.random.Generator, arriving: float, lengths: Floats, budget: Floats) -> Floats:
    """Prompt tokens of each step: `arriving` tokens come per step on average, whole prompts at a time."""
    counts = rng.poisson(arriving / max(lengths.mean(), 1.0), len(budget))
    tokens = np.array([lengths[rng.integers(0, len(lengths), count)].sum() for count in counts])
    if counts.sum():
        tokens *= arriving * len(budget) / tokens.sum()
    served, waiting = np.zeros(len(budget)), 0.0
    for step, (fresh, room) in enumerate(zip(tokens, budget, strict=True)):
        waiting += fresh
        served[step] = min(waiting, room)
        waiting -= served[step]
    return served


def predict(values: Floats, observation: Observation) -> float:
    """The mean gap (ms) that these step times give."""
    alpha, beta, gamma, small, large, per_token = values
    decoding, prompts = observation.decoding, observation.prompts
    step = alpha + (beta + gamma * observation.context) * decoding + beta * prompts
    floor = np.where(prompts <= 0, 0.0, np.where(prompts + decoding <= GRAPH_TOKENS, small, max(small, large)))
    step = np.maximum(np.maximum(step, floor), decoding * per_token)
    return float((step * decoding).sum() / decoding.sum())


def _tells_apart(observations: Sequence[Observation]) -> bool:
    """Whether load and context vary enough for three terms."""
    loads = [float(o.decoding.mean()) for o in observations]
    return max(loads) > 2 * min(loads)


def _start(observations: Sequence[Observation], floors: float) -> Floats:
    gaps = np.array([o.gap_ms for o in observations])
    alpha = 0.9 * gaps.min()
    per = [(o.gap_ms - alpha) / max(float((o.decoding + o.prompts).mean()), 1.0) for o in observations]
    beta = max(float(np.quantile(per, 0.25)), _SMALLEST)
    context = max(float(np.median([o.context for o in observations])), 1.0)
    most = max(float(o.decoding.mean()) / o.gap_ms for o in observations)
    return np.array([alpha, beta / 2, beta / 4 / context, floors * alpha, 1.5 * floors * alpha, 0.8 / most])


def _solve(
    observations: Sequence[Observation], active: Sequence[bool], datasheet: StepModel | None
) -> tuple[Floats, float]:
    """Best of several starts: floors that bind nowhere have no slope to follow. Values, and root mean square error."""
    starts = (_start(observations, floors) for floors in (1.2, 2.0, 4.0))
    return min((_descend(observations, start, active, datasheet) for start in starts), key=lambda pair: pair[1])


def _distance(logs: Floats, datasheet: StepModel | None) -> list[float]:
    """How far alpha, beta and gamma are from the datasheet's, in the unit of the points' relative errors."""
    if datasheet is None:
        return []
    told = (datasheet.alpha_ms, datasheet.beta_ms_per_token, datasheet.gamma_ms_per_kv_token)
    weight = _USUAL_NOISE / PRIOR_SPREAD
    return [weight * (float(at) - math.log(value)) for at, value in zip(logs, told, strict=False)]


def _descend(
    observations: Sequence[Observation], start: Floats, active: Sequence[bool], datasheet: StepModel | None
) -> tuple[Floats, float]:
    """Levenberg-Marquardt on the logarithms, with Huber's weights; terms that are not active stay zero."""
    on, points = np.array(active), len(observations)
    logs, damping = np.log(np.maximum(start, _SMALLEST)), 1e-2

    def residuals(at: Floats) -> Floats:
        values = np.where(on, np.exp(at), 0.0)
        misses = [math.log(max(predict(values, o), _SMALLEST) / o.gap_ms) for o in observations]
        return np.array(misses + _distance(at, datasheet))

    def weigh(found: Floats) -> Floats:
        return np.concatenate([_huber(found[:points]), np.ones(len(found) - points)])

    current = residuals(logs)
    for _ in range(80):
        weights = weigh(current)
        jacobian = _slopes(residuals, logs, on, current)
        normal = jacobian.T @ (jacobian * weights[:, None])
        step = np.linalg.lstsq(
            normal + damping * (np.diag(np.diag(normal)) + 1e-9 * np.eye(len(normal))),
            -jacobian.T @ (weights * current),
            rcond=None,
        )[0]
        trial = logs.copy()
        trial[on] += np.clip(step, -1.0, 1.0)
        fresh = residuals(trial)
        if (weights * fresh**2).sum() < (weights * current**2).sum():
            gained = 1 - (weights * fresh**2).sum() / (weights * current**2).sum()
            logs, current, damping = trial, fresh, damping / 3
            if gained < 1e-6:
                break
        else:
            damping *= 4
            if damping > 1e6:
                break
    return np.where(on, np.exp(logs), 0.0), float(np.sqrt((weigh(current) * current**2).sum() / points))


def _huber(residuals: Floats) -> Floats:
    scale = max(1.4826 * float(np.median(np.abs(residuals))), _LEAST_NOISE) * _HUBER
    return np.minimum(1.0, scale / np.maximum(np.abs(residuals), 1e-12))


def _slopes(residuals: object, logs: Floats, on: Floats, current: Floats) -> Floats:
    assert callable(residuals)
    columns = []
    for place in np.flatnonzero(on):
        moved = logs.copy()
        moved[place] += 1e-3
        columns.append((residuals(moved) - current) / 1e-3)
    return np.array(columns).T


def _make_fit(observations: Sequence[Observation], values: Floats, active: Sequence[bool], *, prior: bool) -> StepFit:
    predicted = [predict(values, observation) for observation in observations]
    relative = np.array([math.log(p / o.gap_ms) for p, o in zip(predicted, observations, strict=True)])
    alpha, beta, gamma, small, large, per_token = (float(value) for value in values)
    return StepFit(
        steps=StepModel(
            alpha_ms=alpha,
            beta_ms_per_token=beta,
            gamma_ms_per_kv_token=gamma,
            floor_small_ms=small,
            floor_large_ms=max(small, large),
            api_tokens_per_second=1000 / per_token if per_token > 0 else None,
        ),
        errors=_errors(observations, values, active, relative, prior=prior),
        rms=float(np.sqrt((relative**2).mean())),
        worst=float(np.abs(relative).max()),
        residuals=tuple((o.name, o.gap_ms, p) for o, p in zip(observations, predicted, strict=True)),
    )


def _errors(
    observations: Sequence[Observation], values: Floats, active: Sequence[bool], relative: Floats, *, prior: bool
) -> dict[str, float | None]:
    """Standard errors, from the scatter of the points or their own noise, whichever is larger; with what `prior` adds.

    None: not to be told, as terms that the same points explain in exchange for each other.
    """
    on = np.array(active)
    logs = np.log(np.maximum(values, _SMALLEST))

    def residuals(at: Floats) -> Floats:
        tried = np.where(on, np.exp(at), 0.0)
        return np.array([math.log(max(predict(tried, o), _SMALLEST) / o.gap_ms) for o in observations])

    jacobian = _slopes(residuals, logs, on, residuals(logs))
    known = np.array([1 / PRIOR_SPREAD**2 if prior and place < 3 else 0.0 for place in np.flatnonzero(on)])
    freedom = max(len(observations) + int((known > 0).sum()) - int(on.sum()), 1)
    variance = max(float((relative**2).sum()) / freedom, float(np.mean([o.noise**2 for o in observations])))
    information, axes = np.linalg.eigh(jacobian.T @ jacobian / variance + np.diag(known))
    spread = np.sqrt((axes**2 / np.maximum(information, _NOTHING)).sum(axis=1))
    errors: dict[str, float | None] = dict.fromkeys(NAMES)
    for place, error in zip(np.flatnonzero(on), spread, strict=True):
        value = 1000 / float(values[place]) if NAMES[place] == "apiLimit" else float(values[place])
        errors[NAMES[place]] = value * float(error) if error < _UNTOLD else None
    return errors
