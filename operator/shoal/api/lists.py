"""List types: how server-side apply merges a list, and which of its items must differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from shoal.api.base import camel_case


@dataclass(frozen=True, slots=True)
class ListType:
    """Metadata of an annotated tuple. `keys` are (Python) field names of the items of a map."""

    kind: Literal["atomic", "set", "map"]
    max_items: int
    min_items: int = 0
    keys: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        if schema["type"] != "tuple":
            raise TypeError(f"a list is declared as tuple[X, ...], not {source}")
        bounded = core_schema.tuple_schema(
            schema["items_schema"],
            variadic_item_index=schema.get("variadic_item_index"),
            min_length=self.min_items,
            max_length=self.max_items,
        )
        return core_schema.no_info_after_validator_function(self._refuse_duplicates, bounded)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema["x-kubernetes-list-type"] = self.kind
        if self.keys:
            schema["x-kubernetes-list-map-keys"] = [camel_case(key) for key in self.keys]
        return schema

    def _refuse_duplicates(self, items: Sequence[Any]) -> Sequence[Any]:
        if self.kind == "atomic":
            return items
        identities = [tuple(getattr(item, key) for key in self.keys) if self.keys else item for item in items]
        for position, identity in enumerate(identities):
            if identity in identities[:position]:
                raise ValueError(f"stands twice: {identity}")
        return items


def atomic(max_items: int, *, min_items: int = 0) -> ListType:
    """A list that server-side apply takes as one value."""
    return ListType("atomic", max_items, min_items)


def unique(max_items: int, *, min_items: int = 0) -> ListType:
    """A list of plain values that all differ."""
    return ListType("set", max_items, min_items)


def list_map(*keys: str, max_items: int) -> ListType:
    """A list whose items are told apart by these fields."""
    return ListType("map", max_items, keys=keys)
