"""Numbers in sentences."""

from __future__ import annotations


def count(number: int, what: str) -> str:
    """`1 replica`, `2 replicas`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
