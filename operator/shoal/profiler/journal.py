"""Results as they come: JSON lines, so that an interrupted measurement goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.profiler.errors import ProfilerError
from shoal.profiler.points import Point

FORMAT = 1


class Journal:
    """One configuration's file. The first line is the settings, then a line for each point or note."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Read what is there. Raises ProfilerError when it belongs to other settings."""
        self.path = path
        self.points: list[Point] = []
        self.facts: dict[str, Any] = {}
        self._settings = json.loads(json.dumps(settings))
        if path.exists():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write({"type": "settings", "format": FORMAT, "settings": self._settings})

    @property
    def spent_seconds(self) -> float:
        """Time that all points took."""
        return sum(point.took for point in self.points)

    def add(self, point: Point) -> None:
        """Keep a point."""
        self.points.append(point)
        self._write({"type": "point", "point": point.to_json()})

    def note(self, **facts: Any) -> None:
        """Keep facts about the server, the GPUs or what happened; later ones replace earlier ones."""
        self.facts.update(facts)
        self._write({"type": "facts", "facts": facts})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _read(self) -> None:
        lines = self.path.read_text(encoding="utf-8").split("\n")
        if lines[-1]:  # cut off in the middle of a line
            self.path.write_text("\n".join(lines[:-1]) + "\n" if len(lines) > 1 else "", encoding="utf-8")
        settings: Any = None
        for number, line in enumerate(lines[:-1], start=1):
            try:
                item = json.loads(line)
                kind = item["type"]
                if kind == "settings":
                    settings = item["settings"]
                elif kind == "point":
                    self.points.append(Point.from_json(item["point"]))
                elif kind == "facts":
                    self.facts.update(item["facts"])
            except (ValueError, KeyError, TypeError) as error:
                raise ProfilerError(f"{self.path}, line {number}: not a profiler's journal ({error!r})") from error
        if settings is None:
            self._write({"type": "settings", "format": FORMAT, "settings": self._settings})
        elif settings != self._settings:
            names = sorted(
                k for k in settings.keys() | self._settings.keys() if settings.get(k) != self._settings.get(k)
            )
            raise ProfilerError(
                f"{self.path} belongs to other settings ({', '.join(names)} differ): continue it with the same "
                "command, name another output, or remove the file"
            )


def read_journal(path: Path) -> Journal:
    """A journal as it is, whatever its settings. Raises ProfilerError and OSError."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    try:
        settings = json.loads(first)["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProfilerError(f"{path}: not a profiler's journal") from error
    return Journal(path, settings)
