"""Requests as they were recorded: JSON lines as Mooncake publishes them, CSV as the Azure LLM inference traces.

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [...]}       milliseconds, tokens
    TIMESTAMP,ContextTokens,GeneratedTokens
    2023-11-16 18:15:46.6805900,374,44

Instants count from the first request. Other fields are ignored.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shoal.sim.traffic import Arrival

JSON_FIELDS = ("timestamp", "input_length", "output_length")
CSV_FIELDS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOST_TOKENS = 10_000_000  # a longer prompt is an error of the file


class TraceError(ValueError):
    """The file cannot be replayed; the message names the line, what is wrong with it and what to do."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded requests in order of time.

    `speed` 2: twice as fast. `seconds`: only so much of the recording (None: all of it).
    """

    name: str
    recorded: tuple[Arrival, ...]
    speed: float = 1.0
    most_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """How long requests arrive, when replayed."""
        last = self.recorded[-1].at
        return (last if self.most_seconds is None else min(last, self.most_seconds)) / self.speed

    def arrivals(self, longest: int) -> Iterator[Arrival]:
        """Every request, cut to the longest context (prompt and answer together)."""
        for request in self.recorded:
            if self.most_seconds is not None and request.at > self.most_seconds:
                return
            prompt = min(request.prompt_tokens, longest - 1)
            yield Arrival(request.at / self.speed, prompt, min(request.output_tokens, longest - prompt))

    def cut(self, longest: int) -> int:
        """How many requests do not fit into the longest context and are shortened."""
        return sum(request.prompt_tokens + request.output_tokens > longest for request in self.recorded)


def read_trace(path: Path, *, speed: float = 1.0, most_seconds: float | None = None) -> Trace:
    """Read a `.csv` file as Azure's, any other as JSON lines. Raises TraceError, and OSError."""
    if not speed > 0:
        raise TraceError(f"{path}: a speed of {speed} plays nothing: give a positive number")
    read = _read_csv if path.suffix.lower() == ".csv" else _read_json_lines
    try:
        found = list(read(path))
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a text file: {error}; unpack it first if it is compressed") from error
    if not found:
        raise TraceError(f"{path}: no request in it: expected JSON lines ({', '.join(JSON_FIELDS)}) or a CSV file "
                         f"with the columns {', '.join(CSV_FIELDS)}")  # fmt: skip
    first = min(at for at, _, _ in found)
    requests = sorted((Arrival(at - first, prompt, output) for at, prompt, output in found), key=lambda a: a.at)
    return Trace(path.name, tuple(requests), speed, most_seconds)


def _read_json_lines(path: Path) -> Iterator[tuple[float, int, int]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                item = json.loads(line)
            except ValueError as error:
                raise TraceError(f"{where}: not JSON: {error}; one object a line is expected") from error
            if not isinstance(item, dict) or (missing := [f for f in JSON_FIELDS if f not in item]):
                lacks = f"{', '.join(missing)} missing" if isinstance(item, dict) else "not an object"
                raise TraceError(f"{where}: {lacks}; needed are {', '.join(JSON_FIELDS)}")
            at = _number(item["timestamp"], f"{where}: timestamp", "milliseconds") / 1000
            yield at, *(_tokens(item[field], f"{where}: {field}") for field in JSON_FIELDS[1:])  # type: ignore[misc]


def _read_csv(path: Path) -> Iterator[tuple[float, int, int]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        if missing := [field for field in CSV_FIELDS if field not in (rows.fieldnames or ())]:
            raise TraceError(f"{path}:1: column {', '.join(missing)} missing; the first line names the columns "
                             f"{','.join(CSV_FIELDS)}")  # fmt: skip
        for row in rows:
            where = f"{path}:{rows.line_num}"
            at = _instant(row["TIMESTAMP"], f"{where}: TIMESTAMP")
            yield at, *(_tokens(row[field], f"{where}: {field}") for field in CSV_FIELDS[1:])  # type: ignore[misc]


def _instant(given: str | None, where: str) -> float:
    """A date and time, in UTC unless it says otherwise, as seconds."""
    try:
        instant = datetime.fromisoformat((given or "").strip())
    except ValueError as error:
        raise TraceError(f"{where}: {given!r} is no date and time; write it as 2023-11-16 18:15:46.68") from error
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _tokens(given: Any, where: str) -> int:
    value = _number(given, where, "tokens")
    if value != int(value):
        raise TraceError(f"{where}: {given!r} is not a whole number of tokens")
    return max(1, int(value))  # recorded answers without a token still took a step


def _number(given: Any, where: str, unit: str) -> float:
    try:
        value = float(given) if not isinstance(given, bool) else None
    except (TypeError, ValueError):
        value = None
    if value is None or not 0 <= value < (MOST_TOKENS if unit == "tokens" else float("inf")):
        raise TraceError(f"{where}: {given!r} is no number of {unit}: remove the line or write one of at least 0")
    return value
