"""The one error this room raises."""

from __future__ import annotations


class ApiError(ValueError):
    """A resource that cannot be used: where, what is wrong, and what to do about it."""

    def __init__(self, problem: str, *, where: str = "", field: str = "", advice: str = "") -> None:
        self.problem = problem
        self.where = where  # file and document, or namespace/name
        self.field = field  # path of the field, as in spec.slo.percentile
        self.advice = advice
        place = ": ".join(part for part in (where, field) if part)
        text = f"{place}: {problem}" if place else problem
        super().__init__(f"{text}. {advice}" if advice else text)
