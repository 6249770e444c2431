"""How columns and images of FITS files are read without astropy's cost for every header card.

A light-curve file holds some 300 cards and twenty columns, of which a dozen cards and four columns
are needed; here cards are cut at every 80 bytes and parsed when they are asked for, and a column
is a strided view of the file's bytes (FITS standard 4.0, Pence et al. 2010, sections 4 and 7.3).
"""

import dataclasses
import gzip
import math
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from astroray import storage
from astroray.errors import SchemaError, ShardError

_BLOCK_BYTES = 2880
_CARD_BYTES = 80
_MAX_COUNTS = {"NAXIS": 999, "TFIELDS": 999}
_END = b"END" + b" " * 77
_GZIP_MAGIC = b"\x1f\x8b"
_TEXT = re.compile(r"\s*'((?:[^']|'')*)'")
_FORM = re.compile(r"(\d*)([A-Z])")
_IMAGE_DTYPES = {"8": "u1", "16": ">i2", "32": ">i4", "64": ">i8", "-32": ">f4", "-64": ">f8"}
_DTYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_BYTES = {"L": 1, "A": 1, "B": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8,
          "Q": 16}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """Cards of one header, by keyword; of a repeated one the first counts."""

    cards: Mapping[str, str]

    def text(self, key: str) -> str:
        """The value as text without blanks around; empty where it is absent or undefined."""
        card = self.cards.get(key, "")
        quoted = _TEXT.match(card)
        if quoted:
            return quoted[1].replace("''", "'").strip()
        return card.partition("/")[0].strip()

    def number(self, key: str) -> float:
        """The value as a number; NaN where it is absent, undefined or none."""
        try:
            return float(self.text(key).replace("D", "E"))
        except ValueError:
            return math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Column:
    """Where a column lies in a row; `place` is the number of its keywords."""

    place: int
    code: str
    repeat: int
    first_byte: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hdu:
    """One HDU of a file that was read whole."""

    path: str
    name: str
    """EXTNAME in capitals; empty where there is none."""
    header: Header
    columns: Mapping[str, _Column]
    """By name in capitals; empty where this is no binary table."""
    num_rows: int
    row_bytes: int
    first_byte: int
    data: bytes
    shape: tuple[int, ...] = ()
    """Of the array, slowest axis first."""

    def unit(self, column: str) -> str:
        """TUNIT of a column; empty where there is none."""
        return self.header.text(f"TUNIT{self.columns[column].place}")

    def numbers(self, column: str) -> np.ndarray:
        """A column [T] as native float64, scaled; NaN where it is NaN or the integer TNULL.

        Raises SchemaError where the column holds no single numbers.
        """
        chosen = self.columns[column]
        if chosen.code not in _DTYPES or chosen.repeat != 1:
            raise SchemaError(
                f"column {column} of {self.path} has the format {chosen.repeat}{chosen.code}, "
                "expected one number a row"
            )
        return self.vectors(column)[:, 0]

    def vectors(self, column: str) -> np.ndarray:
        """A column [T, M] of M numbers a row, as `numbers` has them.

        Raises SchemaError where the column holds no numbers.
        """
        stored = self._stored(column, _DTYPES)
        place = self.columns[column].place
        keys = (f"{key}{place}" for key in ("TNULL", "TSCAL", "TZERO"))
        return _to_float64(stored, *(self.header.number(key) for key in keys))

    def integers(self, column: str) -> np.ndarray:
        """A column [T] of whole numbers without a scale, int64: float64 has not all of them.

        Raises SchemaError where the column holds anything else.
        """
        return self._stored(column, {"I": ">i2", "J": ">i4", "K": ">i8"})[:, 0].astype(np.int64)

    def texts(self, column: str) -> list[str]:
        """A column [T] of text, without blanks around. Raises SchemaError where it is none."""
        stored = self._stored(column, {"A": "u1"})
        width = self.columns[column].repeat
        rows = np.ascontiguousarray(stored).tobytes()
        cells = (rows[i * width : (i + 1) * width] for i in range(self.num_rows))
        return [cell.split(b"\0")[0].decode("latin-1").strip() for cell in cells]

    def pixels(self) -> np.ndarray:
        """The image, [..., Y, X] as native float64, scaled; NaN where it is NaN or BLANK.

        Raises SchemaError where the HDU holds none.
        """
        bits = self.header.text("BITPIX")
        if self.columns or not self.shape or bits not in _IMAGE_DTYPES:
            raise SchemaError(f"HDU {self.name!r} of {self.path} is no image, expected one")
        stored = np.ndarray(self.shape, np.dtype(_IMAGE_DTYPES[bits]), self.data, self.first_byte)
        keys = ("BLANK", "BSCALE", "BZERO")
        return _to_float64(stored, *(self.header.number(key) for key in keys))

    def _stored(self, column: str, dtypes: Mapping[str, str]) -> np.ndarray:
        """A column [T, M] as a view of the file's bytes; raises SchemaError on other formats."""
        if column not in self.columns:
            raise SchemaError(
                f"{self.path} has no column {column}, it has {', '.join(self.columns) or 'none'}"
            )
        chosen = self.columns[column]
        if chosen.code not in dtypes:
            raise SchemaError(
                f"column {column} of {self.path} has the format {chosen.repeat}{chosen.code}, "
                f"expected one of {', '.join(dtypes)}"
            )
        dtype = np.dtype(dtypes[chosen.code])
        shape = (self.num_rows, chosen.repeat)
        if not self.num_rows or not chosen.repeat:
            return np.zeros(shape, dtype)
        first_byte = self.first_byte + chosen.first_byte
        return np.ndarray(shape, dtype, self.data, first_byte, (self.row_bytes, dtype.itemsize))


