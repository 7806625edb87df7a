"""From pydantic models to structural OpenAPI v3 schemas, refusing whatever a CRD should not hold.

Refused: unions, free-form nodes, schema defaults, unbounded values, properties without a description, keywords this
module does not know. The way of the schema is pydantic's own JSON schema, then one pass over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from shoal.api.base import Resource, Rule, Shape

Json = dict[str, Any]

INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_STRING_KEYS: Final = ("pattern", "minLength", "maxLength", "enum")
_NUMBER_KEYS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum")
_LIST_KEYS: Final = ("minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys")
_IGNORED: Final = ("title", "default", "additionalProperties", "propertyNames", "items", "properties", "required")


class SchemaError(Exception):
    """A model that must not become a CRD: which field, and why."""


def make_schema(resource: type[Resource]) -> Json:
    """The `openAPIV3Schema` of a resource."""
    parts: Json = {
        name: _Converter(_shape_of(resource, name)).convert() | {"description": _description_of(resource, name)}
        for name in ("spec", "status")
        if name in resource.model_fields
    }
    properties = {
        "apiVersion": {"type": "string", "description": "Version of the schema."},
        "kind": {"type": "string", "description": "Kind of this object."},
        "metadata": {"type": "object"},
        **parts,
    }
    schema: Json = {
        "description": _text(resource),
        "type": "object",
        "required": ["spec"],
        "properties": properties,
    }
    return schema | _validations(resource.rules)


def walk_rules(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every CEL rule in a schema, with the path of the node it stands at."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield path, rule
    for name, child in schema.get("properties", {}).items():
        yield from walk_rules(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk_rules(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk_rules(schema["additionalProperties"], f"{path}{{}}")


def _shape_of(resource: type[Resource], name: str) -> type[Shape]:
    annotation = resource.model_fields[name].annotation
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next(c for c in candidates if isinstance(c, type) and issubclass(c, Shape))


def _description_of(resource: type[Resource], name: str) -> str:
    return resource.model_fields[name].description or ""


def _text(model: type[Shape]) -> str:
    return " ".join((model.__doc__ or "").split())


def _validations(rules: tuple[Rule, ...]) -> Json:
    if not rules:
        return {}
    return {"x-kubernetes-validations": [{"rule": rule.cel, "message": rule.message} for rule in rules]}


class _Converter:
    """One pass over pydantic's JSON schema of one model."""

    def __init__(self, model: type[Shape]) -> None:
        self._root = model.model_json_schema(by_alias=True)
        self._definitions: Json = self._root.get("$defs", {})
        self._rules = {shape.__name__: shape.rules for shape in _shapes_below(model)}

    def convert(self) -> Json:
        return self._convert(self._root, "")

    def _convert(self, node: Json, path: str) -> Json:
        node = self._resolve(node, path)
        if INT_OR_STRING in node:
            return _make_int_or_string(node, path)
        makers: Mapping[str, Callable[[Json, str], Json]] = {
            "object": self._make_object,
            "array": self._make_list,
            "string": _make_string,
            "integer": _make_number,
            "number": _make_number,
            "boolean": _make_boolean,
        }
        kind = str(node.get("type"))
        if kind not in makers:
            raise SchemaError(f"{path}: a node needs one type, not {kind!r}: {node}")
        if node.get("default") is not None:
            raise SchemaError(f"{path}: no schema defaults: GitOps would see what nobody wrote")
        return makers[kind](node, path)

    def _resolve(self, node: Json, path: str) -> Json:
        """Follow `$ref`, and take `X | None` as an optional X. Any other union is refused."""
        outer = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
        if "anyOf" in node:
            inner = [option for option in node["anyOf"] if option.get("type") != "null"]
            if len(inner) != 1:
                raise SchemaError(f"{path}: unions are refused")
            return self._resolve(inner[0] | outer, path)
        if "$ref" in node:
            return self._resolve(self._definitions[node["$ref"].rsplit("/", 1)[1]] | outer, path)
        if "const" in node:
            return {key: value for key, value in node.items() if key != "const"} | {"enum": [node["const"]]}
        return node

    def _make_object(self, node: Json, path: str) -> Json:
        if "properties" not in node:
            return self._make_map(node, path)
        result: Json = {"type": "object"} | _described(node)
        if node.get("required"):
            result["required"] = list(node["required"])
        result["properties"] = {}
        for name, child in node["properties"].items():
            converted = self._convert(child, f"{path}.{name}")
            if not converted.get("description"):
                raise SchemaError(f"{path}.{name}: needs a description")
            result["properties"][name] = converted
        return result | _validations(self._rules[node["title"]])

    def _make_map(self, node: Json, path: str) -> Json:
        patterns, keys = node.get("patternProperties", {}), node.get("propertyNames", {})
        if len(patterns) != 1 or not {"maxLength", "description"} <= keys.keys():
            raise SchemaError(f"{path}: free-form objects are refused: declare properties, or bounded keys and values")
        if "maxProperties" not in node:
            raise SchemaError(f"{path}: needs maxProperties")
        [(pattern, values)] = patterns.items()
        quoted = pattern.replace("\\", "\\\\")
        rule = f"self.all(key, size(key) <= {keys['maxLength']} && key.matches('{quoted}'))"
        return {
            "type": "object",
            **_described(node),
            "maxProperties": node["maxProperties"],
            "additionalProperties": self._convert(values, f"{path}{{}}"),
            "x-kubernetes-validations": [{"rule": rule, "message": keys["description"]}],
        }

    def _make_list(self, node: Json, path: str) -> Json:
        for key in ("maxItems", "x-kubernetes-list-type"):
            if key not in node:
                raise SchemaError(f"{path}: a list needs {key}")
        if "items" not in node:
            raise SchemaError(f"{path}: a list needs one type of items")
        bounds = _pick(node, _LIST_KEYS, path)
        if bounds.get("minItems") == 0:
            del bounds["minItems"]
        result = {"type": "array"} | _described(node) | bounds
        return result | {"items": self._convert(node["items"], f"{path}[]")}


