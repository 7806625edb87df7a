"""Where a devcluster keeps its files, and what is written there about it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class State:
    """What others need to know of a running devcluster (`state.json` in its directory)."""

    name: str
    pid: int
    slot: int
    server: str
    kubeconfig: str
    agent: bool


def state_root() -> Path:
    """Directory of the clusters started by `up`, one folder each."""
    root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "shoal" / "devcluster"


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that readers see either the old or the new text."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as new:
        json.dump(value, new)
    Path(new.name).replace(path)


def read_json(path: Path) -> Any:
    """Return the decoded file, or None if there is none (yet)."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_state(directory: Path, state: State) -> None:
    """Say that the cluster serves."""
    write_json(directory / "state.json", asdict(state))


def read_state(directory: Path) -> State | None:
    """Return the state of the cluster in `directory`, or None when none runs there."""
    fields = read_json(directory / "state.json")
    if fields is None or not is_alive(fields["pid"]):
        return None
    return State(**fields)


def is_alive(pid: int) -> bool:
    """True while a process of this id runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in b"ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
