"""Which row of a table of the user's belongs to which object: by identifier, or by position."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import astropy.units as u
import numpy as np
import pandas
from astropy.coordinates import SkyCoord
from astropy.table import Table

from astroray import storage
from astroray.errors import ConfigError, FileError
from astroray.surveys.file_matches import NamedRows
from astroray.surveys.object_tables import ObjectTable, TableOptions
from astroray.surveys.objects import Objects, basename, stem
from astroray.surveys.table_columns import Column, Columns, open_columns

__all__ = ["join_table"]

_TEXT_TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_CLASH = "_table"
_ID, _PLACES, _RADIUS = (
    "id= (--id)",
    "ra= and dec= (--ra, --dec)",
    "radius_arcsec= (--radius-arcsec)",
)
"""How errors call what says which columns are meant: in Python, and on the command line."""


def join_table(
    objects: pandas.DataFrame,
    table: str | os.PathLike[str] | pandas.DataFrame | Table,
    options: TableOptions,
    *,
    radius_arcsec: float | None,
    files: Callable[[], Sequence[str]] | None = None,
) -> pandas.DataFrame:
    """`objects` in their order, the columns of `table` behind theirs, missing where it has no row.

    objects        has object_id, ra and dec
    options        names its columns of identifiers and positions where they have unusual names
    radius_arcsec  None: by identifier, or file name; else the nearest row within so much, how far
                   it is in the column separation_arcsec
    files          the file of each object, empty where unknown; asked for where no row bears the
                   identifier of one, as those of spectra and light curves are no file names

    A column that both have is called NAME_table, and attrs["joined"] says by which columns rows
    were matched, and how many; attrs["columns"] has their names by those that the table gave,
    attrs["rows"] and attrs["rows_unmatched"] count its rows. Raises ConfigError where not one
    object has a row, where the table has several rows of one, where columns of positions are named
    without a radius, and where it cannot be read.
    """
    if radius_arcsec is not None and not (
        isinstance(radius_arcsec, int | float | np.number) and radius_arcsec > 0
    ):
        raise ConfigError(f"radius_arcsec is {radius_arcsec!r}, expected a number above 0")
    if radius_arcsec is None and (options.ra or options.dec):
        raise ConfigError(
            f"column {options.ra or options.dec!r} holds positions, which nothing is matched by; "
            f"say within how many arcsec, with {_RADIUS}"
        )
    with contextlib.ExitStack() as stack:
        return _join(objects, table, *_columns(table, stack), options, radius_arcsec, files)


def _join(
    objects: pandas.DataFrame,
    table: Any,
    source: Columns,
    where: str,
    options: TableOptions,
    radius_arcsec: float | None,
    files: Callable[[], Sequence[str]] | None,
) -> pandas.DataFrame:
    by_place = radius_arcsec is not None
    opened = ObjectTable.of(source, options, where, with_places=by_place)
    if opened is None or (by_place and "ra" not in opened.columns):
        lacks, advice = (
            ("positions", f"name them with {_PLACES}")
            if by_place
            else ("identifiers", f"name them with {_ID}, or match by position with {_RADIUS}")
        )
        raise ConfigError(f"{where} has no {lacks}, got the columns {list(source.names)}; {advice}")
    found = opened.read()
    if radius_arcsec is None:
        row_N = _rows_of(list(objects["object_id"]), found, where)
        if np.all(row_N < 0) and files:
            row_N = _rows_of(list(files()), found, where)
        apart_arcsec_N = None
    else:
        row_N, apart_arcsec_N = _nearest(objects, found.objects, radius_arcsec)
    if len(objects) and np.all(row_N < 0):
        raise ConfigError(_no_match(objects, found, where, radius_arcsec))
    theirs = _frame(source, table).reindex(row_N).set_index(objects.index)
    names = {n: f"{n}{_CLASH}" if n in objects.columns else n for n in theirs.columns}
    theirs.columns = list(names.values())
    if apart_arcsec_N is not None:
        theirs.insert(0, "separation_arcsec", apart_arcsec_N)
    joined = objects.join(theirs)
    by = ("id", "file") if radius_arcsec is None else ("ra", "dec")
    named = " and ".join(repr(opened.columns[key]) for key in by if key in opened.columns)
    num_matched = np.count_nonzero(row_N >= 0)
    joined.attrs |= {
        "joined": f"by {named} of {where}: {num_matched:,} of {len(objects):,} objects have a row",
        "columns": names,
        "rows": len(found.names),
        "rows_unmatched": len(found.names) - len(np.unique(row_N[row_N >= 0])),
    }
    return joined


def _columns(table: Any, stack: contextlib.ExitStack) -> tuple[Columns, str]:
    """The columns of a file, a DataFrame or an astropy Table, and what errors call it."""
    if isinstance(table, str | os.PathLike):
        path = storage.absolute(os.fspath(table))
        try:
            return open_columns(path, stack.enter_context(storage.local_copy(path))), path
        except FileError as error:
            raise ConfigError(f"table cannot be read: {error}") from None
    if hasattr(table, "colnames"):
        units_of = {name: str(table[name].unit or "") for name in table.colnames}
        held = {name: table[name].tolist() for name in table.colnames}
    elif hasattr(table, "reset_index"):
        units_of = dict.fromkeys(table.columns, "")
        held = {
            name: table[name].astype(object).where(table[name].notna(), None).tolist()
            for name in table.columns
        }
    else:
        raise ConfigError(
            f"table is a {type(table).__name__}, expected the path of a file, a pandas DataFrame "
            "or an astropy Table"
        )
    columns = {name: Column(values=values, unit=units_of[name]) for name, values in held.items()}
    return Columns.held(columns), "the table"


def _rows_of(object_ids: Sequence[str], found: NamedRows, where: str) -> np.ndarray:
    """[N] row of each object by its identifier, else by its file name; -1 where there is none.

    Raises ConfigError where an object has several.
    """
    by_id: dict[str, list[int]] = {}
    by_file: dict[str, list[int]] = {}
    for row, (name, file) in enumerate(zip(found.objects.object_id_N, found.names, strict=True)):
        if name:
            by_id.setdefault(name, []).append(row)
        if file:
            base = basename(file)
            for key in {base, stem(base)}:
                by_file.setdefault(key, []).append(row)
    row_N = np.full(len(object_ids), -1)
    for i, object_id in enumerate(object_ids):
        rows = by_id.get(object_id) or by_file.get(basename(object_id), []) if object_id else []
        if len(rows) > 1:
            raise ConfigError(
                f"{where} has {len(rows)} rows of object {object_id!r}, expected one; drop the "
                "others"
            )
        row_N[i] = rows[0] if rows else -1
    return row_N


def _frame(source: Columns, table: Any) -> pandas.DataFrame:
    """All columns; integers and truths as pandas' own types, which stay so beside a missing one."""
    if hasattr(table, "reset_index"):
        frame = table.reset_index(drop=True)
    else:
        columns = source.load(source.names)
        frame = pandas.DataFrame({name: list(column.values) for name, column in columns.items()})
    if isinstance(table, str | os.PathLike) and os.fspath(table).lower().endswith(_TEXT_TABLES):
        frame = frame.apply(_values)
    of = pandas.api.types
    whole = [name for name in frame if of.is_integer_dtype(frame[name].dtype)]
    flags = [name for name in frame if of.is_bool_dtype(frame[name].dtype)]
    return frame.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(flags, "boolean"))


