"""Which program measured, and on what host."""

from __future__ import annotations

import functools
import os
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[3]


@functools.cache
def tool_version() -> str:
    """Shoal's version, from a checkout with the commit: `0.1.0+4096c9e`; `unknown` where nothing tells."""
    try:
        found = version("shoal")
    except PackageNotFoundError:
        found = _version_of_checkout()
    commit = _commit()
    return f"{found}+{commit}" if commit else found


def _version_of_checkout() -> str:
    try:
        return str(tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        return "unknown"


def _commit() -> str:
    """Short hash of the commit; empty without one."""
    if not (CHECKOUT / ".git").exists():
        return ""
    command = ["git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def host_name() -> str:
    """The processor, and how many cores of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} CPUs{f', {names[0]}' if names else ''}, shared by server and clients"
