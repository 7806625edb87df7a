"""One run of Dynamo's offline simulator under a scaling policy: what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.headtohead.engines import Engine
from bench.headtohead.traffic import Trace, write_trace

Floats = NDArray[np.float64]


class ScalingPolicy(Protocol):
    """What the simulator calls: absolute numbers of workers, at instants that the policy names itself."""

    def initial_tick_ms(self) -> float:
        """The first instant."""
        ...

    def on_tick(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """What to have from now on, and when to be called again."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What does not depend on the policy."""

    engine: Engine
    startup_seconds: float
    ttft_ms: float
    itl_ms: float
    workers: int = 1  # that serve at the beginning
    router: str = "round_robin"


@dataclass(frozen=True, slots=True)
class Records:
    """Every request: when its first and last token came (ms), and its latencies (ms)."""

    arrived: Floats
    first: Floats
    last: Floats
    ttft: Floats
    itl: Floats  # mean gap between its tokens


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one run. `moves`: (seconds, workers wanted before, after)."""

    requests: int
    met: int
    gpu_hours: float
    moves: tuple[tuple[float, int, int], ...]
    final: int
    latencies: Mapping[str, float]
    records: Records | None = None
    ticks: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def attainment(self) -> float:
        """Share of the requests within both objectives."""
        return self.met / self.requests if self.requests else 1.0

    def to_dict(self) -> dict[str, Any]:
        """What stands in a result file."""
        return {
            "requests": self.requests,
            "met": self.met,
            "attainment": round(self.attainment, 6),
            "gpuHours": round(self.gpu_hours, 6),
            "moves": [[round(at, 1), before, after] for at, before, after in self.moves],
            "final": self.final,
            **{name: round(value, 2) for name, value in self.latencies.items()},
        }


class Watched:
    """Passes ticks on to a policy, and notes what was asked. After `until_ms` the policy is no longer asked."""

    def __init__(self, policy: ScalingPolicy, workers: int, until_ms: float, *, keep: bool) -> None:
        self._policy, self._until, self._keep = policy, until_ms, keep
        self.wanted = workers
        self.moves: list[tuple[float, int, int]] = []
        self.ticks: list[dict[str, Any]] = []

    def initial_tick_ms(self) -> float:
        """As the policy says."""
        return float(self._policy.initial_tick_ms())

    def on_tick(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """Ask the policy, and note a change."""
        now = float(snapshot["now_ms"])
        if now > self._until:
            return {"target_prefill": None, "target_decode": None, "next_tick_ms": None}
        if self._keep:
            self.ticks.append(snapshot)
        answer = self._policy.on_tick(snapshot)
        target = answer["target_decode"]
        if target is not None and target != self.wanted:
            self.moves.append((now / 1000, self.wanted, int(target)))
            self.wanted = int(target)
        return answer


def simulate(
    setting: Setting,
    trace: Trace,
    policy: ScalingPolicy,
    cache: Path,
    *,
    records: bool = False,
    until_seconds: float | None = None,
) -> Run:
    """Replay a trace. GPU time is the simulator's own: starting and draining workers hold their GPU.

    `records`: keep every request and tick. `until_seconds`: stop there; its totals are then of no use.
    """
    from dynamo import _core  # noqa: PLC0415 - only in the environment of the peers
    from dynamo.replay.main import _load_engine_args  # noqa: PLC0415

    watched = Watched(policy, setting.workers, trace.seconds * 1000, keep=records)
    path = _trace_file(trace, cache)
    with tempfile.TemporaryDirectory(prefix="shoal-h2h-") as directory:
        answers = Path(directory) / "answers.jsonl"
        report = _core.run_mocker_trace_replay(
            [str(path)],
            extra_engine_args=_load_engine_args(
                setting.engine.arguments(cache, startup_seconds=setting.startup_seconds)
            ),
            num_workers=setting.workers,
            router_mode=setting.router,
            sla_ttft_ms=setting.ttft_ms,
            sla_itl_ms=setting.itl_ms,
            scaling_policy=watched,
            report_jsonl_path=str(answers) if records else None,
            max_sim_time_ms=None if until_seconds is None else until_seconds * 1000,
        )
        found = _read_records(answers) if records else None
    return Run(
        requests=int(report["num_requests"]),
        met=int(report["goodput_completed_requests"]),
        gpu_hours=float(report["gpu_hours"]) * setting.engine.tensor_parallel,
        moves=tuple(watched.moves),
        final=watched.wanted,
        latencies={
            "meanTtftMs": report["mean_ttft_ms"],
            "p50TtftMs": report["median_ttft_ms"],
            "p90TtftMs": report["p90_ttft_ms"],
            "p95TtftMs": report["p95_ttft_ms"],
            "p99TtftMs": report["p99_ttft_ms"],
            "meanItlMs": report["mean_tpot_ms"],
            "p50ItlMs": report["median_tpot_ms"],
            "p90ItlMs": report["p90_tpot_ms"],
            "p95ItlMs": report["p95_tpot_ms"],
            "p99ItlMs": report["p99_tpot_ms"],
            "meanE2eMs": report["mean_e2e_latency_ms"],
            "throughput": report["request_throughput_rps"],
        },
        records=found,
        ticks=tuple(watched.ticks),
    )


def _trace_file(trace: Trace, cache: Path) -> Path:
    """The trace as a file, written once."""
    digest = hashlib.sha256(trace.at_ms.tobytes() + trace.prompts.tobytes() + trace.answers.tobytes()).hexdigest()
    path = cache / "traces" / f"{digest[:24]}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        write_trace(trace, unfinished)
        unfinished.replace(path)
    return path


def _read_records(path: Path) -> Records:
    """Requests that were answered."""
    rows = []
    with path.open() as file:
        for line in file:
            row = json.loads(line)
            if row["last_token_ms"] is None or row["terminal_status"] != "completed":
                continue
            gaps = max(row["output_length"] - 1, 1)
            rows.append(
                (
                    row["arrival_time_ms"],
                    row["first_token_ms"],
                    row["last_token_ms"],
                    row["ttft_ms"],
                    (row["e2e_latency_ms"] - row["ttft_ms"]) / gaps,
                )
            )
    columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    return Records(*(np.asarray(column) for column in columns))
