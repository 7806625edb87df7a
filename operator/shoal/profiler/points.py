"""One measured step, summed up."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from shoal.domain.profile import Quantiles
from shoal.profiler.jobs import FAILED, Ended, Floats, Records
from shoal.profiler.lengths import Ints
from shoal.profiler.specs import Kind, Objective, Spec

MOST_CPU: Final = 0.70  # of a core per client process: above, the client may be what is measured
MOST_LAG_MS: Final = 5.0  # p99 of how late requests were sent
MOST_FAILED: Final = 0.02  # share of the requests that may fail before a point counts as invalid
CHANCE_REQUESTS: Final = 2.0
MOST_GROWTH: Final = 0.03  # of the arrivals: more than that stays without a first token, so the queue grows
PROMPT_QUANTILES: Final = 32
_RESAMPLES = 300
_BLOCKS = 24  # of neighbouring requests: what waits in one queue is not independent


@dataclass(frozen=True, slots=True)
class Statistic:
    """A latency in milliseconds with percentiles, and 95 % confidence intervals of some of them."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    mean_interval: tuple[float, float]
    p50_interval: tuple[float, float]
    p95_interval: tuple[float, float]

    @property
    def quantiles(self) -> Quantiles:
        """As a profile has it."""
        return Quantiles(self.mean, self.p50, self.p90, self.p95, self.p99)


