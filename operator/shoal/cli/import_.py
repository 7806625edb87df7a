"""`shoal import`: profiles from measurements that others published."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from shoal.sim.mem_gap import import_runs


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("import", help="make ModelProfiles from published measurements", description=__doc__)
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    mem_gap = formats.add_parser("mem-gap", help='runs of "Mind the Memory Gap" (arXiv:2503.08311) as JSON')
    mem_gap.add_argument("file", type=Path, metavar="FILE", help="the runs")
    mem_gap.add_argument("-d", "--directory", type=Path, default=Path(), help="where to write (here)")
    mem_gap.add_argument("-o", "--output", choices=("text", "json"), default="text")
    mem_gap.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the files and name them. Status 1: the input cannot be used."""
    try:
        written = import_runs(arguments.file, arguments.directory)
    except (OSError, ValueError) as error:
        print(f"shoal import: {error}", file=sys.stderr)
        return 1
    names = [str(path) for path in written]
    print(json.dumps({"written": names}) if arguments.output == "json" else "\n".join(names))
    return 0
