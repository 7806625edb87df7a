"""Conditions, as everywhere in Kubernetes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shoal.api.base import Shape
from shoal.api.fields import CamelWord, Generation, Timestamp
from shoal.api.lists import list_map


class Condition(Shape):
    """One fact about the object, and why."""

    type: CamelWord = Field(description="Name of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: Generation | None = Field(None, description="metadata.generation this is about.")
    last_transition_time: Timestamp = Field(description="When its status last changed.")
    reason: CamelWord = Field(description="Why, in one word for programs.")
    message: Annotated[str, Field(max_length=1024)] = Field(description="Why, with numbers and the way out.")


Conditions = Annotated[tuple[Condition, ...], list_map("type", max_items=16)]