def _to_float64(stored: np.ndarray, null: float, scale: float, zero: float) -> np.ndarray:
    """Stored numbers, scaled where the header says so; NaN where they are the integer `null`."""
    with np.errstate(invalid="ignore", over="ignore"):  # damaged floats become NaN or infinite
        values = stored.astype(np.float64)
        if stored.dtype.kind in "iu" and not math.isnan(null):
            values[stored == null] = np.nan
        if not math.isnan(scale):
            values *= scale
        if not math.isnan(zero):
            values += zero
    return values


def read_hdus(path: str, data: bytes | None = None) -> list[Hdu]:
    """All HDUs of a FITS file, plain or gzipped, checked to be whole; its bytes are read once.

    data  its bytes where they are at hand; then `path` is only what errors call it

    Raises FileError where it is missing, ShardError where it is truncated or no FITS file.
    """
    data = storage.read_bytes(path) if data is None else data
    if data[:2] == _GZIP_MAGIC:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ShardError(
                f"{path} cannot be unpacked: {error}; it is truncated or damaged, fetch it again"
            ) from None
    if not data.startswith(b"SIMPLE  ="):
        raise ShardError(
            f"{path} is no FITS file: it begins with {data[:9]!r}, expected 'SIMPLE  ='"
        )
    hdus: list[Hdu] = []
    start = 0
    while start == 0 or data.startswith(b"XTENSION=", start):
        header, first_byte = _read_header(data, start, path)
        hdu, span = _describe(header, first_byte, data, path)
        if first_byte + span > len(data):  # a missing last padding is no loss
            raise ShardError(
                f"{path} is truncated: {len(data)} bytes of FITS, expected at least "
                f"{first_byte + span} by the header of HDU {len(hdus)}; fetch it again"
            )
        hdus.append(hdu)
        start = first_byte + _whole_blocks(span)
    return hdus


