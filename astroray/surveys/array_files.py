"""How arrays come out of .npy and .npz files in slices of rows, without pickle."""

import contextlib
import dataclasses
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.lib import format as npy

from astroray import storage
from astroray.errors import ShardError

_BAD_FILE = (
    OSError, EOFError, ValueError, TypeError, KeyError, SyntaxError, RuntimeError,
    NotImplementedError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
"""What NumPy and zipfile raise on bytes that are no whole .npy or .npz file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """Shape and type of a stored array, read without its numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of the numbers, unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile(Protocol):
    """An open file of arrays; the array of a .npy file has the name ''."""

    @property
    def headers(self) -> Mapping[str, Header]:
        """By name, as stored."""

    def rows(self, name: str, ranges: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """The rows start..stop of each range, ranges ascending and apart; raises ShardError."""


@contextlib.contextmanager
def open_arrays(path: str) -> Iterator[ArrayFile]:
    """The arrays of a .npy or .npz file, told apart by their first bytes.

    Raises ShardError where it is truncated or something else, FileError where it is missing.
    """
    with storage.local_copy(path) as copy, contextlib.ExitStack() as stack:
        with _file_errors(path):
            opened = _open(copy, path, stack)
        yield opened


def _open(copy: Path, path: str, stack: contextlib.ExitStack) -> ArrayFile:
    with copy.open("rb") as file:
        magic = file.read(len(npy.MAGIC_PREFIX))
    if magic == npy.MAGIC_PREFIX:
        return _NpyFile(copy, path)
    if magic[:2] == b"PK":
        return _NpzFile(stack.enter_context(zipfile.ZipFile(copy)), path)
    raise ValueError(f"it begins with {magic!r}" if magic else "it has no bytes")


class _NpyFile:
    """A .npy file, mapped into memory: only the rows that are asked for are read."""

    def __init__(self, copy: Path, path: str) -> None:
        self.copy = copy
        self.path = path
        with copy.open("rb") as file:
            header = _read_header(file)
            missing_bytes = file.tell() + header.size_bytes - copy.stat().st_size
        if missing_bytes > 0 and not header.dtype.hasobject:
            raise ValueError(f"it is truncated, {missing_bytes} bytes are missing")
        self.headers = {"": header}

    def rows(self, name: str, ranges: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        header = _plain_header(self.headers, name, self.path)
        if not header.size_bytes:
            yield from (np.zeros((stop - start, *header.shape[1:])) for start, stop in ranges)
            return
        with _file_errors(self.path):
            array = np.load(self.copy, mmap_mode="r", allow_pickle=False)
        for start, stop in ranges:
            yield array[start:stop]


class _NpzFile:
    """A .npz file: each array is unpacked from its beginning as far as rows are asked for."""

    def __init__(self, archive: zipfile.ZipFile, path: str) -> None:
        self.archive = archive
        self.path = path
        self.headers: dict[str, Header] = {}
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            with archive.open(info) as member:
                header = _read_header(member)
                stored_bytes = info.file_size - member.tell()
            if stored_bytes < header.size_bytes and not header.dtype.hasobject:
                raise ValueError(
                    f"array {info.filename[:-4]!r} has {stored_bytes} bytes, its header says "
                    f"{header.size_bytes}"
                )
            self.headers[info.filename.removesuffix(".npy")] = header

    def rows(self, name: str, ranges: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        header = _plain_header(self.headers, name, self.path)
        if header.is_fortran:  # its rows lie apart, so it is unpacked whole
            with _file_errors(self.path), self.archive.open(f"{name}.npy") as member:
                array = npy.read_array(member, allow_pickle=False)
            yield from (array[start:stop] for start, stop in ranges)
            return
        row_bytes = header.size_bytes // max(header.shape[0], 1)
        with _file_errors(self.path), self.archive.open(f"{name}.npy") as member:
            first_byte = _skip_header(member)
            for start, stop in ranges:
                member.seek(first_byte + start * row_bytes)
                data = member.read((stop - start) * row_bytes)
                yield np.frombuffer(data, header.dtype).reshape(stop - start, *header.shape[1:])
            member.read(1)  # at the end, zipfile compares the checksum


def _skip_header(member: IO[bytes]) -> int:
    _read_header(member)
    return member.tell()


def _plain_header(headers: Mapping[str, Header], name: str, path: str) -> Header:
    header = headers.get(name)
    if header is None:
        raise ShardError(f"{path} has no array {name!r}, expected one of {sorted(headers)}")
    if header.dtype.hasobject:
        raise ShardError(
            f"array {name!r} of {path} holds Python objects, expected numbers or text; reading it "
            "could run code, so save it again as a plain array"
        )
    return header


def _read_header(file: IO[bytes]) -> Header:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its header has version {version}, expected 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if any(length < 0 for length in shape):
        raise ValueError(f"its header says shape {shape}")
    return Header(shape=shape, dtype=dtype, is_fortran=is_fortran and len(shape) > 1)


@contextlib.contextmanager
def _file_errors(path: str) -> Iterator[None]:
    try:
        yield
    except _BAD_FILE as error:
        raise ShardError(f"{path} is no whole .npy or .npz file: {error}") from None
