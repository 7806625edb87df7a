"""What a process costs: CPU and memory, from /proc."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """A process at one instant.

    `at`: seconds of a steady clock; `cpu_seconds`: user and system so far; resident bytes now and at most so far.
    """

    at: float
    cpu_seconds: float
    resident_bytes: int
    peak_bytes: int


def read_usage(pid: int) -> Usage:
    """Read /proc/PID/stat and status. Raises ProcessLookupError when the process has ended."""
    try:
        # "pid (name) state ...": the name may hold blanks and brackets, hence the last one.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    memory = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Vm")}
    if "VmRSS" not in memory:
        raise ProcessLookupError(f"process {pid} has ended")
    cpu = (int(stat[11]) + int(stat[12])) / _TICKS
    return Usage(time.monotonic(), cpu, int(memory["VmRSS"]) * 1024, int(memory["VmHWM"]) * 1024)


def compute_cpu_share(before: Usage, after: Usage) -> float:
    """Share of one core between two readings: 1.0 is a whole core."""
    return (after.cpu_seconds - before.cpu_seconds) / (after.at - before.at)
