"""Where tables are printed."""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.console import Console

WIDE: Final = 160  # characters of a line in a file or a pipe


def make_console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; in a file or a pipe wide enough that no table is broken."""
    stream = sys.stderr if stderr else sys.stdout
    known = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr) if known else Console(stderr=stderr, width=WIDE)
