"""How the rows of a version become one file for other tools: VOTable, FITS or CSV.

A file begins with what holds for all rows: their number, the longest text of a column, whether a
number is ever unknown. So rows are gone through twice, by rank in the second pass; no more than
ROWS_AT_ONCE of them are held. N objects, B rows of a piece, K neighbors.
"""

import base64
import gc
import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from astroray import schema, storage
from astroray.catalog import versions
from astroray.catalog.votable import to_votable
from astroray.errors import ConfigError
from astroray.storage.spill import Spill

if TYPE_CHECKING:
    import pandas

__all__ = ["FORMATS", "export_catalog", "export_rows", "to_astropy", "to_pandas"]

FORMATS = ("votable", "fits", "csv")
ROWS_AT_ONCE = 16_384

_ID_SEPARATOR = "|"
_NULL_INTEGER = -1  # every integer column of CATALOG is 0 or larger where it is known
_FITS_BLOCK = 2880
_VOUNIT = {"erg": "g.cm**2.s**-2"}
"""Units that VOTable's standard has deprecated, as it has them."""
_STREAM = (b'<STREAM encoding="base64">', b"</STREAM>")


def export_catalog(run_dir: str, *, format: str, out: str, overwrite: bool = False) -> int:
    """Writes the rows of a version by rank as one file for other tools; returns their number.

    format  votable  units, UCDs and descriptions in the fields; astropy writes it row by row, so
                     for millions of rows one of the others is the better choice
            fits     units, comments and UCDs in TUNITn, TCOMMn, TUCDn
            csv      plain, one header line; units are in the other two

    neighbor_id is one string, ids joined by '|', which within an id is written %7C, and % as %25;
    object_id is written as it is in every format. neighbor_distance is an array of fixed length,
    NaN beyond the neighbors of an object (csv: columns neighbor_distance_1, _2, ..., empty
    beyond). Unknown positions and scores are NaN, unknown integers masked (csv: empty).

    Rows are put in order on disk, in the folder for temporary files, which needs room for all of
    them. Raises ConfigError on another format, on a file that is there and may not be overwritten,
    and on FITS text that is not ASCII; LedgerError where there is no catalog.
    """
    _check(format, out, overwrite)
    facts = _Facts(schema.CATALOG)
    with Spill() as spill:
        for piece in versions.read_pieces(run_dir):
            rows = schema.conform(piece.read(schema.CATALOG.names), schema.CATALOG, "catalog")
            facts.add(rows)
            spill.add(rows["rank"].to_numpy(), rows)
        _write(format, out, facts, spill.in_ranges(ROWS_AT_ONCE))
    return facts.num_rows


def export_rows(rows: pa.Table, *, format: str, out: str, overwrite: bool = False) -> int:
    """Writes a table of `schema` that is in memory, such as LABELS, in its order; see above."""
    _check(format, out, overwrite)
    facts = _Facts(rows.schema)
    facts.add(rows)
    starts = range(0, len(rows), ROWS_AT_ONCE)
    _write(format, out, facts, (rows.slice(start, ROWS_AT_ONCE) for start in starts))
    return len(rows)


def to_astropy(table: pa.Table):  # type: ignore[no-untyped-def] # astropy has no types
    """A table of `schema` as an astropy Table, with unit, description and UCD of every column."""
    facts = _Facts(table.schema)
    facts.add(table)
    return _to_astropy(table, facts)


def to_pandas(table: pa.Table) -> "pandas.DataFrame":
    """A table as a DataFrame; integers that may be missing are pandas' own."""
    import pandas

    # a HEALPix index beside a null would become a float, which cannot hold it
    nullable = {pa.int64(): pandas.Int64Dtype(), pa.int32(): pandas.Int32Dtype()}
    return table.to_pandas(types_mapper=nullable.get)


