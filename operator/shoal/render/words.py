"""Numbers and texts as people read them in objects."""

from __future__ import annotations

import math

_FIGURES = 4


def round_figures(value: float, figures: int = _FIGURES) -> float:
    """The value with so many significant figures; objects hold no more than was measured."""
    if value == 0:
        return 0.0
    return round(value, figures - 1 - math.floor(math.log10(abs(value))))


def clip(text: str, size: int) -> str:
    """At most `size` characters, with an ellipsis where something is missing."""
    return text if len(text) <= size else text[: size - 1].rstrip() + "…"


def bounded(value: float | None, least: float, most: float) -> float | None:
    """The value as the schema takes it: rounded, inside its bounds; None for what is unknown or no number."""
    if value is None or math.isnan(value):
        return None
    return round_figures(min(max(value, least), most))
