"""Frozen dataclasses to plain data, which JSON can hold, and back: exact and total, made from the types alone.

A dataclass is an object of its fields, a tuple a list, a mapping a list of pairs, an enum its value. Where a field may
hold several dataclasses the object names its class under `is`. Numbers that JSON cannot hold are the words `inf`,
`-inf` and `nan`. So `decode(type, encode(type, value)) == value` for everything that the domain is made of.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")
Function = Callable[[Any], Any]

_TAG: Final = "is"
_WORDS: Final = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class CodecError(ValueError):
    """Data that is not of the type; the message says where and what was expected."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path.removeprefix('.')}: {problem}" if path else problem)
        self.problem, self.path = problem, path

    def within(self, step: str) -> CodecError:
        """The same, seen from one level further out."""
        return CodecError(self.problem, step + self.path)


@dataclass(frozen=True, slots=True)
class _Codec:
    encode: Function
    decode: Function


def encode(kind: type[T], value: T) -> Any:
    """Plain data of a value of this type."""
    return _codec_of(cast(Any, kind)).encode(value)


def decode(kind: type[T], data: Any) -> T:
    """The value of this type that the data stand for. Raises CodecError."""
    return cast(T, _codec_of(cast(Any, kind)).decode(data))


@lru_cache(maxsize=512)
def _codec_of(kind: Any) -> _Codec:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _make_dataclass(cast(type, kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _make_enum(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is tuple:
        return _make_tuple(arguments)
    if origin is Mapping:
        return _make_mapping(*arguments)
    if origin in (typing.Union, types.UnionType):
        return _make_union(arguments)
    raise TypeError(f"{kind} is not made of dataclasses, enums, tuples, mappings, numbers, text and None")


def _make_dataclass(kind: type) -> _Codec:
    hints = typing.get_type_hints(kind)
    fields = [(field.name, _codec_of(hints[field.name]), _is_optional(field)) for field in dataclasses.fields(kind)]
    names = {name for name, _, _ in fields}

    def encode_fields(value: Any) -> dict[str, Any]:
        return {name: codec.encode(getattr(value, name)) for name, codec, _ in fields}

    def decode_fields(data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise CodecError(f"expected the fields of {kind.__name__}, found {_name(data)}")
        unknown = sorted(set(data) - names - {_TAG})
        if unknown:
            raise CodecError(f"{kind.__name__} has no field {unknown[0]!r}: a newer Shoal wrote it", f".{unknown[0]}")
        found = {}
        for name, codec, optional in fields:
            if name in data:
                found[name] = _inside(f".{name}", codec.decode, data[name])
            elif not optional:
                raise CodecError(f"{kind.__name__} lacks it", f".{name}")
        try:
            return kind(**found)
        except ValueError as error:
            raise CodecError(str(error)) from error

    return _Codec(encode_fields, decode_fields)


def _make_enum(kind: type[enum.Enum]) -> _Codec:
    def decode_value(data: Any) -> Any:
        try:
            return kind(data)
        except ValueError:
            raise CodecError(f"{data!r} is no {kind.__name__}") from None

    return _Codec(lambda value: value.value, decode_value)


def _make_tuple(arguments: tuple[Any, ...]) -> _Codec:
    repeated = len(arguments) == 2 and arguments[1] is Ellipsis
    codecs = [_codec_of(argument) for argument in (arguments[:1] if repeated else arguments)]

    def parts(items: Any) -> Any:
        return zip(items, codecs * len(items) if repeated else codecs, strict=True)

    def decode_items(data: Any) -> Any:
        if not isinstance(data, list) or (not repeated and len(data) != len(codecs)):
            raise CodecError(f"expected a list{'' if repeated else f' of {len(codecs)}'}, found {_name(data)}")
        return tuple(_inside(f"[{at}]", codec.decode, item) for at, (item, codec) in enumerate(parts(data)))

    return _Codec(lambda value: [codec.encode(item) for item, codec in parts(value)], decode_items)


def _make_mapping(key: Any, item: Any) -> _Codec:
    pairs = _codec_of(tuple[tuple[key, item], ...])
    return _Codec(lambda value: pairs.encode(tuple(value.items())), lambda data: dict(pairs.decode(data)))


def _make_union(arguments: tuple[Any, ...]) -> _Codec:
    """Of None and one other type, or of several dataclasses."""
    kinds = [argument for argument in arguments if argument is not type(None)]
    if len(kinds) == 1:
        inner = _codec_of(kinds[0])
        return _Codec(
            lambda value: None if value is None else inner.encode(value),
            lambda data: None if data is None else inner.decode(data),
        )
    named = {kind.__name__: _codec_of(kind) for kind in kinds}

    def decode_tagged(data: Any) -> Any:
        tag = data.get(_TAG) if isinstance(data, Mapping) else None
        if tag not in named:
            raise CodecError(f"expected one of {', '.join(named)} under {_TAG!r}, found {tag!r}")
        return named[tag].decode(data)

    return _Codec(
        lambda value: {_TAG: type(value).__name__, **named[type(value).__name__].encode(value)}, decode_tagged
    )


def _encode_number(value: float) -> Any:
    return value if math.isfinite(value) else repr(value)


def _decode_number(data: Any) -> float:
    if isinstance(data, str) and data in _WORDS:
        return _WORDS[data]
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise CodecError(f"expected a number, found {_name(data)}")
    return data


def _make_plain(kind: type) -> _Codec:
    def decode_plain(data: Any) -> Any:
        if type(data) is not kind:
            raise CodecError(f"expected {kind.__name__}, found {_name(data)}")
        return data

    return _Codec(lambda value: value, decode_plain)


# An int may stand where a float is meant, and the other way round: it comes back as it was.
_NUMBER: Final = _Codec(_encode_number, _decode_number)
_PLAIN: Final[Mapping[Any, _Codec]] = {
    bool: _make_plain(bool),
    str: _make_plain(str),
    int: _NUMBER,
    float: _NUMBER,
}


def _is_optional(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _inside(step: str, function: Function, data: Any) -> Any:
    try:
        return function(data)
    except CodecError as error:
        raise error.within(step) from None


def _name(data: Any) -> str:
    return "nothing" if data is None else f"{type(data).__name__} {str(data)[:40]!r}"
