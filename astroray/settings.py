"""Settings of a YAML file and of flags as a frozen dataclass, every key and type checked."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from astroray import storage
from astroray.errors import ConfigError, FileError

__all__ = ["UNTOLD", "from_dict", "gather", "load_settings", "to_dict"]

UNTOLD = {"untold": True}
"""Metadata of a field that can be set and that no message names."""


def load_settings(cls: type, file: str | None, flags: Mapping[str, Any]) -> Any:
    """The frozen dataclass `cls` of its defaults, then a YAML file, then flags.

    flags  dotted keys; None values are left out

    Raises ConfigError on an unknown key or a value of another type.
    """
    values, where = gather(file, flags)
    return from_dict(cls, values, where=where)


def gather(file: str | None, flags: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The settings of a YAML file, and over them those of flags, as nested dictionaries.

    With them, where they are from, for errors. Keys of the file may be dotted too. Raises
    ConfigError where it says one of them in both ways.
    """
    values = _load_yaml(file) if file else {}
    for key in [key for key in values if isinstance(key, str) and "." in key]:
        _put(values, key, values.pop(key), file, is_new=True)
    given = {key: value for key, value in flags.items() if value is not None}
    for key, value in given.items():
        _put(values, key, value, file)
    if not file:
        return values, "the flags"
    return values, f"{file} or the flags" if given else file


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries of JSON values."""
    return {
        field.name: to_dict(value)
        if dataclasses.is_dataclass(value := getattr(config, field.name))
        else list(value)
        if isinstance(value, tuple)
        else dict(value)
        if isinstance(value, Mapping)
        else value
        for field in dataclasses.fields(config)
    }


def from_dict(cls: type, values: Mapping[str, Any], *, where: str, path: str = "") -> Any:
    """The frozen dataclass `cls` of nested dictionaries, every key and type checked."""
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"setting {path}{key} in {where} is unknown, expected one of {sorted(_told(cls))}"
                f"{_meant(str(key), cls, path)}"
            )
        arguments[key] = _checked(value, hints[key], f"{path}{key}", where)
    for field in dataclasses.fields(cls):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in arguments:
            raise ConfigError(f"setting {path}{field.name} is missing in {where}; set it there")
    return cls(**arguments)


def _meant(key: str, cls: type, path: str) -> str:
    """A question whether a setting of `cls` or its sections was meant, if one looks like `key`."""
    names = _setting_names(cls)
    same = [name for name in names if name.rpartition(".")[2] == key.rpartition(".")[2]]
    found = same or difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {path}{found[0]}?" if found else ""


def _told(cls: type) -> list[str]:
    """The settings of `cls` that users are told of."""
    return [field.name for field in dataclasses.fields(cls) if field.metadata != UNTOLD]


def _setting_names(cls: type) -> list[str]:
    """Dotted names of all settings of `cls` that users are told of."""
    names = []
    hints = typing.get_type_hints(cls)
    for name in _told(cls):
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            names += [name, *(f"{name}.{inner}" for inner in _setting_names(hint))]
        else:
            names.append(name)
    return names


def _checked(value: Any, hint: Any, key: str, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"setting {key} in {where} is {value!r}, expected a section of keys")
        return from_dict(hint, value, where=where, path=f"{key}.")
    if typing.get_origin(hint) is Mapping:  # a section of any keys, all of one type
        if not isinstance(value, Mapping):
            raise ConfigError(f"setting {key} in {where} is {value!r}, expected a section of keys")
        (_, inner) = typing.get_args(hint)
        return {str(k): _checked(of, inner, f"{key}.{k}", where) for k, of in value.items()}
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        accepted, converted = _accept(value, option)
        if accepted:
            return converted
    raise ConfigError(f"setting {key} in {where} is {value!r}, expected {_type_name(hint)}")


def _accept(value: Any, hint: Any) -> tuple[bool, Any]:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint), value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return False, value
        items = [_accept(part, typing.get_args(hint)[0]) for part in parts]
        return all(accepted for accepted, _ in items), tuple(item for _, item in items)
    if hint is type(None):
        return value is None, None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    if hint is float and isinstance(value, str):  # YAML takes 1e-3 for text
        return _parse_float(value)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return True, str(value)
    if isinstance(value, bool) and hint is not bool:
        return False, value
    return isinstance(value, hint), value


def _parse_float(text: str) -> tuple[bool, Any]:
    try:
        return True, float(text)
    except ValueError:
        return False, text


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_type_name, typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(typing.get_args(hint))}"
    if hint is types.NoneType:
        return "none"
    if typing.get_origin(hint) is tuple:
        return "list"
    return getattr(hint, "__name__", str(hint)).replace("typing.", "")


def _load_yaml(file: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(storage.read_bytes(file).decode()) or {}
    except FileError as error:
        raise ConfigError(f"{error}; give the path of a YAML file to --config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a YAML file: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds {type(values).__name__}, expected keys and values")
    return values


def _put(
    values: dict[str, Any], key: str, value: Any, where: str | None, *, is_new: bool = False
) -> None:
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(
                f"setting {section} in {where} is {values!r}, expected a section of keys such as "
                f"{name}, since {key} is set too; write `{section}: {{{name}: ...}}`"
            )
    if is_new and name in values:
        raise ConfigError(f"setting {key} stands twice in {where}, expected once; leave one out")
    values[name] = value
