"""Instants: seconds since the epoch in Shoal, RFC 3339 in objects. Whole seconds, as Kubernetes writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def format_time(seconds: float) -> str:
    """`2026-11-22T16:05:26Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> float:
    """Seconds since the epoch. Raises ValueError for anything that is no RFC 3339 time with a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"no time zone: {text}")
    return moment.timestamp()
