"""What is measured in which phase. A stage starts all of its engines at once, then loads them one after the other.

KV sizes are explicit, as engines that start together on one GPU would otherwise mis-size their caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

GIB: Final = 1 << 30
CHAT: Final = "gamma:512,128"
LONG_PROMPTS: Final = "gamma:1024,96"
LONG_ANSWERS: Final = "gamma:256,320"
MIDDLE: Final = "gamma:768,192"
PROMPTS_ALONE: Final = "gamma:1500,64"


@dataclass(frozen=True, slots=True)
class Engine:
    """One vLLM server. `model` is a directory's name; `kv_gib` of one GPU."""

    name: str
    model: str
    kv_gib: float
    gpus: tuple[int, ...]
    seqs: int = 256
    chunk: int = 2048


class Task(StrEnum):
    """What a job does."""

    PROFILE = "profile"  # everything a profile needs
    MIX = "mix"  # saturation and knee at another length mix, for predictions to be held against
    KNEE = "knee"  # saturation and knee alone, with long windows
    SWEEP = "sweep"  # long windows at fixed shares of the knee that another job found
    CLOCK = "clock"  # the same prompt again and again, with pauses: how a step's time follows the clock


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: load over some engines of the stage. `budget` and `horizon` (of a window) in seconds.

    `after`: the job whose saturation (MIX) or knee (SWEEP) it begins from; `known`: that saturation at the mix CHAT, in
    requests/s, where it was measured in another session.
    """

    name: str
    engines: tuple[str, ...]
    budget: float
    lengths: str = CHAT
    probes: bool = True
    burst: bool = False
    after: str | None = None
    known: float | None = None
    task: Task = Task.PROFILE
    horizon: float = 12.0
    warm_up: float = 3.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Engines that start together, and the jobs that load them, one after the other."""

    engines: tuple[Engine, ...]
    jobs: tuple[Job, ...]
    mps: bool = False


Lane = tuple[Stage, ...]
"""Stages of the same GPUs, one after the other. Lanes run beside each other, each on cores of its own."""


def _with_mixes(engine: str, budget: float, mix_budget: float) -> tuple[Job, ...]:
    """The profile's mix first, then two others that its prediction is held against."""
    return (
        Job(engine, (engine,), budget),
        Job(f"{engine}-long-prompts", (engine,), mix_budget, LONG_PROMPTS, after=engine, task=Task.MIX),
        Job(f"{engine}-long-answers", (engine,), mix_budget, LONG_ANSWERS, after=engine, task=Task.MIX),
    )


def _new_mixes(engine: str, *, known: float | None = None) -> tuple[Job, ...]:
    """Two mixes for which predictions were written down before."""
    after = None if known else engine
    return tuple(
        Job(f"{engine}-{name}", (engine,), 54, lengths, after=after, known=known, task=Task.MIX)
        for name, lengths in (("middle", MIDDLE), ("prompts-alone", PROMPTS_ALONE))
    )


def _knee_and_sweep(engine: str) -> tuple[Job, ...]:
    """The knee of a 60 s horizon by search, then the rates around it one by one."""
    knee = f"{engine}-knee"
    return (
        Job(knee, (engine,), 300, probes=False, task=Task.KNEE, horizon=60.0, warm_up=10.0),
        Job(f"{engine}-sweep", (engine,), 290, after=knee, task=Task.SWEEP, horizon=60.0, warm_up=10.0),
    )


def _clock(engine: str) -> Job:
    return Job(f"{engine}-clock", (engine,), 45, task=Task.CLOCK)


def _sharing(*, mps: bool) -> Stage:
    """125M on two and four engines, 1.3B on two, all on GPU 0."""
    tag = "mps" if mps else "shared"
    small = tuple(Engine(f"opt-125m-{tag}-{n}", "opt-125m", 6, (0,)) for n in range(4))
    larger = tuple(Engine(f"opt-1.3b-{tag}-{n}", "opt-1.3b", 14, (0,)) for n in range(2))
    names = tuple(engine.name for engine in small)
    return Stage(
        (*small, *larger),
        (
            Job(f"opt-125m-{tag}-k4", names, 50, probes=False),
            Job(f"opt-1.3b-{tag}-k2", tuple(engine.name for engine in larger), 50, probes=False),
            Job(f"opt-125m-{tag}-k2", names[:2], 50, probes=False),
        ),
        mps=mps,
    )


