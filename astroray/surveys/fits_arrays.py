"""What the columns of a FITS table are as arrays: images of all rows, and who they are."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from astroray.errors import ShardError
from astroray.surveys.array_headers import ArrayHeader
from astroray.surveys.fits_files import FitsFile


def image_table(file: FitsFile) -> int | None:
    """The first table HDU with a column of images, numbers of two or more axes a row (TDIM)."""
    for index in file.tables:
        if any(_is_image(header) for header in file.column_headers(index).values()):
            return index
    return None


class FitsArrays:
    """The columns of the first table that has images, an `array_files.ArrayFile`.

    Vectors of numbers are left out: nothing says that they are the rows of an image.
    """

    is_table = True

    def __init__(self, file: FitsFile) -> None:
        self.file = file
        index = image_table(file)
        if index is None:
            columns = [item for i in file.tables for item in file.column_headers(i).items()]
            flat = {name: list(header.shape[1:]) for name, header in columns if header.shape[1:]}
            raise ShardError(
                f"{file.path} has no table with a column of images, got {len(columns)} columns, "
                f"those with several numbers a row {flat}; expected one of [Y, X] or [C, Y, X] by "
                "its TDIM"
            )
        self.index = index
        self.headers: Mapping[str, ArrayHeader] = {
            name: header
            for name, header in file.column_headers(index).items()
            if len(header.shape) != 2 or header.dtype.kind == "U"
        }

    def rows(self, name: str, ranges: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """The rows start..stop of each range; raises ShardError where they cannot be decoded."""
        if name not in self.headers:
            raise ShardError(
                f"{self.file.path} has no column {name!r}, expected one of {sorted(self.headers)}"
            )
        for start, stop in ranges:
            yield self.file.read_columns(self.index, [name], start=start, stop=stop)[name]


def _is_image(header: ArrayHeader) -> bool:
    return len(header.shape) > 2 and header.dtype.kind in "buif"
