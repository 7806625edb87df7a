"""`shoal profile`: measures a server and writes a ModelProfile."""

from __future__ import annotations

import argparse

from shoal.profiler.command import add_arguments


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("profile", help="measure a server and write a ModelProfile", description=__doc__)
    add_arguments(parser)
