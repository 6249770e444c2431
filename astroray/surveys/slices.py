"""How objects that are read one by one become slices: images of one shape, lists of any length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from astroray import storage
from astroray.errors import DataError, FileError, SchemaError, StorageError
from astroray.surveys.objects import Objects
from astroray.surveys.shards import Cutouts, Pixels, Reject, Rows, reject

MAX_SLICE_ROWS = 64
MAX_SLICE_BYTES = 64 * 2**20
MAX_SLICE_VALUES = 500_000
"""Cadences or pixels of a slice of lists, 14 MB, unless one object has more."""


class _Listed(Protocol):
    """A light curve or spectrum."""

    @property
    def flux(self) -> np.ndarray: ...
    @property
    def row(self) -> int: ...
    @property
    def object_id(self) -> str: ...
    @property
    def ra_deg(self) -> float: ...
    @property
    def dec_deg(self) -> float: ...


Item = TypeVar("Item", bound=_Listed)
Slice = TypeVar("Slice", bound=Rows)


def gather_lists(
    found: Iterable[Item | Reject], make: Callable[[Sequence[Item]], Slice]
) -> Iterator[Slice | Reject]:
    """Light curves or spectra as slices of a few, and rejects, in row order."""
    pending: list[Item] = []
    num_values = 0
    for item in found:
        size = MAX_SLICE_VALUES if isinstance(item, Reject) else len(item.flux)
        if pending and num_values + size > MAX_SLICE_VALUES:
            yield make(pending)
            pending, num_values = [], 0
        if isinstance(item, Reject):
            yield item
        else:
            pending.append(item)
            num_values += size
    if pending:
        yield make(pending)


def identity_of(items: Sequence[Item], names: Sequence[str] | None = None) -> dict[str, Any]:
    """What Rows says of light curves or spectra: who they are; `names` in place of their own."""
    return {
        "row_B": np.array([item.row for item in items], np.int64),
        "object_id_B": [item.object_id for item in items] if names is None else names,
        "ra_deg_B": np.array([item.ra_deg for item in items], np.float64),
        "dec_deg_B": np.array([item.dec_deg for item in items], np.float64),
        "flags_B": np.zeros(len(items), np.int32),
    }


def gather(
    images: Iterable[tuple[int, np.ndarray] | Reject],
    objects: Objects,
    *,
    bands: tuple[str, ...],
    pixels: Pixels,
) -> Iterator[Cutouts | Reject]:
    """Rows with their image [C, Y, X], and rejects, as slices of consecutive rows of one shape.

    A slice has at most 64 rows and, unless one image is larger, 64 MiB. `objects` are those of
    the whole shard, with identifiers.
    """
    pending: list[tuple[int, np.ndarray]] = []
    for found in images:
        if pending and (isinstance(found, Reject) or not _fits(pending, found[1])):
            yield _cutouts(pending, objects, bands, pixels)
            pending = []
        if isinstance(found, Reject):
            yield found
        else:
            pending.append(found)
    if pending:
        yield _cutouts(pending, objects, bands, pixels)


def reject_file(row: int, path: str, error: DataError) -> Reject:
    """The row of a file that cannot be read: missing, unreadable though there, schema, corrupt."""
    if not isinstance(error, FileError):
        kind = "schema" if isinstance(error, SchemaError) else "corrupt"
        return reject(row, kind, str(error))
    try:
        is_there = storage.exists(path)
    except (FileError, StorageError):  # forbidden: a store does not even say whether it is there
        is_there = True
    return reject(row, "unreadable" if is_there else "missing", str(error))


def _fits(pending: Sequence[tuple[int, np.ndarray]], image_CYX: np.ndarray) -> bool:
    size_bytes = (len(pending) + 1) * image_CYX.nbytes
    is_small = len(pending) < MAX_SLICE_ROWS and size_bytes <= MAX_SLICE_BYTES
    return is_small and pending[0][1].shape == image_CYX.shape


def _cutouts(
    pending: Sequence[tuple[int, np.ndarray]],
    objects: Objects,
    bands: tuple[str, ...],
    pixels: Pixels,
) -> Cutouts:
    rows = [row for row, _ in pending]
    chosen = objects.take(rows)
    return Cutouts(
        row_B=np.array(rows, np.int64),
        object_id_B=[str(object_id) for object_id in chosen.object_id_N],
        ra_deg_B=chosen.ra_deg_N,
        dec_deg_B=chosen.dec_deg_N,
        image_BCYX=np.stack([image_CYX for _, image_CYX in pending]),
        bands=bands,
        pixels=pixels,
        flags_B=np.zeros(len(rows), np.int32),
    )