def _read_header(data: bytes, start: int, path: str) -> tuple[Header, int]:
    """The header that begins at byte `start`, and the first byte after it."""
    end = start
    while True:
        end = data.find(_END, end)
        if end < 0:
            raise ShardError(
                f"{path} is truncated: its header at byte {start} has no end; fetch it again"
            )
        if (end - start) % _CARD_BYTES == 0:
            break
        end += 1
    text = data[start:end].decode("latin-1")
    cards = {}
    for place in range(len(text) - _CARD_BYTES, -1, -_CARD_BYTES):  # so that the first one stays
        key, value = text[place : place + 8], text[place + 8 : place + _CARD_BYTES]
        if key == "HIERARCH":  # keywords of other lengths, as ESO writes them
            key, _, value = value.partition("=")
            cards[key.strip()] = value
        elif value[:1] == "=":
            cards[key.rstrip()] = value[1:]
    return Header(cards=cards), start + _whole_blocks(end - start + _CARD_BYTES)


def _whole_blocks(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _describe(header: Header, first_byte: int, data: bytes, path: str) -> tuple[Hdu, int]:
    """The HDU of a header, and the bytes of data that the header promises."""
    lengths = [_count(header, f"NAXIS{i + 1}", path) for i in range(_count(header, "NAXIS", path))]
    num_elements = math.prod(lengths) if lengths else 0
    bits = header.text("BITPIX").lstrip("-")
    if bits not in ("8", "16", "32", "64"):
        raise ShardError(f"{path} says BITPIX = {bits!r}, expected 8 to 64; fetch it again")
    num_groups = _count(header, "GCOUNT", path) if header.text("GCOUNT") else 1
    heap = _count(header, "PCOUNT", path) if header.text("PCOUNT") else 0
    is_table = header.text("XTENSION") == "BINTABLE"
    if is_table and len(lengths) != 2:
        raise ShardError(f"{path} has a table of {len(lengths)} axes, expected 2; fetch it again")
    hdu = Hdu(
        path=path,
        name=header.text("EXTNAME").upper(),
        header=header,
        columns=_columns(header, lengths[0], path) if is_table else {},
        num_rows=lengths[1] if is_table else 0,
        row_bytes=lengths[0] if is_table else 0,
        first_byte=first_byte,
        data=data,
        shape=tuple(reversed(lengths)),
    )
    return hdu, int(bits) // 8 * num_groups * (heap + num_elements)


def _count(header: Header, key: str, path: str) -> int:
    text = header.text(key)
    most = _MAX_COUNTS.get(key)
    if not text.isdecimal() or (most is not None and int(text) > most):
        raise ShardError(f"{path} says {key} = {text!r}, expected a count; fetch it again")
    return int(text)


def _columns(header: Header, row_bytes: int, path: str) -> dict[str, _Column]:
    """The columns of a table; of two with one name the first counts."""
    columns: dict[str, _Column] = {}
    first_byte = 0
    for place in range(1, _count(header, "TFIELDS", path) + 1):
        form = _FORM.match(header.text(f"TFORM{place}"))
        if form is None or form[2] not in (*_BYTES, "X"):
            raise ShardError(
                f"{path} says TFORM{place} = {header.text(f'TFORM{place}')!r}, expected a format "
                "of the FITS standard"
            )
        repeat = int(form[1] or 1)
        column = _Column(place=place, code=form[2], repeat=repeat, first_byte=first_byte)
        columns.setdefault(header.text(f"TTYPE{place}").upper(), column)
        first_byte += -(-repeat // 8) if form[2] == "X" else repeat * _BYTES[form[2]]
    if first_byte > row_bytes:
        raise ShardError(
            f"{path} has rows of {row_bytes} bytes, its columns have {first_byte}; fetch it again"
        )
    return columns


def find_table(hdus: Sequence[Hdu], *, names: Sequence[str], column: str) -> Hdu | None:
    """The first table of one of `names`, in their order, else the first that has `column`."""
    tables = [hdu for hdu in hdus if column in hdu.columns]
    named = (hdu for name in names for hdu in tables if hdu.name == name)
    return next(named, tables[0] if tables else None)
