"""How a light curve comes out of an npz file, whose arrays are its columns."""

import numpy as np

from astroray.errors import SchemaError
from astroray.surveys.array_files import open_arrays
from astroray.surveys.light_curve_columns import (
    Stated,
    band_column,
    choose,
    make_raw,
    of_one_band,
    star_of_file,
)
from astroray.surveys.light_curve_rows import RawCurve

__all__ = ["read_arrays"]


def read_arrays(path: str, stated: Stated) -> RawCurve:
    """The light curve whose columns are arrays of an npz file.

    Raises FileError or ShardError where it cannot be read, SchemaError where columns are missing.
    """
    with open_arrays(path) as arrays:
        chosen = choose(list(arrays.headers), stated, path)
        columns = {}
        for role, name in chosen.items():
            header = arrays.headers[name]
            if len(header.shape) != 1 or header.dtype.kind not in "iuf":
                raise SchemaError(
                    f"array {name!r} of {path} is {header.dtype} of shape {header.shape}, expected "
                    "numbers [T]"
                )
            (columns[role],) = arrays.rows(name, [(0, header.shape[0])])
        num = len(columns["time"])
        alike = [
            name
            for name, header in arrays.headers.items()
            if header.shape == (num,) and header.dtype.kind in "iufUS"
        ]
        seen_T = np.ones(num, bool)
        if band := band_column(alike, stated, path):
            (band_T,) = arrays.rows(band, [(0, num)])
            names = band_T.astype(str) if band_T.dtype.kind == "S" else band_T
            seen_T = of_one_band(names.tolist(), stated, path)
    with np.errstate(invalid="ignore"):  # damaged floats become NaN
        floats = {
            role: (column[seen_T] if len(column) == num else column).astype(np.float64)
            for role, column in columns.items()
        }
    return make_raw(floats, chosen, stated, star_of_file(path))