def _shapes_below(model: type[Shape]) -> Iterator[type[Shape]]:
    """The model and every model in its fields."""
    pending: list[Any] = [model]
    seen: set[type[Shape]] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, type) and issubclass(item, Shape) and item not in seen:
            seen.add(item)
            pending.extend(field.annotation for field in item.model_fields.values())
            yield item
        pending.extend(getattr(item, "__args__", ()))


def _described(node: Json) -> Json:
    return {"description": " ".join(node["description"].split())} if node.get("description") else {}


def _pick(node: Json, keys: tuple[str, ...], path: str) -> Json:
    unknown = node.keys() - set(keys) - set(_IGNORED) - {"type", "description"}
    if unknown:
        raise SchemaError(f"{path}: cannot be said in a structural schema: {sorted(unknown)}")
    return {key: node[key] for key in keys if key in node}


def _make_string(node: Json, path: str) -> Json:
    if "maxLength" not in node and "enum" not in node:
        raise SchemaError(f"{path}: a string needs maxLength or an enum")
    return {"type": "string"} | _described(node) | _pick(node, _STRING_KEYS, path)


def _make_number(node: Json, path: str) -> Json:
    bounds = _pick(node, _NUMBER_KEYS, path)
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in bounds:  # OpenAPI 3.0 has a flag where JSON schema has a number
            bounds[inclusive] = bounds[exclusive]
            bounds[exclusive] = True
    if "enum" not in bounds and not {"minimum", "maximum"} <= bounds.keys():
        raise SchemaError(f"{path}: a number needs minimum and maximum")
    if any(bounds.get(key, 0) != int(bounds.get(key, 0)) for key in ("minimum", "maximum")):
        raise SchemaError(f"{path}: bounds must be whole: the API server cuts off the fraction for whole values")
    return {"type": node["type"]} | _described(node) | bounds


def _make_boolean(node: Json, path: str) -> Json:
    return {"type": "boolean"} | _described(node) | _pick(node, (), path)


def _make_int_or_string(node: Json, path: str) -> Json:
    keys = (INT_OR_STRING, "minimum", "maximum", "maxLength", "pattern")
    picked = _pick(node, keys, path)
    if picked.keys() != set(keys):
        raise SchemaError(f"{path}: a quantity needs {', '.join(keys)}")
    return _described(node) | {"anyOf": [{"type": "integer"}, {"type": "string"}]} | picked
