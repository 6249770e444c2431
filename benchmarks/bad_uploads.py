"""Files that are uploaded: good ones, and bad ones without end, from a seed."""

import functools
import gzip
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from PIL import Image

_BLOCK = 2880


def fits_bytes(image_CYX: np.ndarray, bands: Sequence[str]) -> bytes:
    """A FITS file of one cutout, its bands in the header where there are any."""
    hdu = fits.PrimaryHDU(image_CYX.astype(np.float32))
    if bands:
        hdu.header["FILTER"] = ",".join(bands)
    return _written(hdu)


def picture_bytes(kind: str, *, size_px: int = 24) -> bytes:
    """A PNG or JPEG of something."""
    pixels = np.random.default_rng(4).integers(0, 255, (size_px, size_px, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()


def curve_bytes(time_d: np.ndarray, flux: np.ndarray, *, star: int = 77) -> bytes:
    """A FITS file of one light curve of TESS, with what its reader looks at."""
    columns = {
        "TIME": ("D", time_d),
        "PDCSAP_FLUX": ("E", flux),
        "PDCSAP_FLUX_ERR": ("E", 0 * flux + 1),
    }
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(name=name, format=form, array=values)
            for name, (form, values) in {
                **columns, "QUALITY": ("J", np.zeros(len(flux), np.int32)),
            }.items()
        ],
        name="LIGHTCURVE",
    )  # fmt: skip
    table.header["BJDREFI"] = 2457000
    primary = fits.PrimaryHDU()
    primary.header.update({"TELESCOP": "TESS", "OBJECT": f"TIC {star}", "TICID": star, "SECTOR": 3})
    sink = io.BytesIO()
    fits.HDUList([primary, table]).writeto(sink)
    return sink.getvalue()


def parquet_bytes(
    time_d: np.ndarray, flux: np.ndarray, *, names: Sequence[str] = ("a",), **options: Any
) -> bytes:
    """A Parquet file of one light curve under each of several names."""
    starts = np.arange(len(names) + 1, dtype=np.int32) * len(flux)
    lists = {
        name: pa.ListArray.from_arrays(starts, np.tile(values, len(names)))
        for name, values in (("time_btjd", time_d), ("flux", flux))
    }
    table = pa.table({"object_id": list(names), **lists})
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def header(*cards: str) -> bytes:
    """A FITS header of these cards, END and padding."""
    text = "".join(card.ljust(80) for card in (*cards, "END"))
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK).encode()


def table_of(num_rows: int, row_bytes: int = 8) -> bytes:
    """A FITS file without data whose second header claims a table of that many rows."""
    return header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0") + header(
        "XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", f"NAXIS1  = {row_bytes}",
        f"NAXIS2  = {num_rows}", "PCOUNT  = 0", "GCOUNT  = 1", "TFIELDS = 1", "TFORM1  = 'D'",
    )  # fmt: skip


def image_of(*axes: int, bits: int = -32, more: Sequence[str] = ()) -> bytes:
    """A FITS file without data whose header claims an image of these axes."""
    cards = [f"NAXIS{i}  = {n}" for i, n in enumerate(axes, 1)]
    return header(
        "SIMPLE  = T", f"BITPIX  = {bits}", f"NAXIS   = {len(axes)}", *cards, *more
    )  # fmt: skip


def spelt(data: bytes, name: bytes, card: bytes) -> bytes:
    """A FITS file whose card of that name stands there as `card`."""
    place = next(i for i in range(0, len(data), 80) if data[i : i + 8].rstrip() == name)
    return data[:place] + card.ljust(80) + data[place + 80 :]


