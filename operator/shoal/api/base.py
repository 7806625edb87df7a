"""What every resource is made of: camelCase names, strict values, and rules that are both CEL and Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

GROUP = "shoal.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

_ACRONYMS = {
    "gpu": "GPU",
    "gpus": "GPUs",
    "gbs": "GBs",
    "tflops": "TFLOPs",
    "mhz": "MHz",
    "kv": "KV",
    "url": "URL",
}


def camel_case(name: str) -> str:
    """`max_gpus` -> `maxGPUs`, `class_` -> `class`; the first word stays in lower case."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(_ACRONYMS.get(word, word.capitalize()) for word in rest)


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition over several fields.

    The API server evaluates `cel`, everything offline calls `holds`; the tests hold the two together.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]


class Shape(BaseModel):
    """A part of a resource. Refuses unknown fields, silent conversions, and what breaks one of its `rules`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        alias_generator=camel_case,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def to_dict(self) -> dict[str, Any]:
        """What is sent to the API server: camelCase, without what was left out."""
        return self.model_dump(mode="json", exclude_none=True)


class Metadata(Shape):
    """The part of Kubernetes' ObjectMeta that Shoal reads; the rest is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(min_length=1, max_length=253)
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Resource(Shape):
    """A whole object: what stands in a manifest."""

    api_version: str = Field(API_VERSION, pattern=f"^{API_VERSION}$")
    metadata: Metadata


def exactly_one(*names: str) -> Callable[[Shape], bool]:
    """A predicate: exactly one of these (Python) fields is set."""
    return lambda shape: sum(getattr(shape, name) is not None for name in names) == 1


def exactly_one_cel(*names: str) -> str:
    """The same for the API server, over the fields' (camelCase) names."""
    return f"[{', '.join(f'has(self.{camel_case(name)})' for name in names)}].exists_one(set, set)"
