"""How the bytes of Thrift's compact protocol become numbers, by field, and never more than that.

The headers of Parquet are written so. A library that parses them for its own use may trust them,
or end the process on what it cannot believe; here every step stays within the bytes given.
"""

from typing import Any

__all__ = ["Fields", "read_struct"]

Fields = dict[int, Any]
"""By number of the field: int, bytes, a list of these, or Fields; other kinds are left out."""

_MAX_DEPTH = 12
_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 12


def read_struct(data: bytes, place: int, depth: int = 0) -> tuple[Fields, int]:
    """The struct that begins at `place`, and the place after it.

    Takes time that is linear in its bytes. Raises ValueError where it is none.
    """
    fields: Fields = {}
    field = 0
    while head := _byte(data, place):
        place += 1
        field += head >> 4
        if not head >> 4:
            field, place = _zigzag(data, place)
        value, place = _value(data, place, head & 15, depth)
        if value is not None:
            fields[field] = value
    return fields, place + 1


def _value(data: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):  # in its type
        return None, place
    if kind == _BYTE:
        return None, place + 1
    if kind <= _I64:
        return _zigzag(data, place)
    if kind == _DOUBLE:
        return None, place + 8
    if kind == _BINARY:
        size, place = _varint(data, place)
        if place + size > len(data):
            raise ValueError("a text ends beyond the end")
        return data[place : place + size], place + size
    if depth == _MAX_DEPTH or kind not in (_LIST, _SET, _STRUCT):  # Parquet has no maps
        raise ValueError(f"a field of type {kind} at depth {depth}")
    if kind == _STRUCT:
        return read_struct(data, place, depth + 1)
    return _list(data, place, depth + 1)


def _list(data: bytes, place: int, depth: int) -> tuple[list[Any], int]:
    head, place = _byte(data, place), place + 1
    size, kind = head >> 4, head & 15
    if size == 15:
        size, place = _varint(data, place)
    if size > len(data) - place:  # each takes a byte at least
        raise ValueError(f"a list of {size} in {len(data) - place} bytes")
    values = []
    for _ in range(size):
        if kind in (_TRUE, _FALSE):
            value, place = _byte(data, place), place + 1
        else:
            value, place = _value(data, place, kind, depth)
        values.append(value)
    return values, place


def _byte(data: bytes, place: int) -> int:
    if place >= len(data):
        raise ValueError("the bytes end within a struct")
    return data[place]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(data, place)
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")


def _zigzag(data: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(data, place)
    return (value >> 1) ^ -(value & 1), place
