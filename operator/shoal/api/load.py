"""Manifests and watched objects -> typed resources, with errors that say where and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shoal.api.base import API_VERSION, GROUP, Resource
from shoal.api.crds import DEFINITIONS
from shoal.api.errors import ApiError
from shoal.api.fields import LABEL_KEY

R = TypeVar("R", bound=Resource)

KINDS: Final[Mapping[str, type[Resource]]] = {definition.kind: definition.model for definition in DEFINITIONS}

_ADVICE: Final = {
    "missing": "Add it",
    "extra_forbidden": "Remove it, or see `kubectl explain` for the names that exist",
    "string_type": "Put the value in quotes",
    "string_pattern_mismatch": "Use another value",
}


def load_files(paths: Iterable[Path]) -> tuple[Resource, ...]:
    """Every Shoal resource in these YAML files; other kinds are skipped. Raises ApiError."""
    return tuple(resource for path in paths for resource in load_text(_read(path), where=str(path)))


def load_text(text: str, *, where: str = "input") -> tuple[Resource, ...]:
    """Every Shoal resource in a YAML text of one or more documents; other kinds are skipped. Raises ApiError."""
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ApiError(f"not YAML: {_in_one_line(error)}", where=where, advice="Correct the syntax") from error
    except RecursionError as error:
        raise ApiError("nested too deeply", where=where, advice="Name a file of manifests") from error
    resources = []
    for number, document in enumerate(documents, start=1):
        place = f"{where}, document {number}"
        for item in _items(document, place):
            if str(item.get("apiVersion", "")).startswith(f"{GROUP}/"):
                resources.append(_load_any(item, place))
    return tuple(resources)


def parse(model: type[R], manifest: Mapping[str, Any], *, where: str = "", unknown: Literal["forbid", "ignore"]) -> R:
    """One object as one kind. Raises ApiError.

    `unknown="ignore"` is for objects from an API server, which may serve a newer CRD than this program knows.
    """
    try:
        text = json.dumps(manifest, allow_nan=False)
        return model.model_validate_json(text, extra=unknown)
    except ValidationError as error:
        raise _api_error(error, where) from error
    except (TypeError, ValueError) as error:
        raise ApiError(f"cannot be written as JSON: {error}", where=where) from error


def parse_object(model: type[R], manifest: Mapping[str, Any]) -> R:
    """An object that came from an API server. Raises ApiError."""
    metadata = manifest.get("metadata") or {}
    where = "/".join(part for part in (metadata.get("namespace"), metadata.get("name")) if part)
    return parse(model, manifest, where=f"{model.__name__} {where}", unknown="ignore")


def _load_any(item: Mapping[str, Any], place: str) -> Resource:
    kind, version = str(item.get("kind")), item.get("apiVersion")
    if version != API_VERSION:
        raise ApiError(f"unknown version {version!r}", where=place, field="apiVersion", advice=f"Use {API_VERSION}")
    if kind not in KINDS:
        raise ApiError(f"unknown kind {kind!r}", where=place, field="kind", advice=f"Use one of {', '.join(KINDS)}")
    return parse(KINDS[kind], item, where=f"{place} ({kind})", unknown="forbid")


def _items(document: Any, place: str) -> Sequence[Mapping[str, Any]]:
    if document is None:
        return ()
    if not isinstance(document, dict):
        raise ApiError("not a Kubernetes object", where=place, advice="Start it with apiVersion, kind, metadata, spec")
    if document.get("kind") == "List" and isinstance(document.get("items"), list):
        return [item for inner in document["items"] for item in _items(inner, place)]
    return (document,)


def _api_error(error: ValidationError, where: str) -> ApiError:
    details = error.errors(include_url=False, include_context=False)
    first, *others = [detail for detail in details if not _is_above_another(detail["loc"], details)]
    message = LABEL_KEY if first["loc"][-1:] == ("[key]",) else first["msg"].removeprefix("Value error, ")
    given = first["input"]
    if not isinstance(given, dict | list) and first["type"] not in ("missing", "extra_forbidden"):
        message += f", not {json.dumps(given)[:80]}"
    if others:
        message += f" (and {len(others)} more: {', '.join(_path(other['loc']) for other in others[:3])})"
    advice = _ADVICE.get(first["type"], "")
    return ApiError(message, where=where, field=_path(first["loc"]), advice=advice)


def _is_above_another(location: tuple[str | int, ...], details: Sequence[ErrorDetails]) -> bool:
    """A list is reported as too short when its items are wrong: only the items matter."""
    return any(other["loc"][: len(location)] == location and len(other["loc"]) > len(location) for other in details)


def _path(location: Sequence[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "[key]")
    return text.lstrip(".")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ApiError(f"cannot be read: {error}", where=str(path), advice="Name a YAML file") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: dates stay strings, and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