def png_of(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size, and holds no pixels of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG that claims another size than it has."""
    data = bytearray(picture_bytes("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@functools.cache
def bombs() -> dict[str, bytes]:
    """Uploads that claim or unpack to far more than they are, by name."""
    image = np.ones((3, 16, 16), np.float32)
    packed = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image[0])]).writeto(packed)
    large = io.BytesIO()  # four million pixels in 30 kB
    pixels = np.zeros((3000, 1500), np.int16)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels)]).writeto(large)
    ways = (b"zimage  = T", b"ZIMAGE  = " + b"T".rjust(40), b"HIERARCH ZIMAGE = T", b"ZIMAGE= T")
    hidden = {
        f"compressed image as {way.decode()}": spelt(large.getvalue(), b"ZIMAGE", way)
        for way in ways
    }
    return hidden | {
        "table of 10^9 rows": table_of(10**9),
        "table of 10^9 empty rows": table_of(10**9, 0),
        "table of 10^18 rows": table_of(10**18),
        "image of 10^12 pixels": image_of(10**6, 10**6),
        "image with an empty axis": image_of(10**9, 0, 10**9),
        "negative axis": image_of(-16, -16),
        "999 axes": image_of(*[1] * 999),
        "axis that is a text": image_of(16, 16, more=["NAXIS1  = 'x'"]),
        "axis twice": image_of(4, 4, more=["NAXIS1  = 16"]) + bytes(2880),
        "groups": image_of(0, 16, more=["GROUPS  = T", "GCOUNT  = 1000000000"]),
        "heap": image_of(4, 4, more=["PCOUNT  = 1000000000000"]),
        "compressed image": packed.getvalue(),
        "compressed image in small letters": spelt(
            large.getvalue(), b"XTENSION", b"xtension= 'BINTABLE'"
        ),
        "axis in small letters": image_of(16, 16, more=["naxis1  = 1000000"]) + bytes(2880),
        "no END": b"SIMPLE  =".ljust(80) * 36,
        "endless header": b"SIMPLE  =".ljust(80) + b"COMMENT".ljust(80) * 10**5,
        "thousand HDUs": header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0")
        + header("XTENSION= 'IMAGE'", "BITPIX  = 8", "NAXIS   = 0") * 1000,
        "gzip of 64 MB": gzip.compress(bytes(64 * 2**20), 6),
        "gzip in gzip": gzip.compress(gzip.compress(fits_bytes(image, ("g", "r", "i")))),
        "gzip without end": gzip.compress(fits_bytes(image, ("g", "r", "i")))[:-9],
        "png of 10^10 pixels": png_of(10**5, 10**5),
        "png of no pixels": png_of(0, 0),
        "jpeg of 4 * 10^9 pixels": jpeg_of(65535, 65535),
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x93.",
        "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "zip": b"PK\x03\x04" + bytes(64),
        "html": b"<html><script>alert(1)</script>",
        "nothing": b"",
    }  # fmt: skip


@functools.cache
def curve_bombs() -> dict[str, bytes]:
    """Light curves that claim or unpack to far more than they are, by name."""
    time_d, flux = np.arange(100) / 720, np.ones(100)
    many = np.zeros(3_000_000)
    packed: dict[str, Any] = {"compression": "zstd"}
    lying = bytearray(parquet_bytes(time_d, flux, use_dictionary=False))
    lying[4:12] = b"\x15\x00\x15" + b"\xfe\xff\xff\xff\x0f"  # its first page claims 2 GB
    long_text = "x" * 1_000_000
    named: dict[str, bytes] = {
        name: data for name, data in bombs().items() if "png" not in name and "jpeg" not in name
    }
    return named | {
        "parquet that unpacks to 24 MB a column": parquet_bytes(many, many + 1, **packed),
        "parquet that repeats one value": parquet_bytes(many, many, **packed),
        "parquet of many rows": parquet_bytes(time_d, flux, names=["a"] * 10_000),
        "parquet with a long name": parquet_bytes(time_d, flux, names=[long_text] * 50, **packed),
        "parquet whose page lies": bytes(lying),
        "parquet without footer": parquet_bytes(time_d, flux)[:-8],
        "parquet of nothing": b"PAR1PAR1",
        "time without end": curve_bytes(np.geomspace(1e-9, 1e300, 100), flux),
    }


def spoiled(good: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Files that were good, cut short, with flipped bits, or with headers that lie.

    A flip may leave a file as good as it was, where it hits a pixel or a comment.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = bytearray(good[number % len(good)])
        how = number // len(good) % 4
        if how == 0:
            yield bytes(data[: rng.integers(0, len(data))])
            continue
        if how == 1:
            places = rng.integers(0, len(data), rng.integers(1, 30))
        else:  # where the headers are, and only digits there for how == 3
            places = rng.integers(0, min(len(data), 700), rng.integers(1, 6))
        for place in places:
            data[place] = rng.choice(list(b"0123456789-'. T=E")) if how == 3 else (
                data[place] ^ (1 << rng.integers(8))
            )  # fmt: skip
        yield bytes(data)


def _written(hdu: fits.PrimaryHDU) -> bytes:
    sink = io.BytesIO()
    hdu.writeto(sink)
    return sink.getvalue()
