"""The profiler of a ProfileRun: `python -m shoal.profiler.job PLAN` in a pod, beside the engines it measures.

PLAN is the JSON of `api.measurement.MeasurementPlan`. `GET /v1/progress` on the pod's address says how far it is; the
result becomes the container's termination message. It ends with status 0 whenever it can say what it found, also when
that is only why nothing was found; another status is a defect, and the Job tries once more.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from shoal.api.measurement import (
    PROGRESS_PATH,
    PROGRESS_PORT,
    RESULT_VARIABLE,
    Measurement,
    MeasurementPlan,
    Progress,
    pack,
)
from shoal.api.model_profile import ProfileRowSpec, RowProvenance
from shoal.profiler.clients import Clients, usual_processes
from shoal.profiler.errors import ProfilerError
from shoal.profiler.journal import Journal
from shoal.profiler.measure import Target, measure
from shoal.profiler.measured import Measured, Shape, Subject, with_kv_tokens
from shoal.profiler.points import Point
from shoal.profiler.rows import clock_under_load, make_note, make_row
from shoal.profiler.server import ServerFacts, read_facts
from shoal.profiler.skips import floor_ms, most_seen
from shoal.profiler.specs import Settings, Spec, parse_objective
from shoal.profiler.versions import host_name, tool_version
from shoal.render.words import round_figures

FULL_BUDGET: Final = 600.0  # seconds in which everything is measured as `shoal profile` does by default
PROBES_SECONDS: Final = 45.0  # of these for probes, whose length hangs on the engine and not on the budget
SMALLEST_SHARE: Final = 0.02
WIDEST_TOLERANCE: Final = 0.25


class Telling:
    """What `GET /v1/progress` answers; written by the measuring thread, read by the server's."""

    def __init__(self, budget: float) -> None:
        self._lock = threading.Lock()
        self._progress = Progress(step="asks the engines", points=0, seconds_left=budget)

    def note(self, spec: Spec, point: Point | None, left: float) -> None:
        """As `measure` reports."""
        with self._lock:
            points = self._progress.points + (point is not None)
            self._progress = Progress(step=spec.key, points=points, seconds_left=max(left, 0.0))

    def tell(self) -> Progress:
        """The newest."""
        with self._lock:
            return self._progress


def make_settings(plan: MeasurementPlan, facts: ServerFacts) -> Settings:
    """Steps as the budget allows: with ten minutes or more as `shoal profile` has them, shorter and fewer below."""
    usual = Settings(plan.lengths, parse_objective(plan.objective))
    left = (plan.budget_seconds - PROBES_SECONDS) / (FULL_BUDGET - PROBES_SECONDS)
    share = min(1.0, max(SMALLEST_SHARE, left))
    return replace(
        usual,
        batch=plan.max_num_seqs,
        chunk=plan.max_num_batched_tokens,
        engines=len(plan.urls),
        longest=min(plan.longest, facts.max_model_len or plan.longest),
        horizon=max(plan.shortest_seconds, share * usual.horizon),
        warm_up=max(1.0, share * usual.warm_up),
        probe_seconds=max(plan.shortest_seconds, share * usual.probe_seconds),
        tolerance=min(WIDEST_TOLERANCE, usual.tolerance / math.sqrt(share)),
        repeats=usual.repeats if share == 1 else 1,
        budget_seconds=plan.budget_seconds,
        most_lag_ms=plan.most_lag_ms,
    )


def measure_plan(plan: MeasurementPlan, telling: Telling, directory: Path) -> Measurement:
    """Measure; what goes wrong stands in the answer, with what was found before."""
    try:
        facts, *_ = [read_facts(url, plan.model) for url in plan.urls]
    except ProfilerError as error:
        return Measurement(problem=str(error)[:500])
    settings = make_settings(plan, facts)
    journal = Journal(directory / "points.jsonl", settings.key)
    problem = ""
    try:
        with Clients(usual_processes(())) as clients:
            target = Target(plan.urls, facts.model)
            if not measure(target, settings, journal, clients, telling.note):
                problem = f"{journal.facts.get('stopped') or 'out of budget'}: raise budgetMinutes"
    except ProfilerError as error:
        problem = str(error)
    return summarise(plan, settings, facts, journal, problem)