def _values(text: pandas.Series) -> pandas.Series:
    """The column of a text file as numbers, or as true and false, if all of it are."""
    said = text.replace("", None).str.lower()
    if set(said.dropna()) and set(said.dropna()) <= {"true", "false"}:
        return said.map({"true": True, "false": False}).astype("boolean")
    try:
        return pandas.to_numeric(text.replace("", None))
    except (ValueError, TypeError):
        return text


def _nearest(
    objects: pandas.DataFrame, found: Objects, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray]:
    """[N] row within the radius of each object, -1 for none, and [N] how far it is, else NaN."""
    row_N = np.full(len(objects), -1)
    apart_arcsec_N = np.full(len(objects), np.nan)
    ra_deg_N, dec_deg_N = (objects[name].to_numpy(float) for name in ("ra", "dec"))
    ours = np.flatnonzero(np.isfinite(ra_deg_N))
    theirs = np.flatnonzero(np.isfinite(found.ra_deg_N))
    if not len(ours) or not len(theirs):
        return row_N, apart_arcsec_N
    sky = SkyCoord(ra_deg_N[ours], dec_deg_N[ours], unit="deg")
    known = SkyCoord(found.ra_deg_N[theirs], found.dec_deg_N[theirs], unit="deg")
    near, apart, _ = sky.match_to_catalog_sky(known)
    is_within = apart.to_value(u.arcsec) <= radius_arcsec
    row_N[ours[is_within]] = theirs[near[is_within]]
    apart_arcsec_N[ours[is_within]] = apart.to_value(u.arcsec)[is_within]
    return row_N, apart_arcsec_N


def _no_match(
    objects: pandas.DataFrame, found: NamedRows, where: str, radius_arcsec: float | None
) -> str:
    if radius_arcsec is not None:
        ours = int(np.isfinite(objects["ra"].to_numpy(float)).sum())
        theirs = int(np.isfinite(found.objects.ra_deg_N).sum())
        return (
            f"no row of {where} lies within {radius_arcsec:g} arcsec of an object, of {ours} "
            f"objects and {theirs} rows with a position; check {_PLACES}, or the radius"
        )
    some = next((name for name in found.names if name), None)
    return (
        f"no row of {where} bears the identifier or the file name of an object, such as "
        f"{objects['object_id'].iloc[0]!r}, its first is {some!r}; name the column with {_ID}, "
        f"or match by position with {_RADIUS}"
    )
