"""Frozen dataclasses to JSON objects and back, every key and type of them checked.

A key is a field's name, in the order of the fields. A field whose default is None is left out
while it is None; without such a default None is null. What else `metadata` may make of a field:

    named(key)   it stands under another key, such as one that Python reserves
    PART         it is written as `{}` while it has its default: nothing is known of it yet
    FLAT         its fields, or the keys of a mapping, are written among those of the whole, not
                 as an object of their own
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

__all__ = ["FLAT", "PART", "from_json", "named", "to_json"]

Record = TypeVar("Record")

PART: Mapping[str, Any] = {"part": True}
FLAT: Mapping[str, Any] = {"flat": True}
"""A mapping takes all keys that no other field has."""


def named(key: str) -> Mapping[str, Any]:
    """Metadata of a field that stands under `key`."""
    return {"key": key}


def to_json(record: Any) -> dict[str, Any]:
    """The JSON object of a dataclass."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if "part" in field.metadata and value == field.default:
            found[_key(field)] = {}
        elif value is None and field.default is None:
            continue
        elif "flat" in field.metadata:
            found |= _plain(value)
        else:
            found[_key(field)] = _plain(value)
    return found


def from_json(cls: type[Record], values: Any, *, path: str = "") -> Record:
    """The dataclass of a JSON object.

    path  dotted name of the object, which messages begin with

    Raises ValueError on a key that is missing or that no field has, and on a value of another
    type; the message names the key.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{path or 'it'} is {_shown(values)}, expected an object")
    within, hints = f"{path}." if path else "", typing.get_type_hints(cls)
    known = dict(_own_keys(cls))
    arguments = {
        name: _checked(values[key], hints[name], f"{within}{key}")
        for name, key in known.items()
        if key in values and not (values[key] == {} and "part" in _field(cls, name).metadata)
    }
    rest = {key: value for key, value in values.items() if key not in known.values()}
    for name, inner in _flat(cls):
        keys = rest.keys() & dict(_own_keys(inner)).values() if inner else rest.keys()
        if keys or not inner:
            of_it = {key: rest.pop(key) for key in list(rest) if key in keys}
            arguments[name] = from_json(inner, of_it, path=path) if inner else of_it
    if rest:
        raise ValueError(f"{within}{next(iter(rest))} is a key that this version does not know")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type] # a dataclass
        if field.name not in arguments and _is_needed(field):
            raise ValueError(f"{within}{_key(field)} is missing")
    return cls(**arguments)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {name: _plain(of) for name, of in value.items()}
    return [_plain(of) for of in value] if isinstance(value, list | tuple) else value


def _key(field: "dataclasses.Field[Any]") -> str:
    key: str = field.metadata.get("key", field.name)
    return key


def _field(cls: Any, name: str) -> "dataclasses.Field[Any]":
    found: dataclasses.Field[Any] = cls.__dataclass_fields__[name]
    return found


def _own_keys(cls: Any) -> Iterator[tuple[str, str]]:
    """Name and key of the fields that have one."""
    return ((f.name, _key(f)) for f in dataclasses.fields(cls) if "flat" not in f.metadata)


def _flat(cls: Any) -> Iterator[tuple[str, Any]]:
    """Name of the fields that stand among the others, and their dataclass; None of a mapping."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if "flat" in field.metadata:
            hint = hints[field.name]
            yield field.name, next(filter(dataclasses.is_dataclass, _options(hint)), None)


def _is_needed(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _checked(value: Any, hint: Any, path: str) -> Any:
    """A value as its type hint has it: one type or None, at the most."""
    if value is None and types.NoneType in _options(hint):
        return None
    (hint,) = (option for option in _options(hint) if option is not types.NoneType)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, path=path)
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(of, inner[0], f"{path}[{i}]") for i, of in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {name: _checked(of, inner[1], f"{path}.{name}") for name, of in value.items()}
    if hint is Any or (origin is typing.Literal and value in inner):
        return value
    accepted = (int, float) if hint is float else hint
    if not origin and isinstance(value, accepted) and isinstance(value, bool) == (hint is bool):
        return value
    raise ValueError(f"{path} is {_shown(value)}, expected {_type_name(hint)}")


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(typing.get_args(hint))}"
    return {tuple: "a list", Mapping: "an object"}.get(
        typing.get_origin(hint), getattr(hint, "__name__", str(hint))
    )