class _Facts:
    """What a file says of all its rows before the first of them."""

    def __init__(self, fields: pa.Schema) -> None:
        self.fields = fields
        self.num_rows = 0
        self.width_of: dict[str, int] = {}
        """UTF-16 units of the longest text of each column of texts."""
        self.unknown: set[str] = set()
        """Columns in which a value is unknown."""
        self.num_slots = 1  # FITS and VOTable know no array of no length
        """K of the object with the most neighbors."""

    def add(self, rows: pa.Table) -> None:
        """Takes some rows into account."""
        self.num_rows += len(rows)
        for field in self.fields:
            values = _plain(rows[field.name], field)
            if pa.types.is_string(values.type):
                longest = pc.max(_num_units(values)).as_py() or 1
                self.width_of[field.name] = max(self.width_of.get(field.name, 1), longest)
            elif pa.types.is_list(values.type):
                self.num_slots = max(
                    self.num_slots, pc.max(pc.list_value_length(values)).as_py() or 1
                )
            elif values.null_count:
                self.unknown.add(field.name)


def _check(format: str, out: str, overwrite: bool) -> None:
    if format not in FORMATS:
        raise ConfigError(f"export format is {format!r}, expected one of {', '.join(FORMATS)}")
    if not overwrite and storage.exists(out):
        raise ConfigError(f"{out} is already there; choose another name, or --overwrite it")


def _write(format: str, out: str, facts: _Facts, pieces: Iterable[pa.Table]) -> None:
    """Publishes the pieces, in their order, as one file."""
    written = {"csv": _csv, "fits": _fits, "votable": _votable}[format]
    with storage.publishing(out) as sink:
        for some in written(facts, pieces):
            sink.write(some)


