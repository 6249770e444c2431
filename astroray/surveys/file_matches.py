"""Which row of a table of objects belongs to which file, where neither fits into memory as names.

Names are compared by hashes of eight bytes, so that of a table only a piece is held, and of each
file a few numbers beside its path. The rows that fit some file are put into the order of the files
on disk. F files, B rows of a piece, P pairs of a file and a row that may belong to it.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from astroray.errors import ConfigError
from astroray.storage.spill import Spill
from astroray.surveys.file_keys import FileKeys
from astroray.surveys.objects import Objects, basename, stem

__all__ = ["NamedRows", "match_files"]

_log = logging.getLogger(__name__)

FILES_AT_ONCE = 65_536
_MAX_PAIRS = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedRows:
    """Rows of a table of objects."""

    objects: Objects
    names: Sequence[str | None]
    """[B] the file name of each row, else its identifier."""


def match_files(
    pieces: Callable[[], Iterable[NamedRows]],
    paths: Sequence[str],
    folder: str,
    *,
    where: str,
    step: int,
) -> Iterator[Objects]:
    """The objects of `step` files after the other; see `ObjectTable.by_file`."""
    with Spill() as pairs:
        _find_pairs(pieces(), paths, pairs)
        row_F = _choose_rows(pairs, paths, where)
        _check_found(pieces, row_F, paths, where)
        block = max(1, FILES_AT_ONCE // step) * step
        for first in range(0, len(paths), block):
            own = Objects.from_files(paths[first : first + block], folder)
            objects = _objects(pairs.between(first, first + block), row_F, own, first)
            for start in range(0, len(own.object_id_N), step):
                yield objects.take(slice(start, start + step))


def _find_pairs(pieces: Iterable[NamedRows], paths: Sequence[str], pairs: Spill) -> None:
    """Adds every row that may belong to a file, and some that do by chance, by its number."""
    names = FileKeys((basename(path) for path in paths), len(paths))
    stems = FileKeys((stem(basename(path)) for path in paths), len(paths))
    first_row = 0
    for piece in pieces:
        bases = [basename(name or "") for name in piece.names]
        looked_up = [
            (files, *files.find(keys))
            for files in (names, stems)
            for keys in (bases, [stem(base) for base in bases])
        ]
        ends_B = np.cumsum(np.sum([count_B for _, _, count_B in looked_up], axis=0))
        cuts = np.flatnonzero(np.diff(ends_B // _MAX_PAIRS)) + 1  # very many files of one name
        for start, stop in itertools.pairwise([0, *cuts.tolist(), len(bases)]):
            part = slice(start, stop)
            found = [
                _row_and_file(files, start, left_B[part], count_B[part])
                for files, left_B, count_B in looked_up
            ]
            _add_pairs(piece, np.unique(np.concatenate(found), axis=0), first_row, pairs)
        first_row += len(bases)


def _row_and_file(
    files: FileKeys, first: int, left_B: np.ndarray, count_B: np.ndarray
) -> np.ndarray:
    """[P, 2] rows of a piece, from `first`, each with a file that has a key of it."""
    row_P = np.repeat(np.arange(first, first + len(count_B)), count_B)
    return np.stack([row_P, files.files(left_B, count_B)], axis=1)


def _add_pairs(piece: NamedRows, pair_P2: np.ndarray, first_row: int, pairs: Spill) -> None:
    if not len(pair_P2):
        return
    row_P, file_P = pair_P2.T
    rows = piece.objects.to_rows().take(pa.array(row_P))
    names = [piece.names[row] or "" for row in row_P.tolist()]
    rows = rows.append_column("name", pa.array(names, pa.large_string()))
    rows = rows.append_column("row", pa.array(row_P + first_row, pa.int64()))
    pairs.add(file_P, rows.append_column("file", pa.array(file_P, pa.int64())))


def _fit(name: str, path: str) -> tuple[int, int]:
    """How a row's name fits a file: 0 by the file's whole name, 1 by that without suffix, -1 not;
    and how many folders directly above it are the same.
    """
    keys = (basename(name), stem(basename(name)))
    own = basename(path)
    level = 0 if own in keys else 1 if stem(own) in keys else -1
    return level, _shared_folders(name, path)


def _shared_folders(name: str, path: str) -> int:
    if "/" not in name and "\\" not in name:
        return 0
    count = 0
    folders = (text.replace("\\", "/").split("/")[-2::-1] for text in (name, path))
    for one, other in zip(*folders, strict=False):
        if one != other:
            break
        count += 1
    return count


def _choose_rows(pairs: Spill, paths: Sequence[str], where: str) -> np.ndarray:
    """[F] the row that fits each file best, -1 where none fits.

    Raises ConfigError where several fit as well and differ.
    """
    row_F = np.full(len(paths), -1)
    for first in range(0, len(paths) if pairs.num_rows else 0, FILES_AT_ONCE):
        rows = pairs.between(first, first + FILES_AT_ONCE)
        rows, level_P, shared_P = _fitting(rows, paths[first : first + FILES_AT_ONCE], first)
        file_P, row_P = (rows[name].to_numpy() for name in ("file", "row"))
        order_P = np.lexsort((row_P, -shared_P, level_P, file_P))
        fit_P3 = np.stack([file_P, level_P, shared_P], axis=1)[order_P]
        is_best_P = np.diff(fit_P3[:, 0], prepend=-1) != 0
        best_P = np.maximum.accumulate(np.where(is_best_P, np.arange(len(fit_P3)), 0))
        row_F[fit_P3[is_best_P, 0]] = row_P[order_P][is_best_P]
        as_good_P = ~is_best_P & (fit_P3 == fit_P3[best_P]).all(axis=1)
        if as_good_P.any():
            rivals = np.isin(fit_P3[:, 0], fit_P3[as_good_P, 0]) & (as_good_P | is_best_P)
            _refuse_rivals(rows.take(pa.array(order_P[rivals])), paths, where)
    return row_F


def _fitting(
    rows: pa.Table, paths: Sequence[str], first: int
) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """The pairs whose names really fit, not only their hashes, and how well; see `_fit`.

    paths  of the files from number `first`, which the pairs are of
    """
    pairs = zip(rows["name"].to_pylist(), rows["file"].to_pylist(), strict=True)
    fits = [_fit(name, paths[file - first]) for name, file in pairs]
    fit_P2 = np.array(fits, np.int64).reshape(-1, 2)
    is_pair_P = fit_P2[:, 0] >= 0
    return rows.filter(pa.array(is_pair_P)), *fit_P2[is_pair_P].T


def _refuse_rivals(rows: pa.Table, paths: Sequence[str], where: str) -> None:
    """Raises ConfigError where rows that fit one file equally well are not the same."""
    of_file: dict[int, list[tuple[int, tuple[str | None, str, str]]]] = {}
    for row in rows.to_pylist():
        identity = row["object_id"], repr(row["ra"]), repr(row["dec"])
        of_file.setdefault(row["file"], []).append((row["row"], identity))
    for file, found in of_file.items():
        if len({identity for _, identity in found}) > 1:
            raise ConfigError(
                f"{where} has {len(found)} rows for {basename(paths[file])} (rows {found[0][0]} "
                f"and {found[1][0]}, counted from 0) that disagree; expected one row a file, give "
                "paths with folders"
            )


def _check_found(
    pieces: Callable[[], Iterable[NamedRows]], row_F: np.ndarray, paths: Sequence[str], where: str
) -> None:
    found = np.flatnonzero(row_F >= 0)
    if not len(found) and len(paths):
        example = next(name for piece in pieces() for name in piece.names if name)
        raise ConfigError(
            f"none of {len(paths)} files is in {where}: files are like {basename(paths[0])!r}, the "
            f"table names {example!r}; name the right column with file=COLUMN or id=COLUMN"
        )
    _, first_of_each = np.unique(row_F[found], return_index=True)
    if len(again := np.delete(found, first_of_each)):
        row = row_F[again[0]]
        first = int(np.argmax(row_F == row))
        raise ConfigError(
            f"{paths[first]} and {paths[again[0]]} are both row {row} of {where}, expected one "
            "file a row; write paths with folders into the table or name fewer files"
        )
    if len(found) < len(paths):
        missing = len(paths) - len(found)
        _log.warning("%d of %d files are not in %s", missing, len(paths), where)


def _objects(rows: pa.Table, row_F: np.ndarray, own: Objects, first: int) -> Objects:
    """The objects of the files from number `first`: as their rows say, else `own`."""
    ids = list(own.object_id_N)
    ra_deg_N, dec_deg_N = own.ra_deg_N.copy(), own.dec_deg_N.copy()
    if len(rows):
        file_P = rows["file"].to_numpy()
        chosen = np.flatnonzero(rows["row"].to_numpy() == row_F[file_P])
        place_M, known = file_P[chosen] - first, Objects.from_rows(rows.take(pa.array(chosen)))
        for place, name in zip(place_M.tolist(), known.object_id_N, strict=True):
            ids[place] = name or ids[place]
        ra_deg_N[place_M], dec_deg_N[place_M] = known.ra_deg_N, known.dec_deg_N
    return Objects(object_id_N=ids, ra_deg_N=ra_deg_N, dec_deg_N=dec_deg_N)
