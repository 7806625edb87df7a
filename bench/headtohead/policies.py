"""Peers as scaling policies of the simulator: fixed numbers, a schedule, other autoscalers' laws, Dynamo's planner."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.headtohead.engines import Engine, aic_session
from bench.headtohead.simulator import Records, Run, Setting, simulate
from bench.headtohead.traffic import Trace
from shoal.sim.policies.laws import Behaviour, HpaLaw, KedaLaw, KpaLaw, Law, Signals

TICK_SECONDS = 5.0
MOST_PASSES = 400  # of one law over one trace: each finds one more move
LOOK_AHEAD_SECONDS = 100.0
MOST_WORKERS = 16


class Schedule:
    """A number of workers from given instants on (seconds); looked at every `tick_seconds`."""

    def __init__(self, moves: Sequence[tuple[float, int]] = (), tick_seconds: float = TICK_SECONDS) -> None:
        self._moves = list(moves)
        self._tick = tick_seconds

    def initial_tick_ms(self) -> float:
        """The first tick."""
        return self._tick * 1000

    def on_tick(self, snapshot: Mapping[str, Any]) -> dict[str, Any]:
        """The last of the moves that are due."""
        now = float(snapshot["now_ms"])
        due = [number for at, number in self._moves if at * 1000 <= now + 1]
        return answer(due[-1] if due else None, now, self._tick)


class Direct:
    """A law that sees only what the simulator's snapshot tells: no percentile of latency."""

    def __init__(self, law: Law, most: int = MOST_WORKERS) -> None:
        self._law, self._most = law, most

    def initial_tick_ms(self) -> float:
        """The first tick."""
        return self._law.interval_seconds * 1000

    def on_tick(self, snapshot: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the law."""
        wanted = self._law.desired(signals(snapshot, None, None))
        return answer(max(1, min(wanted, self._most)), float(snapshot["now_ms"]), self._law.interval_seconds)


def answer(target: int | None, now_ms: float, tick_seconds: float) -> dict[str, Any]:
    """What the simulator wants to hear."""
    return {"target_prefill": None, "target_decode": target, "next_tick_ms": now_ms + tick_seconds * 1000}


def signals(snapshot: Mapping[str, Any], ttft_share: float | None, itl_share: float | None) -> Signals:
    """A snapshot of the simulator as a law sees it."""
    traffic = snapshot["traffic"]
    return Signals(
        now=float(snapshot["now_ms"]) / 1000,
        desired=int(snapshot["non_draining_decode_count"]),
        ready=int(snapshot["active_decode_count"]),
        rate=float(traffic["num_req"]) / max(float(traffic["duration_s"]), 1e-9),
        active=active_requests(snapshot),
        ttft_share=ttft_share,
        itl_share=itl_share,
    )


def active_requests(snapshot: Mapping[str, Any]) -> float:
    """Requests that run or wait in all engines, at the last step of each."""
    names = ("num_prefill_requests", "num_decode_requests", "num_queued_prefill", "num_queued_decode")
    return float(sum(worker[name] for worker in snapshot["decode_fpm_snapshots"] for name in names))


def run_law_on_percentiles(setting: Setting, trace: Trace, make_law: Callable[[], Law], cache: Path) -> Run:
    """A law that needs 90th percentiles, which the simulator tells only at the end of a run.

    The simulator is deterministic: a run that repeats the moves found so far is, up to the next move, the run that the
    law would have made. So each pass finds one more move, until the law asks for nothing that was not done. Exact.
    A pass looks a little beyond the last move at first, and further when there is nothing.
    """
    interval = make_law().interval_seconds
    moves: list[tuple[float, int]] = []
    ahead = LOOK_AHEAD_SECONDS
    for _ in range(MOST_PASSES):
        last = moves[-1][0] if moves else -1.0
        until = max(last, 0.0) + ahead
        whole = until >= trace.seconds
        run = simulate(
            setting, trace, Schedule(moves, interval), cache, records=True, until_seconds=None if whole else until
        )
        assert run.records is not None
        found = _next_move(setting, run.ticks, run.records, make_law(), after=last)
        if found is None and whole:
            return run
        if found is None:
            ahead *= 4
        else:
            moves.append(found)
            ahead = LOOK_AHEAD_SECONDS
    raise RuntimeError(f"{MOST_PASSES} moves within {trace.seconds:.0f} s: the law does not settle")


def _next_move(
    setting: Setting, ticks: Sequence[Mapping[str, Any]], records: Records, law: Law, *, after: float
) -> tuple[float, int] | None:
    """The first instant later than `after` at which the law wants another number than there is."""
    since = 0.0
    for tick in ticks:
        until = float(tick["now_ms"])
        ttft = _p90(records.ttft, records.first, since, until)
        itl = _p90(records.itl, records.last, since, until)
        seen = signals(
            tick, None if ttft is None else ttft / setting.ttft_ms, None if itl is None else itl / setting.itl_ms
        )
        wanted = max(1, min(law.desired(seen), MOST_WORKERS))
        if until / 1000 > after + 1e-6 and wanted != seen.desired:
            return until / 1000, wanted
        since = until
    return None


def _p90(values: Any, at: Any, since: float, until: float) -> float | None:
    inside = values[(at > since) & (at <= until)]
    return float(np.quantile(inside, 0.9)) if len(inside) else None


def make_law(kind: str, options: Mapping[str, Any], capacity: float, concurrency: float) -> Callable[[], Law]:
    """A law's maker. `capacity` and `concurrency`: requests per second, and in flight, of one replica at its limit."""
    if kind == "keda":
        return lambda: KedaLaw(high=options.get("high", 0.55), low=options.get("low", 0.40))
    if kind == "kpa":
        target = concurrency * options.get("share", 0.7)
        return lambda: KpaLaw(target=target, stable_seconds=options.get("stable", 60.0))
    if kind == "hpa":
        target = capacity * options.get("share", 1.0)
        behaviour = Behaviour(down_window=options.get("down", 300.0))
        return lambda: HpaLaw(target=target, behaviour=behaviour)
    raise ValueError(f"there is no law {kind}: use keda, kpa or hpa")


def run_dynamo(setting: Setting, trace: Trace, options: Mapping[str, Any], cache: Path) -> Run:
    """Dynamo's own planner, in the adapter its package brings for this simulator.

    Its throughput model starts from AIConfigurator's step times where the engine has them, as the package does; with
    the mocker's polynomial the package itself leaves that out.
    """
    from dynamo.planner.config.planner_config import PlannerConfig  # noqa: PLC0415
    from dynamo.planner.core.types import WorkerCapabilities  # noqa: PLC0415
    from dynamo.planner.offline.replay_adapter import create_replay_planner_adapter  # noqa: PLC0415
    from dynamo.replay.main import _engine_caps, _load_engine_args  # noqa: PLC0415

    logging.disable(logging.WARNING)
    config = PlannerConfig(
        mode="agg",
        environment="virtual",
        backend="mocker",
        model_name="model",
        ttft_ms=setting.ttft_ms,
        itl_ms=setting.itl_ms,
        max_gpu_budget=MOST_WORKERS,
        report_interval_hours=None,
        **options,
    )
    config.advisory = True
    arguments = _load_engine_args(setting.engine.arguments(cache, startup_seconds=setting.startup_seconds))
    adapter = create_replay_planner_adapter(
        planner_config=config, capabilities=WorkerCapabilities(decode=_engine_caps(arguments))
    )
    if setting.engine.model is not None and config.optimization_target == "sla":
        adapter.install_benchmark_fpms(agg_fpms=_benchmark(setting.engine, arguments))
    with adapter as policy:
        return simulate(setting, trace, policy, cache)


def _benchmark(engine: Engine, arguments: Any) -> list[Any]:
    from dynamo.replay.main import _generate_aic_decode_fpms, _generate_aic_prefill_fpms  # noqa: PLC0415

    session = aic_session(engine)
    return [*_generate_aic_prefill_fpms(session, arguments), *_generate_aic_decode_fpms(session, arguments)]


def fewest_for(rate: float, capacity: float) -> int:
    """Replicas that carry a rate."""
    return max(1, math.ceil(rate / capacity - 1e-9))
