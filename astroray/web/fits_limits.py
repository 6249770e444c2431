"""What the headers of an uploaded FITS file may claim before any reader believes them.

Only the cards that say how large things are are looked at, byte by byte, in time that is linear in
the headers: a kilobyte that claims 10^9 rows is refused here. Tile-compressed images are refused
too, since a tile says itself how large it becomes. Readers are lenient: they take small letters, a
HIERARCH before a name and values anywhere, so what they could read as such a card is refused unless
it is written as the standard has it, and what is not looked at is not handed on.
"""

import math
import re
import zlib

from astroray.errors import DataError

__all__ = ["check_fits", "unpack"]

GZIP_MAGIC = b"\x1f\x8b"
FITS_MAGIC = b"SIMPLE  ="
_BLOCK = 2880
_CARD = 80
_MAX_HEADER_BLOCKS = 64
_MAX_HDUS = 64
_MAX_AXES = 8
_BITS = (8, 16, 32, 64, -32, -64)
_INTEGER = re.compile(rb"[+-]?[0-9]{1,18}")
_SIZES = re.compile(rb"BITPIX|NAXIS[0-9]*|PCOUNT|GCOUNT|TFIELDS|ZNAXIS[0-9]*")
_KINDS = (b"SIMPLE", b"XTENSION")
_REFUSED = (b"ZIMAGE", b"ZTABLE", b"GROUPS")
_TABLES = (b"TABLE", b"BINTABLE", b"A3DTABLE")
_END = b"END".ljust(_CARD)


def unpack(data: bytes, *, max_bytes: int) -> bytes:
    """The bytes of a FITS file in a gzip upload, of other uploads themselves.

    Raises DataError above `max_bytes`, and where a gzip holds anything but FITS.
    """
    if not data.startswith(GZIP_MAGIC):
        return data
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(data, _BLOCK)
        if not plain.startswith(FITS_MAGIC):
            raise DataError(
                f"the gzip stream begins with {plain[:8]!r}, expected a FITS file in it"
            )
        plain += unpacker.decompress(unpacker.unconsumed_tail, max_bytes + 1 - len(plain))
    except zlib.error as error:
        raise DataError(f"the gzip stream is broken: {error}; pack the file again") from None
    if len(plain) > max_bytes:
        raise DataError(f"the file unpacks to more than {max_bytes} bytes; send a smaller cutout")
    if not unpacker.eof:
        raise DataError("the gzip stream ends before its end; send the whole file")
    return plain


def check_fits(data: bytes, *, max_pixels: int) -> bytes:
    """The HDUs of a FITS file, without what follows them.

    max_pixels  over all images of the file

    Raises DataError where it claims what it does not hold, or more than is allowed.
    """
    start, num_pixels = 0, 0
    for hdu in range(_MAX_HDUS + 1):
        if start >= len(data) or (hdu and not data.startswith(b"XTENSION", start)):
            return data[:start]
        if hdu == _MAX_HDUS:
            break
        sizes, is_table, start = _header(data, start, hdu)
        size_bytes, pixels = _claims(sizes, is_table, hdu, len(data))
        num_pixels += pixels
        if num_pixels > max_pixels:
            raise DataError(f"the images claim {num_pixels} pixels, expected at most {max_pixels}")
        if start + size_bytes > len(data):
            raise DataError(
                f"HDU {hdu} claims {size_bytes} bytes of data, {max(0, len(data) - start)} are "
                "there; send the whole file"
            )
        start += -(-size_bytes // _BLOCK) * _BLOCK
    raise DataError(f"the file has more than {_MAX_HDUS} HDUs, expected one cutout")


def _header(data: bytes, start: int, hdu: int) -> tuple[dict[str, int], bool, int]:
    """The sizes that a header names, whether it is a table's, and where its data begin."""
    sizes: dict[str, int] = {}
    is_table = False
    for place in range(start, start + _MAX_HEADER_BLOCKS * _BLOCK, _CARD):
        card = data[place : place + _CARD]
        if len(card) < _CARD:
            raise DataError(f"the header of HDU {hdu} has no END; send the whole file")
        if card == _END:
            blocks = -(-(place + _CARD - start) // _BLOCK)
            return sizes, is_table, start + blocks * _BLOCK
        name, value = _asked(card, hdu)
        if name in _KINDS:
            if place != start:
                raise DataError(f"HDU {hdu} says {name.decode()} twice, expected it once, first")
            is_table = value.strip(b"' ") in _TABLES
        elif name in _REFUSED and value != b"F":
            raise DataError(
                f"HDU {hdu} is compressed or grouped ({name.decode()}), which is not taken here; "
                "unpack it with funpack"
            )
        elif _SIZES.fullmatch(name):
            if not _INTEGER.fullmatch(value) or name.decode() in sizes:
                shown = value[:20].decode("ascii", "replace")
                raise DataError(f"{name.decode()} of HDU {hdu} is {shown!r}, expected one integer")
            sizes[name.decode()] = int(value)
    raise DataError(f"the header of HDU {hdu} is longer than {_MAX_HEADER_BLOCKS} blocks")


def _asked(card: bytes, hdu: int) -> tuple[bytes, bytes]:
    """Name and value of a card that says what an HDU is, or how large; of others, empty ones.

    Raises DataError where it is one to a lenient reader only.
    """
    head, equals, _ = card.partition(b"=")
    name = head.strip().upper().removeprefix(b"HIERARCH").strip()
    is_asked = (equals and card[:8].strip()) and (
        name in _KINDS or name in _REFUSED or _SIZES.fullmatch(name)
    )
    is_end = card.upper().startswith(b"END") and not card[3:4].isalnum() and card[3:4] not in b"_-"
    if is_end or (is_asked and card[:10] != name.ljust(8) + b"= "):
        shown = card[:20].rstrip().decode("ascii", "replace")
        raise DataError(
            f"a card of HDU {hdu} begins {shown!r}, expected capitals and '= ' in columns 9 and "
            "10, or END alone; write the file again"
        )
    return (name, card[10:].partition(b"/")[0].strip()) if is_asked else (b"", b"")


def _claims(sizes: dict[str, int], is_table: bool, hdu: int, num_bytes: int) -> tuple[int, int]:
    """Bytes of data and pixels that a header claims."""
    bits, num_axes = sizes.get("BITPIX", 0), sizes.get("NAXIS", -1)
    if bits not in _BITS or not 0 <= num_axes <= _MAX_AXES:
        raise DataError(
            f"HDU {hdu} has BITPIX {bits} and {num_axes} axes, expected one of {_BITS} and at most "
            f"{_MAX_AXES}"
        )
    axes = [sizes.get(f"NAXIS{axis}", -1) for axis in range(1, num_axes + 1)]
    extra, groups = sizes.get("PCOUNT", 0), sizes.get("GCOUNT", 1)
    fields = sizes.get("TFIELDS", 0)
    if not all(0 <= value <= num_bytes for value in (*axes, extra, fields)) or groups != 1:
        raise DataError(
            f"HDU {hdu} claims axes {axes}, PCOUNT {extra}, GCOUNT {groups} and {fields} columns "
            f"in a file of {num_bytes} bytes"
        )
    count = math.prod(axes) if axes else 0
    return abs(bits) // 8 * (count + extra), 0 if is_table else count
