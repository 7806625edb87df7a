"""Request rates and lengths, as declared in a ModelService and as measured in a ModelProfile."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from shoal.api.base import Rule, Shape
from shoal.api.fields import Rate, Tokens


class Lengths(Shape):
    """How long prompts or answers are."""

    rules: ClassVar = (
        Rule(
            "!has(self.p95) || self.p95 >= self.mean",
            "p95 must be at least the mean",
            lambda lengths: lengths.p95 is None or lengths.p95 >= lengths.mean,
        ),
    )

    mean: Tokens = Field(description="Mean length in tokens.")
    p95: Tokens | None = Field(None, description="95th percentile in tokens. Default: twice the mean.")


class Workload(Shape):
    """What to plan for."""

    requests_per_second: Rate = Field(description="Request rate to plan for.")
    input_tokens: Lengths = Field(description="Length of the prompts.")
    output_tokens: Lengths = Field(description="Length of the answers.")
