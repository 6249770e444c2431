"""How single measurements, a row each and in any order, become light curves with positions.

Of many objects (`id=` names their column) those of each are sorted by time. Tables of Parquet are
read here, those of text by `light_curve_text`.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray.errors import ConfigError, SchemaError, ShardError
from astroray.surveys.column_names import OF_LISTS, find_name
from astroray.surveys.light_curve_columns import (
    NAMES,
    Stated,
    band_column,
    choose,
    make_raw,
    of_one_band,
)
from astroray.surveys.light_curve_rows import RawCurve
from astroray.surveys.parquet_files import BAD_PARQUET, open_parquet
from astroray.surveys.table_columns import Column, texts, trimmed
from astroray.surveys.table_positions import TablePositions

__all__ = ["MeasuredColumns", "Measurements", "choose_measured", "read_parquet_measurements"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredColumns:
    """Which columns of a table of measurements are read."""

    numbers: Mapping[str, str]
    """By role: time, flux or mag, their errors, quality."""
    band: str
    """Of bands, of identifiers, of positions; empty where there is none."""
    id: str
    ra: str
    dec: str

    @property
    def others(self) -> list[str]:
        """Those that are not numbers, or need not be."""
        return list(dict.fromkeys(n for n in (self.band, self.id, self.ra, self.dec) if n))


def choose_measured(
    names: Sequence[str], stated: Stated, path: str, *, id_column: str
) -> MeasuredColumns:
    """The columns by well-known names, and `id_column` where it is not empty.

    Raises SchemaError where one is missing that is needed.
    """
    if id_column and id_column not in names:
        raise SchemaError(f"{path} has no column {id_column!r}, expected one of {list(names)}")
    ra, dec = (find_name(names, OF_LISTS[role]) for role in ("ra", "dec"))
    return MeasuredColumns(
        numbers=choose(names, stated, path),
        band=band_column(names, stated, path),
        id=id_column,
        ra=ra if ra and dec else "",
        dec=dec if ra and dec else "",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurements:
    """A table of N measurements of one band."""

    columns: Mapping[str, np.ndarray]
    """By role, [N] float64, NaN where missing."""
    others: Mapping[str, pa.Array]
    """By name, [N]: identifiers and positions as the table has them."""
    chosen: MeasuredColumns
    stated: Stated
    path: str

    @classmethod
    def of_columns(
        cls,
        found: Mapping[str, pa.ChunkedArray],
        chosen: MeasuredColumns,
        stated: Stated,
        path: str,
    ) -> "Measurements":
        """The measurements of the band that was asked for. Raises SchemaError where that is open.

        found  all columns of `chosen`, by name
        """
        columns = {role: _floats(found[name]) for role, name in chosen.numbers.items()}
        others = {name: _plain(found[name]) for name in chosen.others}
        if chosen.band:
            seen_N = _of_band(others[chosen.band], stated, path)
            columns = {role: values[seen_N] for role, values in columns.items()}
            others = {name: values.filter(pa.array(seen_N)) for name, values in others.items()}
        return cls(columns=columns, others=others, chosen=chosen, stated=stated, path=path)

    def one_curve(self, object_id: str) -> RawCurve:
        """All of them, in the order of the table, as one light curve."""
        ra_deg_M, dec_deg_M = self._places(np.zeros(len(self.columns["time"]), int), 1)
        return self._curve(slice(None), object_id, ra_deg_M[0], dec_deg_M[0])

    def by_object(self) -> list[RawCurve]:
        """The light curve of each object, in order of their first measurements.

        An object without an identifier has an empty one. Raises SchemaError where identifiers have
        lost digits.
        """
        encoded = self.others[self.chosen.id].dictionary_encode(null_encoding="encode")
        place_N = encoded.indices.to_numpy(zero_copy_only=False)
        try:
            where = f"column {self.chosen.id!r} of {self.path}"
            known = texts(Column(values=encoded.dictionary), where)
        except ConfigError as error:
            raise SchemaError(str(error)) from None
        order_N = np.argsort(self.columns["time"], kind="stable")
        by_object_N = order_N[np.argsort(place_N[order_N], kind="stable")]
        stops = np.cumsum(np.bincount(place_N, minlength=len(known)))
        groups = np.split(by_object_N, stops)[: len(known)]
        places = zip(*self._places(place_N, len(known)), strict=True)
        return [
            self._curve(group, name or "", ra_deg, dec_deg)
            for group, name, (ra_deg, dec_deg) in zip(groups, known, places, strict=True)
        ]

    def _curve(
        self, rows: slice | np.ndarray, object_id: str, ra_deg: float, dec_deg: float
    ) -> RawCurve:
        columns = {role: values[rows] for role, values in self.columns.items()}
        raw = make_raw(columns, self.chosen.numbers, self.stated, object_id)
        return dataclasses.replace(raw, ra_deg=float(ra_deg), dec_deg=float(dec_deg))

    def _places(self, place_N: np.ndarray, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination of each object, deg, of its first row that has both.

        NaN where none has, and, with a warning, of all where the columns hold no positions.
        """
        names = self.chosen.ra, self.chosen.dec
        ra_deg_M, dec_deg_M = np.full((2, num_objects), np.nan)
        if not all(names):
            return ra_deg_M, dec_deg_M
        has_both_N = pc.and_(*(pc.is_valid(self.others[name]) for name in names))
        rows = np.flatnonzero(has_both_N.to_numpy(zero_copy_only=False))
        object_K, first_K = np.unique(place_N[rows], return_index=True)
        piece = {name: Column(values=self.others[name].take(rows[first_K])) for name in names}
        try:
            positions = TablePositions(*names, self.path, angles="")
            positions.measure([piece])
            ra_deg_M[object_K], dec_deg_M[object_K] = positions.degrees(piece)
        except ConfigError as error:
            reason = str(error).partition(";")[0]
            _log.warning("light curves of %s have no positions: %s", self.path, reason)
        return ra_deg_M, dec_deg_M


