"""`shoal` and `kubectl shoal`: one command, its subcommands each in a module with `register` and `run`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

# Only the module of the command that is called gets imported: some need much that others do not.
COMMANDS: Final = {
    "plan": "shoal.cli.plan",
    "simulate": "shoal.cli.simulate",
    "explain": "shoal.cli.explain",
    "top": "shoal.cli.top",
    "profile": "shoal.cli.profile",
    "import": "shoal.cli.import_",
}
EPILOG: Final = """\
Each command explains itself: shoal plan --help. Also reached as `kubectl shoal`.

  shoal plan -f examples/modelservice-shortest.yaml examples/gpupool-dra.yaml --gpus h100=8
  shoal simulate --scenario step
  shoal explain default/hello
"""
BROKEN_PIPE: Final = 141  # as a shell reports a program that wrote to a closed pipe


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code. Wrong arguments end the process with 2, as argparse does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wanted = arguments[0] if arguments else ""
    parser = make_parser([wanted] if wanted in COMMANDS else list(COMMANDS))
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    args = parser.parse_args(arguments)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return 130
    return code


def make_parser(commands: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with these commands."""
    parser = argparse.ArgumentParser(
        prog=program_name(sys.argv[0] if sys.argv else "shoal"),
        description="Serve small language models on a bounded set of GPUs: decide how, and say why.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shoal {version('shoal')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in commands:
        importlib.import_module(COMMANDS[name]).register(subparsers)
    return parser


def program_name(path: str) -> str:
    """How the program was called: `kubectl shoal` for kubectl's plug-in, else `shoal`."""
    return "kubectl shoal" if Path(path).name.startswith("kubectl") else "shoal"


if __name__ == "__main__":
    sys.exit(main())
