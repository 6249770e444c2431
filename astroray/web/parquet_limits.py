"""What an uploaded Parquet file may claim before any reader believes it.

A page of a hundred bytes can unpack to gigabytes, or repeat one value a billion times; its header
says both. And Arrow ends the process on some footers that it cannot make sense of. So the footer
and the headers of all pages are walked here first, byte by byte, in time that is linear in them
(parquet.thrift of Apache Parquet has the numbers of the fields).
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from astroray.errors import DataError
from astroray.web.thrift import Fields, read_struct

__all__ = ["PARQUET_MAGIC", "check_parquet"]

PARQUET_MAGIC = b"PAR1"
_MAX_FOOTER_BYTES = 2**18
_MAX_HEADER_BYTES = 2**16
_MAX_COLUMNS, _MAX_GROUPS, _MAX_PAGES = 200, 1000, 10_000
_BYTE_ARRAY = 6
_NUM_CODECS, _NUM_TYPES = 8, 8


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """The pages of one column in one row group."""

    column: int
    path: str
    is_text: bool
    start: int
    stop: int
    num_values: int


def check_parquet(data: bytes, *, max_rows: int, max_values: int, max_bytes: int) -> None:
    """Raises DataError where a Parquet file is broken, or claims more than is allowed.

    max_rows    rows of the file
    max_values  numbers in each column, over all rows
    max_bytes   bytes that all its columns unpack to
    """
    unpacked, num_pages = 0, 0
    values: Counter[int] = Counter()
    for chunk in _chunks(data, max_rows):
        widest, count = 0, 0
        for size, num_values, is_data in _pages(data, chunk):
            unpacked, widest, num_pages = unpacked + size, max(widest, size), num_pages + 1
            if is_data:
                values[chunk.column] += num_values
                count += num_values
            if unpacked > max_bytes:
                raise DataError(f"the columns unpack to more than {max_bytes} bytes; send fewer")
            if max(values[chunk.column], num_values) > max_values:
                raise DataError(
                    f"column {chunk.path!r} claims more than {max_values} values; send a shorter "
                    "light curve"
                )
            if num_pages > _MAX_PAGES:
                raise DataError(f"the file has more than {_MAX_PAGES} pages; write larger ones")
        if count != chunk.num_values:
            raise _broken(f"column {chunk.path!r} has {count} values, not {chunk.num_values}")
        if chunk.is_text and widest * count > max_bytes:  # each may be as long as its page
            raise DataError(f"the texts of column {chunk.path!r} are too long; leave it out")


def _chunks(data: bytes, max_rows: int) -> list[_Chunk]:
    """The column chunks that the footer names, all of them within the file."""
    size = int.from_bytes(data[-8:-4], "little")
    if len(data) < 12 or data[-4:] != PARQUET_MAGIC or size > len(data) - 12:
        raise DataError("the Parquet file has no footer at its end; send the whole file")
    if size > _MAX_FOOTER_BYTES:
        raise DataError(f"the footer has {size} bytes, expected at most {_MAX_FOOTER_BYTES}")
    end = len(data) - 8 - size
    try:
        footer, _ = read_struct(data[end:-8], 0)
        leaves = [element for element in footer[2] if not element.get(5)]
        groups = footer.get(4, [])
        (num_rows,) = _counts(footer[3])
        if 8 in footer or not 0 < len(leaves) <= _MAX_COLUMNS or len(groups) > _MAX_GROUPS:
            raise _broken(f"it has {len(leaves)} columns in {len(groups)} groups, or is encrypted")
        if num_rows > max_rows:
            raise DataError(f"the file claims {num_rows} rows, expected at most {max_rows}")
        if sum(_counts(*(group[3] for group in groups))) != num_rows:
            raise _broken("its row groups have other rows than it")
        if any(len(group[1]) != len(leaves) for group in groups):
            raise _broken("a row group lacks columns")
        return [
            _chunk(number, column, end)
            for group in groups
            for number, column in enumerate(group[1])
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(f"{type(error).__name__} {error}"[:200]) from None


def _chunk(number: int, column: Fields, end: int) -> _Chunk:
    """Raises DataError where it is in another file, encrypted, or beyond the footer's start."""
    meta = column[3]
    path = b".".join(meta[3]).decode("utf-8", "replace")[:100]
    kind, codec, num_values, size, start, dictionary = _counts(
        meta[1], meta[4], meta[5], meta[7], meta[9], meta.get(11, 0)
    )
    start = dictionary if 0 < dictionary < start else start
    is_known = kind < _NUM_TYPES and codec < _NUM_CODECS
    if {1, 8, 9} & column.keys() or not is_known or not 4 <= start <= start + size <= end:
        raise _broken(f"column {path!r} is not where it is said to be")
    return _Chunk(number, path, kind == _BYTE_ARRAY, start, start + size, num_values)


def _pages(data: bytes, chunk: _Chunk) -> Iterator[tuple[int, int, bool]]:
    """Bytes that each page unpacks to, its values, and whether they are those of rows."""
    place = chunk.start
    while place < chunk.stop:
        window = data[place : min(chunk.stop, place + _MAX_HEADER_BYTES)]
        try:
            header, used = read_struct(window, 0)
            inner: Fields = header.get(5) or header.get(8) or header.get(7) or {1: 0}
            size, packed, count = _counts(header[2], header[3], inner[1])
            is_data = not header.get(7)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _broken(f"a page of column {chunk.path!r}: {error}"[:200]) from None
        yield size, count, is_data
        place += used + packed
    if place != chunk.stop:
        raise _broken(f"the last page of column {chunk.path!r} ends beyond it")


def _counts(*values: Any) -> list[int]:
    """The values, all of them counts. Raises ValueError where one is anything else."""
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise ValueError(f"a count is {values!r}"[:100])
    return list(values)


def _broken(what: str) -> DataError:
    return DataError(f"the Parquet file is broken: {what}; write it again")
