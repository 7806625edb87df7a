"""Where and from what a figure was measured: without it a number says little."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
WRITTEN = (":(exclude)bench/results", ":(exclude)bench/headtohead/results")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine. `load` is its one-minute load average just before the measurement: whose other work disturbed it."""

    cpu: str
    cores: int
    memoryGiB: float  # noqa: N815 - the name in the result file
    kernel: str
    python: str
    load: float

    def to_dict(self) -> dict[str, Any]:
        """What stands in a result file."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.memoryGiB:.0f} GiB, Linux {self.kernel}, Python {self.python}, "
            f"load {self.load:.2f} at the start"
        )


def read_machine() -> Machine:
    """Describe this machine from /proc."""
    return Machine(
        cpu=_read_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memoryGiB=round(int((_read_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 2**20, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        load=os.getloadavg()[0],
    )


def read_commit() -> str:
    """The checkout's commit, with `+changes` when files differ from it; `unknown` outside of git."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    # Results are written by the benchmarks themselves: they do not change what was measured.
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN)
    return f"{commit}+changes" if changed else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _read_field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