@dataclass(frozen=True, slots=True)
class Point:
    """What one step showed. Rates are of all engines together, per second; times in milliseconds.

    `planned` requests were due in the window; `late_first` and `late_gap` of them missed their objective. `gap_ms` is
    the mean gap over tokens, `decoding` how many requests were generating on average, `context` their mean tokens in
    the KV cache, `prompt_rate` the prompt tokens whose first answer came in the window, per second, `growth`
    the share of the arrivals that added to the queue. `invalid` says why a point cannot be trusted; `stopped`
    that its fate was certain before its end: its latencies are then lower bounds.
    """

    spec: Spec
    began: float  # seconds since the epoch
    took: float  # seconds
    planned: int
    answered: int
    failed: int
    under_way: int
    finished_rate: float
    output_rate: float
    prompt_rate: float
    late_first: int
    late_gap: int
    gap_ms: float | None
    decoding: float | None
    context: float
    output_mean: float
    growth: float
    prompt_quantiles: tuple[float, ...]
    ttft: Statistic | None
    itl: Statistic | None
    e2e: Statistic | None
    client_processes: int
    client_cpu: float
    send_lag_p99_ms: float
    stopped: bool = False
    invalid: str = ""
    errors: tuple[str, ...] = ()
    engine: dict[str, float] = field(default_factory=dict)
    gpu: dict[str, Any] = field(default_factory=dict)

    @property
    def keeps_up(self) -> bool:
        """Whether the queue stayed as short as it was, but for a request or two that come or go by chance."""
        return not self.stopped and self.growth <= max(MOST_GROWTH, CHANCE_REQUESTS / max(self.planned, 1))

    @property
    def throughput(self) -> float:
        """Requests per second that were served: by the engines' count of tokens, where they tell; else as finished."""
        tokens = self.engine.get("outputRate", 0.0)
        return tokens / self.output_mean if tokens > 0 and self.output_mean > 0 else self.finished_rate

    @property
    def step_ms(self) -> float | None:
        """Mean time from one token to the next: by Little's law where the engines count tokens, else as clients saw it.

        Requests that end in a short window are not the typical ones; the law holds for all that run.
        """
        later = self.engine.get("outputRate", 0.0) - self.finished_rate  # each answer's first token ends no gap
        if later > 0 and self.decoding and self.spec.name != "idle":  # alone, each gap is a step
            return 1000 * self.decoding / later
        return self.gap_ms

    @property
    def client_failed(self) -> bool:
        """Whether the clients may be what was measured."""
        return bool(self.invalid) and self.failed <= MOST_FAILED * max(self.answered + self.failed, 1)

    def meets(self, objective: Objective) -> bool:
        """Whether it was within the objective; without one for the first token, the queue must not have grown."""
        late = max(self.late_first, self.late_gap) + self.failed
        allowed = max(objective.allowed, 0.0) if objective.is_set else MOST_FAILED
        waits = self.stopped if objective.ttft_ms is not None else not self.keeps_up
        return not waits and self.planned > 0 and late <= allowed * self.planned

    def ratio(self, objective: Objective) -> float | None:
        """The worse latency over its objective; None where it is only a bound, or nothing is asked for."""
        if self.stopped or self.ttft is None or not objective.is_set:
            return None
        name = f"p{objective.percentile}"
        found = [
            getattr(statistic, name) / bound
            for statistic, bound in ((self.ttft, objective.ttft_ms), (self.itl, objective.itl_ms))
            if statistic is not None and bound is not None and hasattr(statistic, name)
        ]
        return max(found) if found else None

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return dataclasses.asdict(self) | {"spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Point:
        """From the journal."""
        values = dict(given)
        for name in ("ttft", "itl", "e2e"):
            found = values[name]
            values[name] = None if found is None else Statistic(**{k: _tupled(v) for k, v in found.items()})
        values["spec"] = Spec.from_json(values["spec"])
        return cls(**{name: _tupled(value) for name, value in values.items()})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def summarise(
    spec: Spec,
    records: Records,
    objective: Objective,
    *,
    began: float,
    took: float,
    planned: int | None = None,
    stopped: bool = False,
    most_lag_ms: float = MOST_LAG_MS,
    drawn: tuple[Ints, Ints] | None = None,
) -> Point:
    """Sum up. The window is `warm_up .. warm_up + seconds`; of a burst, everything.

    Open loop: latencies of requests due in the window. Closed loop: of those that ended in it. `planned`: how many were
    due in the window, where not all were sent. `drawn`: prompts and answers that were asked for: of those
    that were seen to end, too many are short.
    """
    since, until = spec.warm_up, spec.warm_up + spec.seconds
    answered = records.ended == Ended.ANSWERED
    if spec.kind is Kind.BURST:
        since, until = 0.0, float(np.nanmax(records.last)) + 1e-9 if answered.any() else 1.0
    ended = answered & (records.last >= since) & (records.last < until)
    due = (records.due >= since) & (records.due < until)
    counted = ended if spec.kind is Kind.CLOSED else due
    chosen = counted & answered
    seconds, stop = until - since, min(until, took)
    gaps = np.maximum(records.outputs - 1, 0)
    decode_seconds = float((records.last - records.first)[chosen].sum())
    gap_ms = 1000 * decode_seconds / gaps[chosen].sum() if gaps[chosen].sum() else None
    prompts, outputs = drawn or (records.prompts, records.outputs)
    begun = (records.first >= since) & (records.first < until)
    failed = int((counted & np.isin(records.ended, FAILED)).sum()) if spec.kind is not Kind.CLOSED else _failed(records)
    lag = (records.sent - records.due) * 1000
    point = Point(
        spec=spec,
        began=began,
        took=took,
        planned=int(counted.sum()) if planned is None else planned,
        answered=int(chosen.sum()),
        failed=failed,
        under_way=int((records.ended == Ended.UNDER_WAY).sum()),
        finished_rate=float(ended.sum()) / seconds,
        output_rate=float(records.outputs[ended].sum()) / seconds,
        prompt_rate=float(records.prompts[begun].sum()) / max(stop - since, 1e-3),
        late_first=_late(records.ttft_ms, objective.ttft_ms, counted),
        late_gap=_late(records.itl_ms, objective.itl_ms, chosen & (records.outputs > 1)),
        gap_ms=gap_ms,
        decoding=_decoding(records, since, stop),
        context=_context(prompts, outputs),
        output_mean=float(outputs.mean()) if len(outputs) else 0.0,
        growth=_growth(records, since, min(until, took)) if spec.kind is Kind.OPEN else 0.0,
        prompt_quantiles=_quantiles_of(prompts),
        ttft=make_statistic(records.ttft_ms[chosen]),
        itl=make_statistic(records.itl_ms[chosen]),
        e2e=make_statistic(records.e2e_ms[chosen]),
        client_processes=len(records.cpu),
        client_cpu=round(float(records.cpu.max()), 3),
        send_lag_p99_ms=round(float(np.quantile(lag, 0.99)), 2) if len(lag) and spec.kind is Kind.OPEN else 0.0,
        stopped=stopped,
        errors=records.errors,
    )
    return dataclasses.replace(point, invalid=_why_invalid(point, most_lag_ms))


def _failed(records: Records) -> int:
    return int(np.isin(records.ended, FAILED).sum())


def _late(values: Floats, bound: float | None, counted: np.ndarray[Any, Any]) -> int:
    """How many exceed the bound; those without a value are late too: they never got so far."""
    if bound is None:
        return 0
    return int((~(values[counted] <= bound)).sum())


def _decoding(records: Records, since: float, until: float) -> float | None:
    """How many requests were between first and last token, on average."""
    if until <= since:
        return None
    last = np.where(np.isnan(records.last), until, records.last)
    overlap = np.clip(np.minimum(last, until) - np.maximum(records.first, since), 0.0, None)
    return float(np.nansum(overlap)) / (until - since)


def _growth(records: Records, since: float, until: float) -> float:
    """Share of the arrivals by which requests without a first token became more, in the window."""
    if until - since < 1.0 or len(records.due) < 3:
        return 0.0
    instants = np.linspace(since, until, 41)
    first = np.sort(records.first[np.isfinite(records.first)])
    sent = np.sort(records.sent)
    backlog = np.searchsorted(sent, instants) - np.searchsorted(first, instants)
    arrived = np.searchsorted(sent, until) - np.searchsorted(sent, since)
    return float(np.polyfit(instants, backlog, 1)[0]) * (until - since) / max(int(arrived), 1)


def _context(prompts: Ints, outputs: Ints) -> float:
    """Mean tokens in the KV cache of a generating request: `(E[i*o] + E[o^2]/2) / E[o]`."""
    reads, answers = prompts.astype(float), outputs.astype(float)
    total = answers.sum()
    return float((reads * answers + answers**2 / 2).sum() / total) if total else 0.0


def _quantiles_of(prompts: np.ndarray[Any, Any]) -> tuple[float, ...]:
    if not len(prompts):
        return ()
    shares = (np.arange(PROMPT_QUANTILES) + 0.5) / PROMPT_QUANTILES
    return tuple(round(float(value), 1) for value in np.quantile(prompts, shares))


def _why_invalid(point: Point, most_lag_ms: float) -> str:
    total = max(point.answered + point.failed, 1)
    if point.failed > MOST_FAILED * total:
        first = point.errors[0] if point.errors else "no answer"
        return f"{point.failed} of {total} requests failed: {first}"
    if point.client_cpu > MOST_CPU:
        return f"a client process used {point.client_cpu:.0%} of its core: give it more with --clients"
    if point.send_lag_p99_ms > most_lag_ms:
        return f"requests were sent {point.send_lag_p99_ms:.1f} ms late (p99): the client machine is too busy"
    return ""


def make_statistic(values: Floats) -> Statistic | None:
    """Percentiles with confidence intervals by a block bootstrap (deterministic). None without values."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None
    quantiles = np.quantile(values, (0.5, 0.9, 0.95, 0.99))
    rng = np.random.default_rng(len(values))
    blocks = np.array_split(values, min(_BLOCKS, len(values)))
    means, halves, tails = [], [], []
    for _ in range(_RESAMPLES):
        sample = np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))])
        means.append(sample.mean())
        half, tail = np.quantile(sample, (0.5, 0.95))
        halves.append(half)
        tails.append(tail)
    p50, p90, p95, p99 = (float(quantile) for quantile in quantiles)
    return Statistic(float(values.mean()), p50, p90, p95, p99, _interval(means), _interval(halves), _interval(tails))


def _interval(values: list[Any]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return round(float(low), 4), round(float(high), 4)
