"""Where tables are printed."""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.console import Console

WIDE: Final = 160  # characters of a line in a file or a pipe


def make_console() -> Console:
    """As wide as the terminal; in a file or a pipe wide enough that no table is broken."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console() if known else Console(width=WIDE)
