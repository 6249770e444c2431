"""How arrays come out of .npy, .npz and HDF5 files, and of FITS tables, in slices of rows."""

import contextlib
import io
import math
import subprocess
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np
from numpy.lib import format as npy

from astroray import storage
from astroray.errors import ShardError
from astroray.surveys.array_headers import ArrayHeader

if TYPE_CHECKING:
    import h5py

SUFFIXES = (".npz", ".h5", ".hdf5")
"""Of files that hold several arrays by name."""
_RANDOM_ACCESS = (".npy", ".h5", ".hdf5", ".fits", ".fit")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_FITS_MAGICS = (b"SIMPLE  ", b"\x1f\x8b")  # plain and gzip
_CHUNK_CACHE_BYTES = 64 * 2**20
"""A chunk of HDF5 that several slices of rows share is unpacked once."""
_TEXT_TIMEOUT_S = 120
_BAD_FILE = (
    OSError, EOFError, ValueError, TypeError, KeyError, SyntaxError, RuntimeError,
    NotImplementedError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
"""What NumPy, zipfile and h5py raise on bytes that are no whole file of theirs."""


class ArrayFile(Protocol):
    """An open file of arrays; that of .npy is called '', those in groups of HDF5 `group/name`.

    Text of any length has the dtype U.
    """

    is_table: bool
    """Whether the first axis of every array is the objects."""

    @property
    def headers(self) -> Mapping[str, ArrayHeader]:
        """By name, as stored."""

    def rows(self, name: str, ranges: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """The rows start..stop of each range, ranges ascending and apart; raises ShardError."""


def has_random_access(path: str) -> bool:
    """Whether rows in the middle of such a file are read without those before."""
    return not storage.is_remote(path) and path.lower().endswith(_RANDOM_ACCESS)


@contextlib.contextmanager
def open_arrays(path: str) -> Iterator[ArrayFile]:
    """The arrays of a .npy, .npz or HDF5 file or a FITS table, told apart by their first bytes.

    Raises ShardError where it is truncated or something else, FileError where it is missing.
    """
    with storage.local_copy(path) as copy, contextlib.ExitStack() as stack:
        with _file_errors(path):
            opened = _open(copy, path, stack)
        yield opened


def _open(copy: Path, path: str, stack: contextlib.ExitStack) -> ArrayFile:
    with copy.open("rb") as file:
        magic = file.read(len(_HDF5_MAGIC))
    if magic.startswith(npy.MAGIC_PREFIX):
        return _NpyFile(copy, path)
    if magic.startswith(b"PK"):
        return _NpzFile(stack.enter_context(zipfile.ZipFile(copy)), path)
    if magic == _HDF5_MAGIC:
        import h5py

        # Not locked: an archive may be on a file system that takes no locks.
        opened = h5py.File(copy, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
        return _Hdf5File(stack.enter_context(opened), path)
    if magic.startswith(_FITS_MAGICS):
        from astroray.surveys.fits_arrays import FitsArrays
        from astroray.surveys.fits_files import open_fits

        return FitsArrays(stack.enter_context(open_fits(path)))
    raise ValueError(f"it begins with {magic!r}" if magic else "it has no bytes")


class _NpyFile:
    """A .npy file, mapped into memory: only the rows that are asked for are read."""

    is_table = False

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

    is_table = False

    def __init__(self, archive: zipfile.ZipFile, path: str) -> None:
        self.archive = archive
        self.path = path
        self.headers: dict[str, ArrayHeader] = {}
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


class _Hdf5File:
    """An HDF5 file: of each array the rows that are asked for, and the chunks around them.

    What would be read from other files (external links and storage, virtual arrays) is left out,
    as is what is no number and no text.
    """

    is_table = False

    def __init__(self, file: "h5py.File", path: str) -> None:
        self.file = file
        self.path = path
        self.headers: dict[str, ArrayHeader] = {}
        file.visititems(self._note)  # follows no link to another file

    def _note(self, name: str | bytes, item: "h5py.Dataset | h5py.Group") -> None:
        import h5py

        if isinstance(name, bytes) or not isinstance(item, h5py.Dataset) or item.shape is None:
            return  # bytes are a name that is no text
        if item.is_virtual or item.external:
            return
        is_free_text = h5py.check_string_dtype(item.dtype) is not None and item.dtype.kind == "O"
        if is_free_text or item.dtype.kind in "biufS":
            _check_written(name, item)
            dtype = np.dtype("U") if is_free_text else item.dtype
            self.headers[name] = ArrayHeader(shape=item.shape, dtype=dtype)

    def rows(self, name: str, ranges: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        header = _plain_header(self.headers, name, self.path)
        with _file_errors(self.path):
            for start, stop in ranges:
                if header.dtype.kind == "U":
                    yield _free_text(self.file.filename, name, start, stop)
                else:
                    yield np.asarray(self.file[name][start:stop])


_PRINT_TEXT = """
import io, sys, h5py, numpy
path, name, start, stop = sys.argv[1:]
with h5py.File(path, "r", locking=False) as file:
    text = file[name].asstr(errors="replace")[int(start):int(stop)].astype(str)
packed = io.BytesIO()
numpy.save(packed, text)
sys.stdout.buffer.write(packed.getvalue())
"""


def _free_text(path: str, name: str, start: int, stop: int) -> np.ndarray:
    """Text of any length, read by a process of its own: of damaged text the library never ends."""
    command = [sys.executable, "-I", "-c", _PRINT_TEXT, path, name, str(start), str(stop)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TEXT_TIMEOUT_S, check=True)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"array {name!r} gives no text within {_TEXT_TIMEOUT_S} s, so it is damaged"
        ) from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(f"array {name!r} cannot be read: {said or error}") from None
    return np.asarray(np.load(io.BytesIO(done.stdout), allow_pickle=False))


def _check_written(name: str, stored: "h5py.Dataset") -> None:
    """Raises ValueError where numbers that the header promises lie nowhere: HDF5 makes them 0."""
    if stored.chunks:
        lengths = zip(stored.shape, stored.chunks, strict=True)
        expected = math.prod(-(-length // part) for length, part in lengths)
        found, unit = stored.id.get_num_chunks(), "chunks"
    else:
        expected = math.prod(stored.shape) * stored.id.get_type().get_size()
        found, unit = stored.id.get_storage_size(), "bytes"
    if found < expected:
        raise ValueError(f"array {name!r} has {found} {unit}, its header says {expected}")


def _skip_header(member: IO[bytes]) -> int:
    _read_header(member)
    return member.tell()


def _plain_header(headers: Mapping[str, ArrayHeader], name: str, path: str) -> ArrayHeader:
    header = headers.get(name)
    if header is None:
        raise ShardError(f"{path} has no array {name!r}, expected one of {sorted(headers)}")
    if header.dtype.hasobject:
        raise ShardError(
            f"array {name!r} of {path} holds Python objects, expected numbers or text; reading it "
            "could run code, so save it again as a plain array"
        )
    return header


def _read_header(file: IO[bytes]) -> ArrayHeader:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its header has version {version}, expected 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if any(length < 0 for length in shape):
        raise ValueError(f"its header says shape {shape}")
    return ArrayHeader(shape=shape, dtype=dtype, is_fortran=is_fortran and len(shape) > 1)


@contextlib.contextmanager
def _file_errors(path: str) -> Iterator[None]:
    try:
        yield
    except _BAD_FILE as error:
        raise ShardError(f"{path} is no whole .npy, .npz or HDF5 file: {error}") from None
