"""Which identifier and position each picture, array row or FITS file of a survey has."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from astroray import storage
from astroray.errors import ConfigError, FileError
from astroray.surveys.column_names import OF_FILES, find_name
from astroray.surveys.file_matches import NamedRows, match_files
from astroray.surveys.objects import Objects, basename, describe_objects, stem
from astroray.surveys.positions import check_angles
from astroray.surveys.shards import Shard, group_files
from astroray.surveys.survey_paths import table_paths
from astroray.surveys.table_columns import Column, Columns, Piece, open_columns, texts
from astroray.surveys.table_positions import TablePositions

__all__ = ["ObjectTable", "TableOptions", "group_objects", "open_object_table"]


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


class ObjectTable:
    """The rows of a table of objects, gone through in order, a piece at a time.

    A table of 10^8 rows is never in memory: what is held are the rows of a piece.
    """

    def __init__(
        self,
        where: str,
        num_rows: int,
        pieces: Callable[[], Iterator[NamedRows]],
        columns: Mapping[str, str],
    ) -> None:
        self.where = where
        self.num_rows = num_rows
        self.columns = columns
        """Which column each of id, ra, dec and file is taken from, those that there are."""
        self.pieces = pieces
        """All rows, each with its file name, else its identifier; may be asked for again."""

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, Column], options: TableOptions, where: str
    ) -> "ObjectTable | None":
        """A table of columns in memory; None where they hold neither identifier nor position.

        Raises ConfigError where a named column is missing or cannot be understood.
        """
        return _choose(Columns.held(columns), options, where, angles="deg")

    @classmethod
    def of(
        cls, source: Columns, options: TableOptions, where: str, *, with_places: bool = True
    ) -> "ObjectTable | None":
        """A table of opened columns; None where they hold neither identifier nor position.

        with_places  whether positions are looked for at all

        Positions are in the unit that the table or `options.angles` states, else degrees. Raises
        ConfigError where a named column is missing or cannot be understood.
        """
        return _choose(source, options, where, angles=options.angles, with_places=with_places)

    @classmethod
    def joined(cls, tables: Sequence["ObjectTable"]) -> "ObjectTable":
        """The rows of several tables, one after the other."""
        return cls(
            " + ".join(table.where for table in tables),
            sum(table.num_rows for table in tables),
            lambda: itertools.chain.from_iterable(table.pieces() for table in tables),
            tables[0].columns,
        )

    def renamed(self, name_of: Mapping[str, str]) -> "ObjectTable":
        """The same rows, those called by a file of `name_of`, in whatever folder, by its value."""

        def pieces() -> Iterator[NamedRows]:
            for piece in self.pieces():
                names = [name and name_of.get(basename(name), name) for name in piece.names]
                yield dataclasses.replace(piece, names=names)

        return ObjectTable(self.where, self.num_rows, pieces, self.columns)

    def read(self) -> NamedRows:
        """All rows, in memory."""
        parts = list(self.pieces())
        return NamedRows(
            objects=Objects.joined([part.objects for part in parts]),
            names=[name for part in parts for name in part.names],
        )

    def by_file(self, paths: Sequence[str], folder: str, *, step: int) -> Iterator[Objects]:
        """The objects of `step` files after the other, one file an object; `paths` are unique.

        Files that the table lacks keep their name as identifier and have no position. A file is
        found by its path, its name or its name without suffix; where several rows bear the name,
        by the most folders in common. Raises ConfigError, before the first objects, where no file
        is in the table, where rows disagree about a file, or where two files are the same row.
        """
        if not any(any(piece.names) for piece in self.pieces()):
            raise ConfigError(
                f"{self.where} has neither file names nor identifiers, expected a column that "
                f"names the files; give it as file=COLUMN (tried {', '.join(OF_FILES['file'])})"
            )
        return match_files(self.pieces, paths, folder, where=self.where, step=step)

    def by_row(self, counts: Sequence[int]) -> Iterator[Objects]:
        """The objects in the table's order, for data whose rows are in the same order.

        counts  how many are taken each time

        Without identifiers, file names without suffix are taken where they are unique.
        Raises ConfigError, before the first objects, where the table has another number of rows.
        """
        if self.num_rows != sum(counts):
            raise ConfigError(
                f"{self.where} has {self.num_rows} rows, expected {sum(counts)}, one for each row "
                "of the data, file after file by name; give the table that belongs to these data"
            )
        return self._in_order(counts, is_named=self._has_only_names())

    def _in_order(self, counts: Sequence[int], *, is_named: bool) -> Iterator[Objects]:
        pieces = (
            dataclasses.replace(piece.objects, object_id_N=_stems(piece.names))
            if is_named
            else piece.objects
            for piece in self.pieces()
        )
        held, taken = Objects.unknown(0), 0
        for count in counts:
            parts, lacking = [], count
            while True:
                parts.append(held.take(slice(taken, taken + lacking)))
                taken += len(parts[-1].object_id_N)
                lacking -= len(parts[-1].object_id_N)
                if not lacking:
                    break
                held, taken = next(pieces), 0
            yield Objects.joined(parts) if len(parts) > 1 else parts[0]

    def _has_only_names(self) -> bool:
        """Whether there are no identifiers, and file names that tell the rows apart."""
        codes = []
        for piece in self.pieces():
            if any(piece.objects.object_id_N):
                return False
            codes.append(np.fromiter(map(hash, _stems(piece.names)), np.int64, len(piece.names)))
        return len(np.unique(np.concatenate([np.empty(0, np.int64), *codes]))) == self.num_rows


@contextlib.contextmanager
def open_object_table(location: str, options: TableOptions) -> Iterator[ObjectTable | None]:
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
        yield None
        return
    with contextlib.ExitStack() as stack:
        paths = table_paths(location, options.table)
        tables = [_open(path, options, stack) for path in paths]
        yield tables[0] if len(tables) == 1 else ObjectTable.joined(tables)


def group_objects(
    files: Sequence[storage.InputFile],
    *,
    table: ObjectTable | None,
    folder: str,
    reader: str,
    params: Mapping[str, Any],
    group_size: int,
    objects_folder: str,
) -> list[Shard]:
    """Shards of files that hold one object each; `params["objects"]` says which ones.

    objects_folder  where identifiers and positions are written; empty: the shards carry them

    They are named by their files and `params` alone: a later table renames no shard.
    """
    ordered = storage.FileList.by_path(files)
    groups = group_files(
        ordered, reader=reader, params=params, rows_per_file=1, group_size=group_size
    )
    objects = (
        table.by_file(ordered.paths, folder, step=group_size)
        if table
        else (Objects.from_files([f.path for f in group.inputs], folder) for group in groups)
    )
    return [
        dataclasses.replace(group, params={**group.params, "objects": own})
        for group, own in zip(groups, describe_objects(objects, objects_folder), strict=True)
    ]


def _open(path: str, options: TableOptions, stack: contextlib.ExitStack) -> ObjectTable:
    try:
        if not storage.exists(path):
            raise ConfigError(
                f"table {path} is missing; give its path from the survey's folder, or a whole path"
            )
        local = stack.enter_context(storage.local_copy(path))
    except FileError as error:
        raise ConfigError(f"table cannot be read: {error}") from None
    columns = open_columns(path, local)
    table = ObjectTable.of(columns, options, path)
    if table is None:
        raise ConfigError(
            f"table {path} has no column of a known name, got {list(columns.names)}; name those of "
            "identifiers or file names with id= or file=, of positions with ra= and dec="
        )
    if not table.num_rows:
        raise ConfigError(f"table {path} has no rows, expected one for each object; check the file")
    return table


def _choose(
    source: Columns, options: TableOptions, where: str, *, angles: str, with_places: bool = True
) -> ObjectTable | None:
    chosen = {
        key: _column_name(source.names, key, options, where)
        if with_places or key not in ("ra", "dec")
        else None
        for key in OF_FILES
    }
    if (chosen["ra"] is None) != (chosen["dec"] is None):
        got, lacking = ("ra", "dec") if chosen["ra"] else ("dec", "ra")
        raise ConfigError(
            f"{where} has {got} in column {chosen[got]!r} but none of {OF_FILES[lacking]}; name "
            f"it with {lacking}=COLUMN, one of {list(source.names)}"
        )
    names = sorted({name for name in chosen.values() if name})
    if not names:
        return None
    sky = None
    if chosen["ra"] and chosen["dec"]:
        sky = TablePositions(chosen["ra"], chosen["dec"], where, angles=angles)
        num_rows = sky.measure(source.pieces([chosen["ra"], chosen["dec"]]))
    else:
        num_rows = sum(len(piece[names[0]].values) for piece in source.pieces(names[:1]))

    def pieces() -> Iterator[NamedRows]:
        for piece in source.pieces(names):
            yield _read_piece(piece, chosen["id"], chosen["file"], sky, where)

    taken = {key: name for key, name in chosen.items() if name}
    return ObjectTable(where, num_rows, pieces, taken)


def _read_piece(
    piece: Piece, id_name: str | None, file_name: str | None, sky: TablePositions | None, where: str
) -> NamedRows:
    num_rows = len(next(iter(piece.values())).values)
    ids, files = (
        texts(piece[name], f"column {name!r} of {where}") if name else None
        for name in (id_name, file_name)
    )
    ra_deg_B, dec_deg_B = sky.degrees(piece) if sky else np.full((2, num_rows), np.nan)
    nothing: list[str | None] = [None] * num_rows
    objects = Objects(object_id_N=ids or nothing, ra_deg_N=ra_deg_B, dec_deg_N=dec_deg_B)
    return NamedRows(objects=objects, names=files or ids or nothing)


def _stems(names: Sequence[str | None]) -> list[str | None]:
    return [stem(basename(name)) if name else None for name in names]


def _column_name(names: Sequence[str], key: str, options: TableOptions, where: str) -> str | None:
    """The column for `key` (id, ra, dec, file): as the options name it, else a well-known one."""
    asked = getattr(options, key)
    if not asked:
        return find_name(names, OF_FILES[key])
    if asked in names:
        return str(asked)
    if (meant := find_name(names, [asked])) is not None:
        return meant
    raise ConfigError(
        f"{where} has no column {asked!r} for option {key}, expected one of {list(names)}"
    )