def summarise(
    plan: MeasurementPlan, settings: Settings, facts: ServerFacts, journal: Journal, problem: str
) -> Measurement:
    """The answer."""
    shape = Shape(
        tensor_parallel=plan.tensor_parallel,
        engines_per_gpu=plan.engines_per_gpu,
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        mps=plan.mps,
    )
    shape = with_kv_tokens(shape, facts.kv_cache_tokens, None)
    measured = Measured(
        shape,
        settings,
        tuple(journal.points),
        not problem,
        {**journal.facts, "kvCacheTokens": facts.kv_cache_tokens, "stopped": problem},
    )
    try:
        row = make_row([measured], make_subject(plan, facts)) if journal.points else None
    except ProfilerError as error:
        row, problem = None, str(error)
    note = make_note(measured) if row is not None else ""
    bracket, gpu = measured.bracket, journal.facts.get("gpu") or {}
    return Measurement(
        row=None if row is None else _rounded(_short(row)),
        points=len(journal.points),
        requests_per_second=bracket.knee if bracket is not None else None,
        idle_gap_ms=round_figures(floor) if (floor := floor_ms(journal.points)) else None,
        most_running=most_seen(journal.points, "runningMost"),
        problem=(problem if row is not None or problem else "nothing of use was measured")[:500],
        note=(note or "")[:500],
        simulated=facts.simulated,
        engine_version=facts.version,
        gpu_name=gpu.get("name"),
        driver=gpu.get("driver"),
        clock_mhz=clock_under_load(measured),
        host=host_name()[:200],
        tool_version=tool_version(),
    )


def make_subject(plan: MeasurementPlan, facts: ServerFacts) -> Subject:
    """What is measured, for the datasheet that its step times are held near."""
    return Subject(
        model=plan.subject or plan.model,
        accelerator=plan.accelerator or "unknown",
        engine_version=facts.version or "unknown",
        simulated=facts.simulated,
        parameters=plan.parameters,
    )


def _short(row: ProfileRowSpec) -> ProfileRowSpec:
    """Of the provenance only what the operator does not know: a result must fit into a termination message."""
    known = row.provenance
    if known is None:
        return row
    short = RowProvenance(date=known.date, windows=known.windows, requests=known.requests, partial=known.partial)
    return row.model_copy(update={"provenance": short})


def _rounded(row: ProfileRowSpec) -> ProfileRowSpec:
    """No more figures than were measured."""
    return ProfileRowSpec.model_validate_json(json.dumps(_round(row.to_dict())))


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_round(each) for each in value]
    return round_figures(value) if isinstance(value, float) else value


async def serve(plan: MeasurementPlan, address: str, message: Path) -> None:
    """Measure in a thread and answer meanwhile; then leave the result."""
    telling = Telling(plan.budget_seconds)

    async def get(_: web.Request) -> web.Response:
        return web.Response(text=telling.tell().model_dump_json(exclude_none=True), content_type="application/json")

    app = web.Application()
    app.router.add_get(PROGRESS_PATH, get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, PROGRESS_PORT).start()
    try:
        with tempfile.TemporaryDirectory() as directory:
            found = await asyncio.to_thread(measure_plan, plan, telling, Path(directory))
    finally:
        await runner.cleanup()
    message.write_text(pack(found, plan.message_bytes), encoding="ascii")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    (text,) = sys.argv[1:] if arguments is None else arguments
    plan = MeasurementPlan.model_validate_json(text)
    asyncio.run(serve(plan, os.environ.get("POD_IP") or "127.0.0.1", Path(os.environ[RESULT_VARIABLE])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
