"""Numbers and texts as people read them in objects."""

from __future__ import annotations

import math

_FIGURES = 4


def round_figures(value: float, figures: int = _FIGURES) -> float:
    """The value with so many significant figures; objects hold no more than was measured."""
    if value == 0 or not math.isfinite(value):
        return 0.0 if value == 0 else value
    return round(value, figures - 1 - math.floor(math.log10(abs(value))))


def clip(text: str, size: int) -> str:
    """At most `size` characters, with an ellipsis where something is missing."""
    return text if len(text) <= size else text[: size - 1].rstrip() + "…"
