"""Which files of a list bear a name, by hashes of the names: twelve bytes a file.

F files, B names that are looked up, P pairs of a name and a file that may bear it.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from astroray.storage import FileList

__all__ = ["FileKeys", "find_paths"]

_PATHS_AT_ONCE = 4_096


class FileKeys:
    """What files may be called, in order of a hash, for looking up which files have a key.

    Equal keys are always found; whoever needs to be sure compares the names themselves.
    """

    def __init__(self, keys: Iterable[str], num_files: int) -> None:
        hash_F = np.fromiter(map(hash, keys), np.int64, num_files)
        self._order_F = np.argsort(hash_F, kind="stable").astype(np.int32)
        self._hash_F = hash_F[self._order_F]

    def find(self, key_B: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Where in the order the files of each key begin, and how many they are, [B] each."""
        hash_B = np.fromiter(map(hash, key_B), np.int64)
        left_B = np.searchsorted(self._hash_F, hash_B, "left")
        return left_B, np.searchsorted(self._hash_F, hash_B, "right") - left_B

    def files(self, left_B: np.ndarray, count_B: np.ndarray) -> np.ndarray:
        """The files themselves, those of each key after the other, [P]."""
        nth_P = np.arange(count_B.sum()) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        return self._order_F[np.repeat(left_B, count_B) + nth_P]


def find_paths(paths: Iterable[str], files: FileList) -> Iterator[int]:
    """Where each path stands among the files, whose paths are unique; -1 where it does not.

    As fast as can be where the paths come nearly in the order of the files.
    """
    keys, left = FileKeys(files.paths, len(files)), iter(paths)
    while some := list(itertools.islice(left, _PATHS_AT_ONCE)):
        left_B, count_B = keys.find(some)
        near_P = iter(keys.files(left_B, count_B).tolist())
        for path, count in zip(some, count_B.tolist(), strict=True):
            near = list(itertools.islice(near_P, count))
            yield next((place for place in near if files[place].path == path), -1)
