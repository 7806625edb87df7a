"""What became of the writes of one reconciliation: filled in by the reconciler, explained in the status."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Result(enum.StrEnum):
    """What became of one object."""

    OK = "OK"
    FAILED = "Failed"
    NAME_TAKEN = "NameTaken"  # an object of this name exists and is not ours


@dataclass(frozen=True, slots=True)
class ObjectOutcome:
    """One object, and what the API server said where it refused."""

    kind: str
    name: str
    result: Result = Result.OK
    message: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every object that was to be written. Empty: nothing was tried yet."""

    objects: tuple[ObjectOutcome, ...] = ()

    @property
    def failed(self) -> tuple[ObjectOutcome, ...]:
        """Objects that could not be written."""
        return tuple(item for item in self.objects if item.result is Result.FAILED)

    @property
    def taken(self) -> tuple[ObjectOutcome, ...]:
        """Objects of somebody else that stand where ours should."""
        return tuple(item for item in self.objects if item.result is Result.NAME_TAKEN)