def _plain(values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """A column as the formats can hold it, but lists of numbers."""
    return _joined(values) if field.name == "neighbor_id" else values


def _joined(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each list of identifiers as one text that can be taken apart, whatever they are made of."""
    if pc.any(pc.match_substring_regex(pc.list_flatten(lists), "[|%]")).as_py():
        escaped = [ids and [_escape(name) for name in ids] for ids in lists.to_pylist()]
        lists = pa.chunked_array([pa.array(escaped, lists.type)])
    return pc.binary_join(lists, _ID_SEPARATOR)


def _escape(name: str) -> str:
    return name.replace("%", "%25").replace(_ID_SEPARATOR, "%7C")


def _num_units(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Units of UTF-16, in which VOTable counts: a character beyond U+FFFF is two of them."""
    return pc.add(pc.utf8_length(texts), pc.count_substring_regex(texts, r"[^\x{0}-\x{FFFF}]"))


def _distances(table: pa.Table, facts: _Facts) -> np.ndarray:
    """neighbor_distance as float64 [B, K], NaN beyond the neighbors of an object."""
    lists = table["neighbor_distance"].combine_chunks()
    length_B = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    slots_K = np.arange(facts.num_slots)
    distance_BK = np.full((len(length_B), len(slots_K)), np.nan)
    distance_BK[slots_K < length_B[:, None]] = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    return distance_BK


def _csv(facts: _Facts, pieces: Iterable[pa.Table]) -> Iterator[bytes]:
    yield _csv_lines(facts.fields.empty_table(), facts, header=True)
    for piece in pieces:
        yield _csv_lines(piece, facts, header=False)


def _csv_lines(table: pa.Table, facts: _Facts, *, header: bool) -> bytes:
    columns = {}
    for field in facts.fields:
        if field.name == "neighbor_distance":
            for k, distance_B in enumerate(_distances(table, facts).T, start=1):
                columns[f"{field.name}_{k}"] = pa.array(distance_B, from_pandas=True)
        else:
            columns[field.name] = _plain(table[field.name], field)
    sink = io.BytesIO()
    csv.write_csv(pa.table(columns), sink, csv.WriteOptions(include_header=header))
    return sink.getvalue()


def _votable(facts: _Facts, pieces: Iterable[pa.Table]) -> Iterator[bytes]:
    """The file of the first piece, with the rows of all in it: one stream of base64."""
    if not facts.num_rows:
        yield _votable_file(facts.fields.empty_table(), facts)  # it has no stream
        return
    left = b""  # base64 encodes three bytes as four letters
    for place, piece in enumerate(pieces):
        head, begin, rest = _votable_file(piece, facts).partition(_STREAM[0])
        stream, end, tail = rest.partition(_STREAM[1])
        letters = stream.strip()
        before, _, behind = stream.partition(letters)
        if place == 0:
            yield head + begin + before
        data = left + base64.b64decode(letters)
        whole = len(data) // 3 * 3
        yield base64.b64encode(data[:whole])
        left = data[whole:]
        gc.collect()  # astropy's tables of a VOTable hold each other, and the rows
    yield base64.b64encode(left) + behind + end + tail


def _votable_file(table: pa.Table, facts: _Facts) -> bytes:
    sink = io.BytesIO()
    columns = _to_astropy(table, facts)
    for column in columns.itercols():
        column.unit = _VOUNIT.get(str(column.unit), column.unit)
    to_votable(columns).to_xml(sink, tabledata_format="binary2")
    return sink.getvalue()


def _fits(facts: _Facts, pieces: Iterable[pa.Table]) -> Iterator[bytes]:
    """The file of no rows, told how many there are, then the bytes of the rows of the pieces."""
    from astropy.io import fits

    hdu = _fits_table(facts.fields.empty_table(), facts)
    hdu.header["NAXIS2"] = facts.num_rows
    yield fits.PrimaryHDU().header.tostring().encode("ascii")
    yield hdu.header.tostring().encode("ascii")
    for piece in pieces:
        yield _fits_rows(_fits_table(piece, facts))
    yield bytes(-facts.num_rows * hdu.header["NAXIS1"] % _FITS_BLOCK)


def _fits_rows(hdu) -> bytes:  # type: ignore[no-untyped-def] # astropy has no types
    """The bytes of a table's rows as its file has them."""
    sink = io.BytesIO()
    hdu.writeto(sink)
    start = len(sink.getvalue()) - _whole_blocks(hdu.header["NAXIS1"] * hdu.header["NAXIS2"])
    return sink.getvalue()[start : start + hdu.header["NAXIS1"] * hdu.header["NAXIS2"]]


def _whole_blocks(num_bytes: int) -> int:
    return -(-num_bytes // _FITS_BLOCK) * _FITS_BLOCK


def _fits_table(table: pa.Table, facts: _Facts):  # type: ignore[no-untyped-def]
    """The table as FITS has it, with units, comments and UCDs."""
    from astropy.io import fits

    columns = _to_astropy(table, facts)
    try:
        hdu = fits.table_to_hdu(columns)
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"FITS tables hold ASCII text only, got {str(error.object)!r}; export votable or csv"
        ) from None
    hdu.name = "CATALOG"
    for number, name in enumerate(columns.colnames, start=1):
        hdu.header[f"TCOMM{number}"] = columns[name].description
        hdu.header[f"TUCD{number}"] = columns[name].meta["ucd"]
    return hdu


def _to_astropy(table: pa.Table, facts: _Facts):  # type: ignore[no-untyped-def]
    from astropy.table import Column, MaskedColumn, Table

    columns = Table()
    for field in facts.fields:
        about = {key.decode(): value.decode() for key, value in field.metadata.items()}
        values, mask_B = _values(table, field, facts)
        kind = Column if mask_B is None else MaskedColumn
        column = kind(
            values,
            name=field.name,
            unit=about["unit"] or None,
            description=about["doc"],
            meta={"ucd": about["ucd"]},
        )
        if mask_B is not None:
            column.mask, column.fill_value = mask_B, _unknown(field)
        columns[field.name] = column
    return columns


def _values(
    table: pa.Table, field: pa.Field, facts: _Facts
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values of one column, and which are unknown where NaN and the empty text cannot say it."""
    if field.name == "neighbor_distance":
        return _distances(table, facts), None
    values = _plain(table[field.name], field)
    if pa.types.is_string(values.type):
        width = facts.width_of.get(field.name, 1)
        return np.array(pc.fill_null(values, "").to_pylist(), dtype=f"<U{width}"), None
    if pa.types.is_floating(values.type):
        return values.to_numpy(), None
    mask_B = pc.is_null(values).to_numpy()
    filled = pc.fill_null(values, _unknown(field))
    return filled.to_numpy(), mask_B if field.name in facts.unknown else None


def _unknown(field: pa.Field) -> bool | int:
    """What stands for an unknown value of a column of integers or claims."""
    return False if pa.types.is_boolean(field.type) else _NULL_INTEGER
