"""`python -m bench.sim_validation [-o json]`: validates the simulator; writes results and tables of docs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import read_commit, read_machine
from bench.sim_validation import closed_loop, open_loop, queueing, speed
from bench.sim_validation.page import make_tables, write_page

OUT = Path(__file__).parent / "results" / "sim-validation.json"


def measure(*, quick: bool) -> dict[str, Any]:
    """Everything; `quick`: so little of it that the figures mean nothing."""
    facts = {
        "command": shlex.join(["python", "-m", "bench.sim_validation", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": read_commit(),
        "machine": read_machine().to_dict(),
    }
    parts = {}
    for name, validate, few in (
        ("speed", speed.validate, 1),
        ("queueing", queueing.validate, 2000),
        ("closedLoop", closed_loop.validate, 200),
        ("openLoop", open_loop.validate, 8),
    ):
        sys.stderr.write(f"{name} ...\n")
        parts[name] = validate(few) if quick else validate()
    return facts | parts


def main() -> int:
    """Status 0: measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.sim_validation", description=__doc__)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--quick", action="store_true", help="to see that it works: nothing is written")
    options = parser.parse_args()
    result = measure(quick=options.quick)
    if not options.quick:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(result, indent=1) + "\n")
        write_page(result)
    sys.stdout.write((json.dumps(result, indent=1) if options.output == "json" else make_tables(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
