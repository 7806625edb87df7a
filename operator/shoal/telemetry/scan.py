"""Reads the few wanted samples out of a page in Prometheus' text format.

A page of vLLM has some 500 lines, of which 60 matter, and an operator may read a thousand pages every five seconds: so
lines are chosen by their name before anything else of them is looked at (a general parser takes many times as long,
see tests/telemetry/test_scan.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator

Sample = tuple[bytes, bytes, float | None]
"""Name, text between the braces, value. None: a value that is not a finite number, which is missing and never zero."""


def scan(page: bytes, wanted: Container[bytes]) -> Iterator[Sample]:
    """The samples with these names, in the order of the page. A last line without its end was cut and is left out."""
    for line in page[: page.rfind(b"\n") + 1].split(b"\n"):
        brace = line.find(b"{")
        name = line[:brace] if brace >= 0 else line.partition(b" ")[0]
        if name not in wanted:
            continue
        end = line.rfind(b"}") if brace >= 0 else len(name) - 1
        yield name, line[brace + 1 : end] if brace >= 0 else b"", _parse_value(line[end + 1 :])


def finite(value: float) -> float | None:
    """The value, or None for NaN and the infinities."""
    return value if math.isfinite(value) else None


def find_label(labels: bytes, pattern: re.Pattern[bytes]) -> bytes | None:
    """The value of a label, by a pattern of `label_pattern`. Quotes inside values are escaped and cannot mislead it."""
    match = pattern.search(labels)
    return match[1] if match else None


def label_pattern(name: str) -> re.Pattern[bytes]:
    """Finds `name="value"` between the braces, for values without escapes."""
    return re.compile(rb'(?:^|,)\s*%s="([^"\\]*)"' % name.encode())


def _parse_value(text: bytes) -> float | None:
    words = text.split(None, 1)  # a timestamp may follow
    try:
        return finite(float(words[0]))
    except (IndexError, ValueError):
        return None
