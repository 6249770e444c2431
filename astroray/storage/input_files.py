"""Files as a listing saw them, and very many of them in little memory."""

import dataclasses
import functools
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

__all__ = ["FileList", "InputFile", "Paths"]

_BLOCK = 512
_FASTEST = 1  # of zlib's levels; the slower ones gain little here


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """A file of a survey as the listing saw it; other bytes under its path are another file."""

    path: str
    size_bytes: int
    version: str
    """etag on S3, time of the last change on a web server, on a disk that in ns."""


class FileList(Sequence[InputFile]):
    """Files in their order, packed: some ten to thirty bytes each, where as objects they take 300.

    They are compressed in blocks of 512. To go through them in order unpacks each block once; to
    look up a single file unpacks its whole block.
    """

    __slots__ = ("_blocks", "_is_by_path", "_length")

    def __init__(self, files: Iterable[InputFile] = ()) -> None:
        self._blocks: list[bytes] = []
        self._length = 0
        self._is_by_path = False  # nobody has looked
        left = iter(files)
        while block := tuple(itertools.islice(left, _BLOCK)):
            self._blocks.append(_pack(block))
            self._length += len(block)

    @classmethod
    def by_path(cls, files: Iterable[InputFile]) -> "FileList":
        """The files in order of path; a listing, which comes so, is never unpacked whole."""
        packed = files if isinstance(files, cls) else cls(files)
        if not packed._is_by_path:
            if any(one > after for one, after in itertools.pairwise(packed.paths)):
                packed = cls(sorted(packed, key=lambda file: file.path))
            packed._is_by_path = True
        return packed

    @property
    def paths(self) -> "Paths":
        """Their paths alone."""
        return Paths(self)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[InputFile]:
        for block in self._blocks:
            yield from _unpack(block)

    @overload
    def __getitem__(self, place: int) -> InputFile: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[InputFile]: ...

    def __getitem__(self, place: int | slice) -> InputFile | Sequence[InputFile]:
        if isinstance(place, slice):
            return self._part(range(self._length)[place])
        place = range(self._length)[place]
        return _unpack(self._blocks[place // _BLOCK])[place % _BLOCK]

    def _part(self, places: range) -> Sequence[InputFile]:
        """Whole blocks as they are packed, and fewer files as such."""
        is_whole = places.stop == self._length or places.stop % _BLOCK == 0
        if len(places) < _BLOCK or places.step != 1 or places.start % _BLOCK or not is_whole:
            return tuple(self[place] for place in places)
        part = FileList()
        part._blocks = self._blocks[places.start // _BLOCK : -(-places.stop // _BLOCK)]
        part._length = len(places)
        return part

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        if isinstance(other, FileList) and self._blocks == other._blocks:
            return True
        return len(self) == len(other) and all(map(InputFile.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"FileList({self._length} files)"


class Paths(Sequence[str]):
    """The paths of packed files."""

    def __init__(self, files: FileList) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[str]:
        for block in self._files._blocks:
            yield from _columns(block)[0]

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [file.path for file in self._files[place]]
        return self._files[place].path


def _pack(files: Sequence[InputFile]) -> bytes:
    columns = [
        [file.path for file in files],
        [file.size_bytes for file in files],
        [file.version for file in files],
    ]
    return zlib.compress(json.dumps(columns).encode(), _FASTEST)


@functools.lru_cache(maxsize=4)
def _unpack(block: bytes) -> tuple[InputFile, ...]:
    return tuple(
        InputFile(path=path, size_bytes=size_bytes, version=version)
        for path, size_bytes, version in zip(*_columns(block), strict=True)
    )


def _columns(block: bytes) -> tuple[list[str], list[int], list[str]]:
    """Paths, sizes and versions."""
    paths, sizes, versions = json.loads(zlib.decompress(block))
    return paths, sizes, versions
