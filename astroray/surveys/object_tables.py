"""Which identifier and position each picture, array row or FITS file of a survey has."""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, FileError
from astroray.surveys.positions import check_angles
from astroray.surveys.shards import Shard, group_files
from astroray.surveys.survey_paths import table_paths
from astroray.surveys.table_columns import Column, Columns, open_columns, positions, texts

logger = logging.getLogger(__name__)

_WELL_KNOWN = {
    "id": (
        "object_id", "objid", "dr7objid", "dr8objid", "sdssid", "source_id",
        "specobjid", "asset_id", "pgc_name", "iauname", "designation", "id", "name",
    ),
    "ra": (
        "ra", "raj2000", "ra_deg", "ra_icrs", "alpha_j2000", "alphawin_j2000", "right_ascension",
    ),
    "dec": (
        "dec", "decj2000", "dej2000", "dec_deg", "de_deg", "dec_icrs", "de_icrs", "delta_j2000",
        "deltawin_j2000", "declination", "de",
    ),
    "file": ("file", "filename", "file_name", "file_path", "image", "path", "img"),
}  # fmt: skip
"""Column names that are tried where none is given; case, spaces and underscores do not matter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options of a survey that name its table of objects; readers add their own."""

    table: str = ""
    """Path of the table, several separated by commas: relative to the survey's folder, absolute
    or s3://; CSV (also gzipped, or with tabs), Parquet, FITS, VOTable or ECSV."""
    id: str = ""
    """Column of identifiers; without it well-known names are tried."""
    ra: str = ""
    """Column of right ascension, ICRS, degrees unless the table states a unit; sexagesimal text
    is hours."""
    dec: str = ""
    """Column of declination, ICRS, degrees unless the table states a unit."""
    angles: str = ""
    """deg or rad: the unit of `ra` and `dec` where the table states none. Without it they are
    degrees, and numbers that fill the sky in radians are refused."""
    file: str = ""
    """Column of file names; without one, identifiers are matched with file names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objects:
    """Identifier and position of the rows of a survey, or of one shard.

    object_id_N  [N]  identifiers; None where the survey has none
    ra_deg_N     [N]  right ascension, ICRS, deg; NaN where unknown
    dec_deg_N    [N]  declination, ICRS, deg; NaN together with ra_deg_N
    """

    object_id_N: Sequence[str | None]
    ra_deg_N: np.ndarray
    dec_deg_N: np.ndarray

    @classmethod
    def unknown(cls, num_rows: int) -> "Objects":
        """Rows of which nothing is known."""
        nan_N = np.full(num_rows, np.nan)
        return cls(object_id_N=[None] * num_rows, ra_deg_N=nan_N, dec_deg_N=nan_N)

    @classmethod
    def from_files(cls, paths: Sequence[str], folder: str) -> "Objects":
        """One object a file, called by its path below `folder` without the suffix."""
        ids = [_id_of_file(path, folder) for path in paths]
        return dataclasses.replace(cls.unknown(len(paths)), object_id_N=ids)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Objects":
        """The inverse of `to_params`."""
        ids = params["object_id"]
        if params["ra"] is None:
            return dataclasses.replace(cls.unknown(len(ids)), object_id_N=ids)
        ra_deg_N, dec_deg_N = (np.array(params[key], np.float64) for key in ("ra", "dec"))
        return cls(object_id_N=ids, ra_deg_N=ra_deg_N, dec_deg_N=dec_deg_N)

    def to_params(self) -> dict[str, Any]:
        """Values that JSON can hold, for the params of a shard; unknown is null."""
        has_positions = bool(np.isfinite(self.ra_deg_N).any())
        return {
            "object_id": list(self.object_id_N),
            "ra": _json_numbers(self.ra_deg_N) if has_positions else None,
            "dec": _json_numbers(self.dec_deg_N) if has_positions else None,
        }

    def take(self, rows: Sequence[int] | slice) -> "Objects":
        """The objects at `rows`."""
        index = np.arange(len(self.object_id_N))[rows]
        return Objects(
            object_id_N=[self.object_id_N[i] for i in index],
            ra_deg_N=self.ra_deg_N[index],
            dec_deg_N=self.dec_deg_N[index],
        )


class ObjectTable:
    """The rows of a table of objects, looked up by file name or taken row by row."""

    def __init__(self, objects: Objects, name_N: Sequence[str | None], where: str) -> None:
        self.objects = objects
        self.name_N = name_N
        self.where = where
        self._rows_of: dict[str, list[int]] = {}
        for row, name in enumerate(name_N):
            if name:
                base = _basename(name)
                for key in {base, _stem(base)}:
                    self._rows_of.setdefault(key, []).append(row)

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, np.ndarray], options: TableOptions, where: str
    ) -> "ObjectTable | None":
        """A table made of 1-D arrays; None where they hold neither identifier nor position.

        Raises ConfigError where a named column is missing or cannot be understood.
        """
        values = {name: Column(values=array.tolist()) for name, array in columns.items()}
        source = Columns(names=list(values), load=lambda names: {n: values[n] for n in names})
        return _choose(source, options, where, angles="deg")

    @classmethod
    def of(cls, source: Columns, options: TableOptions, where: str) -> "ObjectTable | None":
        """The same of a table that was opened, by whatever unit its positions have."""
        return _choose(source, options, where, angles=options.angles)

    def rows_of(self, object_ids: Sequence[str]) -> np.ndarray:
        """[N] row of each object by its identifier, else by its file name; -1 where there is none.

        Raises ConfigError where an object has several.
        """
        by_id: dict[str, list[int]] = {}
        for row, name in enumerate(self.objects.object_id_N):
            if name:
                by_id.setdefault(name, []).append(row)
        row_N = np.full(len(object_ids), -1)
        for i, object_id in enumerate(object_ids):
            rows = by_id.get(object_id) or self._rows_of.get(_basename(object_id), [])
            if len(rows) > 1:
                raise ConfigError(
                    f"{self.where} has {len(rows)} rows of object {object_id!r}, expected one; "
                    "drop the others"
                )
            row_N[i] = rows[0] if rows else -1
        return row_N

    def by_file(self, paths: Sequence[str], folder: str) -> Objects:
        """The object of each file, one file an object; files that the table lacks keep their
        name as identifier and have no position.

        A file is found by its path, its name or its name without suffix; where several rows bear
        the name, by the most folders in common. Raises ConfigError where no file is in the
        table, where rows disagree about a file, or where two files are the same row.
        """
        if not any(self.name_N):
            raise ConfigError(
                f"{self.where} has neither file names nor identifiers, expected a column that "
                f"names the files; give it as file=COLUMN (tried {', '.join(_WELL_KNOWN['file'])})"
            )
        found = {path: self._find(path) for path in paths}
        rows = {path: row for path, row in found.items() if row is not None}
        self._check_found(paths, rows)
        objects = Objects.from_files(paths, folder)
        ids = list(objects.object_id_N)
        ra_deg_N, dec_deg_N = objects.ra_deg_N.copy(), objects.dec_deg_N.copy()
        for i, path in enumerate(paths):
            if path in rows:
                ids[i] = self.objects.object_id_N[rows[path]] or ids[i]
                ra_deg_N[i] = self.objects.ra_deg_N[rows[path]]
                dec_deg_N[i] = self.objects.dec_deg_N[rows[path]]
        return Objects(object_id_N=ids, ra_deg_N=ra_deg_N, dec_deg_N=dec_deg_N)

    def by_row(self, num_rows: int) -> Objects:
        """The objects in the table's order, for data whose rows are in the same order.

        Without identifiers, file names without suffix are taken where they are unique.
        Raises ConfigError where the table has another number of rows.
        """
        if len(self.name_N) != num_rows:
            raise ConfigError(
                f"{self.where} has {len(self.name_N)} rows, expected {num_rows}, one for each row "
                "of the data and in the same order; give the table that belongs to these data"
            )
        names = [_stem(_basename(name)) if name else None for name in self.name_N]
        if any(self.objects.object_id_N) or len(set(names)) < len(names):
            return self.objects
        return dataclasses.replace(self.objects, object_id_N=names)

    def _find(self, path: str) -> int | None:
        name = _basename(path)
        rows = self._rows_of.get(name) or self._rows_of.get(_stem(name)) or []
        if len(rows) < 2:
            return rows[0] if rows else None
        shared = [_shared_folders(self.name_N[row] or "", path) for row in rows]
        best = [row for row, count in zip(rows, shared, strict=True) if count == max(shared)]
        identities = {self._identity(row) for row in best}
        if len(identities) > 1:
            raise ConfigError(
                f"{self.where} has {len(best)} rows for {name} (rows {best[0]} and {best[1]}, "
                "counted from 0) that disagree; expected one row a file, give paths with folders"
            )
        return best[0]

    def _identity(self, row: int) -> tuple[str | None, str, str]:
        position = self.objects.ra_deg_N[row], self.objects.dec_deg_N[row]
        return self.objects.object_id_N[row], repr(position[0]), repr(position[1])

    def _check_found(self, paths: Sequence[str], rows: Mapping[str, int]) -> None:
        if not rows and paths:
            example = next(name for name in self.name_N if name)
            raise ConfigError(
                f"none of {len(paths)} files is in {self.where}: files are like "
                f"{_basename(paths[0])!r}, the table names {example!r}; name the right column with "
                "file=COLUMN or id=COLUMN"
            )
        path_of: dict[int, str] = {}
        for path, row in rows.items():
            if path_of.setdefault(row, path) != path:
                raise ConfigError(
                    f"{path_of[row]} and {path} are both row {row} of {self.where}, expected one "
                    "file a row; write paths with folders into the table or name fewer files"
                )
        if len(rows) < len(paths):
            missing = len(paths) - len(rows)
            logger.warning("%d of %d files are not in %s", missing, len(paths), self.where)


def read_object_table(location: str, options: TableOptions) -> ObjectTable | None:
    """The table that the options of the survey at `location` name; None where they name none.

    Positions that cannot be (ra outside 0..360 or, throughout, -180..180, |dec| above 90, codes
    such as -999) become NaN.
    Raises ConfigError naming table, column and candidates where it cannot be used.
    """
    check_angles(options.angles)
    if not options.table:
        named = [key for key in ("id", "ra", "dec", "angles", "file") if getattr(options, key)]
        if named:
            raise ConfigError(f"option {named[0]}= names a column of no table; add table=PATH")
        return None
    tables = [_read(path, options) for path in table_paths(location, options.table)]
    if len(tables) == 1:
        return tables[0]
    objects = Objects(
        object_id_N=[name for table in tables for name in table.objects.object_id_N],
        ra_deg_N=np.concatenate([table.objects.ra_deg_N for table in tables]),
        dec_deg_N=np.concatenate([table.objects.dec_deg_N for table in tables]),
    )
    names = [name for table in tables for name in table.name_N]
    return ObjectTable(objects, names, " + ".join(table.where for table in tables))


def group_objects(
    files: Sequence[storage.InputFile],
    *,
    table: ObjectTable | None,
    folder: str,
    reader: str,
    params: Mapping[str, Any],
    group_size: int,
) -> list[Shard]:
    """Shards of files that hold one object each; `params["objects"]` says which ones.

    They are named by their files and `params` alone: a later table renames no shard.
    """
    files = sorted(files, key=lambda file: file.path)
    paths = [file.path for file in files]
    objects = table.by_file(paths, folder) if table else Objects.from_files(paths, folder)
    groups = group_files(
        files, reader=reader, params=params, rows_per_file=1, group_size=group_size
    )
    return [
        dataclasses.replace(
            group,
            params={
                **group.params,
                "objects": objects.take(slice(i, i + len(group.inputs))).to_params(),
            },
        )
        for i, group in zip(range(0, len(files), group_size), groups, strict=True)
    ]


def _read(path: str, options: TableOptions) -> ObjectTable:
    try:
        if not storage.exists(path):
            raise ConfigError(
                f"table {path} is missing; give its path from the survey's folder, or a whole path"
            )
        data = storage.read_bytes(path)
    except FileError as error:
        raise ConfigError(f"table cannot be read: {error}") from None
    table = ObjectTable.of(open_columns(path, data), options, path)
    if table is None or not len(table.name_N):
        raise ConfigError(f"table {path} has no rows or no usable column; name them with id=, ra=")
    return table


def _choose(
    source: Columns, options: TableOptions, where: str, *, angles: str
) -> ObjectTable | None:
    chosen = {key: _column_name(source.names, key, options, where) for key in _WELL_KNOWN}
    if (chosen["ra"] is None) != (chosen["dec"] is None):
        got, lacking = ("ra", "dec") if chosen["ra"] else ("dec", "ra")
        raise ConfigError(
            f"{where} has {got} in column {chosen[got]!r} but none of {_WELL_KNOWN[lacking]}; name "
            f"it with {lacking}=COLUMN, one of {list(source.names)}"
        )
    names = sorted({name for name in chosen.values() if name})
    if not names:
        return None
    columns = source.load(names)
    nothing: list[str | None] = [None] * len(columns[names[0]].values)
    ids, files = (
        texts(columns[name], f"column {name!r} of {where}") if name else None
        for name in (chosen["id"], chosen["file"])
    )
    ra_deg_N, dec_deg_N = np.full((2, len(nothing)), np.nan)
    if chosen["ra"] and chosen["dec"]:
        ra_deg_N, dec_deg_N = positions(columns, chosen["ra"], chosen["dec"], where, angles=angles)
    objects = Objects(object_id_N=ids or nothing, ra_deg_N=ra_deg_N, dec_deg_N=dec_deg_N)
    return ObjectTable(objects, files or ids or nothing, where)


def _column_name(names: Sequence[str], key: str, options: TableOptions, where: str) -> str | None:
    """The column for `key` (id, ra, dec, file): as the options name it, else a well-known one."""
    plain = {_plain(name): name for name in reversed(names)}
    asked = getattr(options, key)
    if not asked:
        return next((plain[_plain(w)] for w in _WELL_KNOWN[key] if _plain(w) in plain), None)
    if asked in names:
        return str(asked)
    if _plain(asked) in plain:
        return plain[_plain(asked)]
    raise ConfigError(
        f"{where} has no column {asked!r} for option {key}=, expected one of {list(names)}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _id_of_file(path: str, folder: str) -> str:
    below = path.removeprefix(folder.rstrip("/") + "/")
    parent, _, name = below.rpartition("/")
    return f"{parent}/{_stem(name)}" if parent else _stem(name)


def _basename(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _stem(name: str) -> str:
    """`name` without the suffix of a data file; what follows a dot in `J12.5+01.25` is none."""
    packed = re.sub(r"\.(gz|fz|bz2)$", "", name, flags=re.IGNORECASE)
    return re.sub(r"\.[A-Za-z][A-Za-z0-9]{1,4}$", "", packed) or name


def _shared_folders(name: str, path: str) -> int:
    """How many folders directly above the file are the same in both paths."""
    count = 0
    folders = (text.replace("\\", "/").split("/")[-2::-1] for text in (name, path))
    for one, other in zip(*folders, strict=False):
        if one != other:
            break
        count += 1
    return count


def _json_numbers(values_N: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values_N]
