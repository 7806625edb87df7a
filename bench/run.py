"""What a benchmark is to the command line."""

from __future__ import annotations

import datetime
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import read_commit, read_machine
from bench.report import Result
from bench.spread import Figure

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark returns: its figures, what they depend on, and what a reader must know to judge them."""

    figures: tuple[Figure, ...]
    setting: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark by name. `measure` gets a directory for its cluster's files, and where to tell its progress."""

    name: str
    title: str
    measure: Callable[[Path, Say], Measured]


def execute(benchmark: Benchmark, command: str) -> Result:
    """Run it and say on which machine, when and from what it was measured. Raises what the benchmark raises."""
    machine = read_machine()
    began = datetime.datetime.now(datetime.UTC)
    with tempfile.TemporaryDirectory(prefix=f"shoal-bench-{benchmark.name}-") as directory:
        measured = benchmark.measure(Path(directory), make_progress(benchmark.name))
    return Result(
        name=benchmark.name,
        title=benchmark.title,
        machine=machine,
        command=command,
        date=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=read_commit(),
        setting=dict(measured.setting),
        figures=measured.figures,
        notes=measured.notes,
    )


def make_progress(name: str) -> Say:
    """Tell progress on standard error, with the seconds since the beginning."""
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"{name} {time.monotonic() - began:6.1f} s  {text}\n")
        sys.stderr.flush()

    return say
