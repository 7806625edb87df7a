"""`shoal profile report | merge | diff`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from shoal.profiler.errors import ProfilerError
from shoal.profiler.profiles import write_manifest
from shoal.profiler.report import write_report
from shoal.profiler.tools import Difference, compare_profiles, merge_profiles, read_profile


def add_tools(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    tools = parser.add_subparsers(title="with profiles that exist", metavar="report|merge|diff")
    report = tools.add_parser("report", help="pictures and a table of profiles")
    report.add_argument("files", type=Path, nargs="+", metavar="FILE")
    report.add_argument("-o", "--output", type=Path, required=True, help="a .html, .png, .svg or .pdf")
    report.set_defaults(run=_guarded(_report))
    merge = tools.add_parser("merge", help="the rows of several profiles in one; of equal rows the last counts")
    merge.add_argument("files", type=Path, nargs="+", metavar="FILE")
    merge.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    merge.set_defaults(run=_guarded(_merge))
    diff = tools.add_parser("diff", help="what changed between two profiles; status 1 when something did")
    diff.add_argument("files", type=Path, nargs=2, metavar="FILE")
    diff.add_argument("--least", type=float, default=0.01, help="changes up to this share are left out (0.01)")
    diff.add_argument("-o", "--output", choices=("text", "json"), default="text")
    diff.set_defaults(run=_guarded(_diff))


def _report(args: argparse.Namespace) -> int:
    write_report([read_profile(path) for path in args.files], args.output)
    print(f"{args.output} written")
    return 0


def _merge(args: argparse.Namespace) -> int:
    merged = merge_profiles([(str(path), read_profile(path)) for path in args.files])
    write_manifest(args.output, merged, f"Made by shoal profile merge of {', '.join(map(str, args.files))}")
    print(f"{args.output} written: {len(merged.spec.rows)} rows")
    return 0


def _diff(args: argparse.Namespace) -> int:
    before, after = (read_profile(path) for path in args.files)
    found = compare_profiles(before, after, least=args.least)
    if args.output == "json":
        print(json.dumps([asdict(one) | {"change": one.change} for one in found]))
    elif found:
        Console().print(_table(found, args.files))
    else:
        print(f"no number differs by more than {args.least:.1%}")
    return 1 if found else 0


def _table(found: list[Difference], files: list[Path]) -> Table:
    table = Table("row", "number", str(files[0]), str(files[1]), "change", box=None)
    for one in found:
        change = "" if one.change is None else f"{one.change:+.1%}"
        numbers = ("-" if value is None else f"{value:.4g}" for value in (one.before, one.after))
        table.add_row(one.row, one.field, *numbers, change)
    return table


def _guarded(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except ProfilerError as error:
            print(f"shoal profile: {error}", file=sys.stderr)
            return 2

    return run
