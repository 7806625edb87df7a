"""`python -m bench.capacity [--quick]`: errors of predicted capacity and latency. Writes results/capacity.json."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain

from bench.capacity.errors import Errors
from bench.capacity.holdout import hold_out
from bench.capacity.measured import from_means, leave_one_out
from bench.capacity.simulated import compare
from bench.machine import read_machine
from bench.report import RESULTS

OUT = RESULTS / "capacity.json"


def main() -> int:
    """Every comparison; a table in Markdown, and the result file."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny simulated part; writes nothing")
    options = parser.parse_args()
    found = list(find_errors(quick=options.quick))
    sys.stdout.write("| what | model | cases | mean | rms | worst | where |\n|---|---|---|---|---|---|---|\n")
    for errors in found:
        sys.stdout.write(f"{render(errors)}\n")
    if not options.quick:
        head = {"benchmark": "capacity", "command": "python -m bench.capacity", "machine": read_machine().to_dict()}
        lines = ",\n".join(f"  {json.dumps(errors.to_dict())}" for errors in found)
        OUT.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "errors": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    return 0


def find_errors(*, quick: bool = False) -> Iterator[Errors]:
    """Real runs first, the simulated engine last."""
    return chain(hold_out(), leave_one_out(), from_means(), compare(quick=quick))


def render(errors: Errors) -> str:
    """One line of the table."""
    return (
        f"| {errors.kind} | {errors.model} | {len(errors.pairs)} | {errors.mean:+.1%} | {errors.rms:.1%} | "
        f"{errors.worst.error:+.1%} | {errors.worst.case} |"
    )


if __name__ == "__main__":
    sys.exit(main())
