"""How far a measurement is: a bar with the time left for people, a line for each step for logs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shoal.profiler.campaign import Say, make_reporter
from shoal.profiler.measure import Report
from shoal.profiler.points import Point
from shoal.profiler.specs import Settings, Spec

USUAL_SEARCH: Final = 4


def expected_seconds(settings: Settings, done: list[str]) -> float:
    """Time that is still needed, about: as many steps of each kind as usual."""
    point = settings.warm_up + settings.horizon + 4.0
    probe = 1.5 * settings.probe_seconds + 3.0
    usual = {"idle": (1, probe), "full": (1, probe), "overload": (1, point / 2 + 5), "search": (USUAL_SEARCH, point)}
    usual["share"] = (1, point)
    if settings.probes:
        usual |= {"prefill": (1, probe), "decode": (1, probe), "context": (1, probe)}
    if settings.burst:
        usual["burst"] = (1, 60.0)
    usual["repeat"] = (2 * (settings.repeats - 1), point)
    return sum(max(count - done.count(name), 0) * seconds for name, (count, seconds) in usual.items())


@contextlib.contextmanager
def reporting(settings: Settings, done: list[str], label: str) -> Iterator[Report]:
    """What `measure` reports to. A bar where standard error is a terminal, else lines on standard output."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield make_reporter(_say, label)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=1.0, left="")
        lines = make_reporter(bar.console.print, label)
        began = time.monotonic()

        def report(spec: Spec, point: Point | None, left: float) -> None:
            if point is not None:
                done.append(spec.name)
            needed = min(expected_seconds(settings, done), max(left, 0.0))
            spent = time.monotonic() - began
            text = f"about {needed / 60:.1f} min left" if needed >= 30 else "nearly done"
            bar.update(task, description=spec.key, completed=spent, total=max(spent + needed, 1.0), left=text)
            lines(spec, point, left)

        yield report


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True, file=sys.stdout)


__all__ = ["Say", "expected_seconds", "reporting"]
