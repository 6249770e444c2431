"""How a file of CATALOG and its part of NEIGHBORS are written: a row group at a time.

The rows of a scan, of a night and of a shortlist all go this way, in one process or a task a file.
The caller gives them as an iterator, which makes the rows of a row group when they are written.
N objects, P of them with a position.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import faults, schema, storage
from astroray.catalog import pixels
from astroray.catalog.pixels import CatalogFile
from astroray.scores import outliers

__all__ = ["in_order", "join_parts", "make_room", "write_part", "write_parts"]


def in_order(healpix_29_N: np.ndarray, is_placed_N: np.ndarray, rank_N: np.ndarray) -> np.ndarray:
    """The rows of a catalog in the order of its files, int64 [N]: by position, then by rank.

    healpix_29_N  [N]  rows in the order of `object_id`, by which ties go; any where not placed
    """
    placed_P, other_Q = np.flatnonzero(is_placed_N), np.flatnonzero(~is_placed_N)
    placed_P = placed_P[np.argsort(healpix_29_N[placed_P], kind="stable")]
    return np.concatenate([placed_P, other_Q[np.argsort(rank_N[other_Q])]])


def make_room(run_dir: str, files: Sequence[CatalogFile]) -> None:
    """Removes an earlier catalog, and the files of NEIGHBORS that will not be written again."""
    pixels.take_down(run_dir, files)
    folder = storage.join(run_dir, "neighbors")
    keep = {_part(run_dir, place) for place in range(len(files))}
    for name in storage.list_names(folder):
        if (path := storage.join(folder, name)) not in keep:
            storage.delete(path)


def write_part(
    run_dir: str, file: CatalogFile, place: int, groups: Iterable[pa.Table]
) -> pq.FileMetaData:
    """Writes a file of CATALOG, and its rows' NEIGHBORS as part `place`; returns its footer.

    groups  the rows of `file.row_groups`
    """
    options = {"compression": "zstd", "use_dictionary": False}  # of names it takes more room
    with (
        storage.publishing(_part(run_dir, place)) as sink,
        pq.ParquetWriter(sink, schema.NEIGHBORS, **options) as writer,
    ):

        def rows() -> Iterator[pa.Table]:
            for group in groups:
                writer.write_table(outliers.neighbors_table(group))
                yield group

        return pixels.write_rows(run_dir, file, rows())


def join_parts(
    run_dir: str,
    files: Sequence[CatalogFile],
    footers: Sequence[pq.FileMetaData],
    healpix_29_P: np.ndarray,
    *,
    name: str,
    created: str,
) -> None:
    """Writes what joins the files, so that the catalog is complete."""
    faults.reach("search.neighbors")
    pixels.join_files(run_dir, files, footers, healpix_29_P, name=name, created=created)
    faults.reach("search.catalog")


def write_parts(
    run_dir: str,
    files: Sequence[CatalogFile],
    groups_of: Callable[[CatalogFile], Iterable[pa.Table]],
    healpix_29_P: np.ndarray,
    *,
    name: str,
    created: str,
) -> None:
    """All of it in this process; `groups_of` makes the rows of a file."""
    make_room(run_dir, files)
    footers = [write_part(run_dir, file, n, groups_of(file)) for n, file in enumerate(files)]
    join_parts(run_dir, files, footers, healpix_29_P, name=name, created=created)


def _part(run_dir: str, place: int) -> str:
    return storage.join(run_dir, "neighbors", f"neighbors-{place:05d}.parquet")
