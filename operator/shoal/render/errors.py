"""The one error of this room."""

from __future__ import annotations


class RenderError(ValueError):
    """A plan that cannot be made into pods; the message says what to change."""
