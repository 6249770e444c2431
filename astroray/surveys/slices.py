"""How images that are read one by one become slices of equal shape."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from astroray import storage
from astroray.errors import FileError
from astroray.surveys.objects import Objects
from astroray.surveys.shards import Cutouts, Pixels, Reject

MAX_SLICE_ROWS = 64
MAX_SLICE_BYTES = 64 * 2**20


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


def fault_kind(path: str) -> str:
    """Class of a row whose file could not be opened: missing, or unreadable where it is there."""
    try:
        return "unreadable" if storage.exists(path) else "missing"
    except FileError:  # forbidden: an object store does not even say whether it is there
        return "unreadable"


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