PHASES: Final[Mapping[str, tuple[Lane, ...]]] = {
    "single": (
        (
            Stage(
                (
                    Engine("opt-125m", "opt-125m", 8, (0,)),
                    Engine("qwen2.5-0.5b", "qwen2.5-0.5b", 8, (0,)),
                    Engine("qwen2.5-1.5b", "qwen2.5-1.5b", 10, (0,)),
                    Engine("opt-1.3b", "opt-1.3b", 26, (0,)),
                ),
                (
                    Job("qwen2.5-1.5b", ("qwen2.5-1.5b",), 115),
                    Job("opt-1.3b", ("opt-1.3b",), 115, burst=True),
                    Job("opt-125m", ("opt-125m",), 115),
                    Job("qwen2.5-0.5b", ("qwen2.5-0.5b",), 80),
                ),
            ),
        ),
        (
            Stage(
                (Engine("qwen2.5-7b", "qwen2.5-7b", 12, (1,)), Engine("opt-6.7b", "opt-6.7b", 28, (1,))),
                (*_with_mixes("qwen2.5-7b", 115, 50), *_with_mixes("opt-6.7b", 115, 50)),
            ),
        ),
    ),
    "sharing": (
        (_sharing(mps=False), _sharing(mps=True)),
        (
            Stage((Engine("opt-13b", "opt-13b", 40, (1,)),), (Job("opt-13b", ("opt-13b",), 115),)),
            # 8 GiB of KV is what a 40 GB GPU has left beside the weights.
            Stage(
                (
                    Engine("opt-13b-starved", "opt-13b", 8, (1,)),
                    Engine("qwen2.5-7b-chunk8192", "qwen2.5-7b", 12, (1,), chunk=8192),
                ),
                (
                    Job("opt-13b-starved", ("opt-13b-starved",), 70, probes=False),
                    Job("qwen2.5-7b-chunk8192", ("qwen2.5-7b-chunk8192",), 95),
                ),
            ),
        ),
    ),
    # KV per GPU: 21 GiB is what a 40 GB GPU has left beside half of the 13B weights, 55 GiB what an 80 GB one has.
    "tp2": (
        (
            Stage(
                (Engine("opt-13b-tp2-starved", "opt-13b", 21, (0, 1)),),
                (Job("opt-13b-tp2-starved", ("opt-13b-tp2-starved",), 80, probes=False),),
            ),
            Stage(
                (Engine("opt-13b-tp2", "opt-13b", 55, (0, 1)),),
                (Job("opt-13b-tp2", ("opt-13b-tp2",), 95),),
            ),
        ),
    ),
    # A second look: other mixes, the knee against a sweep, the clock, and the first session's jobs again.
    "again": (
        (
            Stage(
                (
                    Engine("opt-125m", "opt-125m", 8, (0,)),
                    Engine("qwen2.5-0.5b", "qwen2.5-0.5b", 8, (0,)),
                    Engine("qwen2.5-1.5b", "qwen2.5-1.5b", 10, (0,)),
                    Engine("opt-1.3b", "opt-1.3b", 26, (0,)),
                ),
                (
                    Job("qwen2.5-1.5b", ("qwen2.5-1.5b",), 100),
                    *_new_mixes("qwen2.5-1.5b"),
                    Job("opt-1.3b", ("opt-1.3b",), 110, burst=True),
                    *_new_mixes("opt-1.3b"),
                    Job("qwen2.5-0.5b", ("qwen2.5-0.5b",), 80),
                ),
            ),
            Stage(
                (Engine("opt-13b", "opt-13b", 40, (0,)),),
                (Job("opt-13b", ("opt-13b",), 75), *_new_mixes("opt-13b"), _clock("opt-13b")),
            ),
            _sharing(mps=False),
        ),
        (
            Stage(
                (Engine("qwen2.5-7b", "qwen2.5-7b", 12, (1,)), Engine("opt-6.7b", "opt-6.7b", 28, (1,))),
                (
                    Job("qwen2.5-7b", ("qwen2.5-7b",), 115),
                    *_new_mixes("qwen2.5-7b"),
                    _clock("qwen2.5-7b"),
                    *_knee_and_sweep("qwen2.5-7b"),
                    *_new_mixes("opt-6.7b", known=34.9),
                ),
            ),
        ),
    ),
    "tp2-80": (
        (
            Stage(
                (Engine("opt-13b-tp2", "opt-13b", 55, (0, 1)),),
                (Job("opt-13b-tp2", ("opt-13b-tp2",), 130, probes=False),),
            ),
        ),
    ),
}
