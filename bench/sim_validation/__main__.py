"""`python -m bench.sim_validation [-o json]`: validates the simulator; writes results and tables of docs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import read_commit, read_machine
from bench.sim_validation import closed_loop, open_loop, queueing, speed
from bench.sim_validation.page import make_tables, write_page

OUT = Path(__file__).parent / "results" / "sim-validation.json"
PARTS: dict[str, tuple[Callable[..., Any], int]] = {  # what it measures, and how little of it with --quick
    "speed": (speed.validate, 1),
    "queueing": (queueing.validate, 2000),
    "closedLoop": (closed_loop.validate, 200),
    "openLoop": (open_loop.validate, 8),
}


def measure(names: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """Some of the parts; `quick`: so little of them that the figures mean nothing."""
    facts = {
        "command": shlex.join(["python", "-m", "bench.sim_validation", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": read_commit(),
        "machine": read_machine().to_dict(),
    }
    parts: dict[str, Any] = {}
    for name in names:
        sys.stderr.write(f"{name} ...\n")
        validate, few = PARTS[name]
        parts[name] = {"facts": facts, "found": validate(few) if quick else validate()}
    return parts


def main() -> int:
    """Status 0: measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.sim_validation", description=__doc__)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--quick", action="store_true", help="to see that it works: nothing is written")
    parser.add_argument("--only", choices=tuple(PARTS), nargs="+", help="these parts; the others stay as they were")
    options = parser.parse_args()
    result = measure(options.only or tuple(PARTS), quick=options.quick)
    if not options.quick:
        before = json.loads(OUT.read_text()) if OUT.exists() else {}
        result = {name: (before | result)[name] for name in PARTS if name in before | result}
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(result, indent=1) + "\n")
        write_page(result)
    sys.stdout.write((json.dumps(result, indent=1) if options.output == "json" else make_tables(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
