"""`python -m bench.law [--quick]`: the law of decisions in time on fluid fleets. Simulated. Writes results/law.json."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.law.scenarios import Row, read_scenarios, run_all
from bench.machine import read_machine
from bench.report import RESULTS

OUT = RESULTS / "law.json"


def main() -> int:
    """Run everything that scenarios.json fixes; print a table, write the rows."""
    parser = argparse.ArgumentParser(prog="python -m bench.law", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed and the first cases; writes nothing")
    options = parser.parse_args()
    started = time.monotonic()
    rows = list(run_all(read_scenarios(), quick=options.quick))
    summary = summarise(rows)
    for line in summary:
        sys.stdout.write(f"{json.dumps(line)}\n")
    if not options.quick:
        OUT.write_text(render(summary, rows, time.monotonic() - started), encoding="utf-8")
    return 0


def render(summary: Sequence[dict[str, Any]], rows: Sequence[Row], seconds: float) -> str:
    """The result file: one row a line."""
    head = {
        "benchmark": "law",
        "simulated": "fluid fleet, arrivals per tick; decisions by the product's decide()",
        "command": "python -m bench.law",
        "machine": read_machine().to_dict(),
        "seconds": round(seconds),
        "summary": list(summary),
    }
    lines = ",\n".join(f"  {json.dumps(row.to_dict())}" for row in rows)
    return f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{lines}\n ]\n}}\n'


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line for each kind of run."""
    lines: list[dict[str, Any]] = []
    for start in ("sized", "one replica"):
        own = [row for row in rows if row.scenario == "constant" and row.case.endswith(start)]
        if own:
            lines.append({"scenario": f"constant, {start}", **_constant(own)})
    for scenario in ("step", "diurnal"):
        for case in dict.fromkeys(row.case for row in rows if row.scenario == scenario):
            own = [row for row in rows if row.scenario == scenario and row.case == case]
            lines.append({"scenario": f"{scenario}, {case}", **_compared(own, by_hours=scenario == "diurnal")})
    return lines


def _constant(rows: Sequence[Row]) -> dict[str, Any]:
    count = len(rows)
    return {
        "runs": count,
        "atMostOneMove": round(sum(row.moves <= 1 for row in rows) / count, 4),
        "mostMoves": max(row.moves for row in rows),
        "finalWithinOne": round(sum(abs(row.final - row.needed) <= 1 for row in rows) / count, 4),
        "attainmentOf99": round(sum(row.attainment >= 0.99 for row in rows) / count, 4),
        "meanAttainment": round(sum(row.attainment for row in rows) / count, 5),
        "worstAttainment": round(min(row.attainment for row in rows), 5),
    }


def _compared(rows: Sequence[Row], *, by_hours: bool) -> dict[str, Any]:
    ratios = [(row.gpu_hours if by_hours else row.attainment) / row.bound for row in rows]
    return {
        "runs": len(rows),
        "gpuHours": round(sum(row.gpu_hours for row in rows) / len(rows), 3),
        "attainment": round(sum(row.attainment for row in rows) / len(rows), 5),
        "moves": [min(row.moves for row in rows), max(row.moves for row in rows)],
        "gpuHoursOverClairvoyant" if by_hours else "attainmentOverCeiling": [
            round(min(ratios), 4),
            round(max(ratios), 4),
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