def read_parquet_measurements(path: str, stated: Stated, *, id_column: str) -> Measurements:
    """What stands in a Parquet file of one measurement a row, of the band that was asked for.

    Raises ShardError where it cannot be read, SchemaError where columns are missing.
    """
    with open_parquet(path) as file:
        flat = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
        if len(flat) < len(file.schema_arrow) and not find_name(flat, NAMES["time"]):
            raise SchemaError(
                f"{path} has lists in its columns, expected one measurement a row; leave "
                f"id={id_column} out, where a row is a light curve"
            )
        chosen = choose_measured(flat, stated, path, id_column=id_column)
        names = list(dict.fromkeys([*chosen.numbers.values(), *chosen.others]))
        try:
            table = file.read(names, use_threads=False)
            table.validate(full=True)  # text of damaged pages may not be UTF-8
            columns = {name: table.column(name) for name in names}
            return Measurements.of_columns(columns, chosen, stated, path)
        except BAD_PARQUET as error:
            raise ShardError(f"{path} cannot be decoded: {error}") from None


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array, of the values themselves; text that is empty is null."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return (trimmed(column) if is_text else column).combine_chunks()


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy())


def _of_band(band_N: pa.Array, stated: Stated, path: str) -> np.ndarray:
    """Which measurements [N] are of the band that was asked for."""
    encoded = band_N.dictionary_encode(null_encoding="encode")
    bands = encoded.dictionary.to_pylist()
    seen_K = of_one_band(bands, stated, path)
    if not any(seen_K):
        measured = ", ".join(map(str, bands[:9])) or "none"
        _log.warning("%s has nothing in band %s: its bands are %s", path, stated.band, measured)
    return np.asarray(seen_K[encoded.indices.to_numpy(zero_copy_only=False)], bool)
