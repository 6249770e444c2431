"""Which files make up a version of a survey: its own, and those of older versions it refers to.

A night's run directory holds what is new. The rest stays where an older version wrote it, and
`ledger/inherited.parquet` names each such file with its checksum: the embeddings, and the catalog
of every older version, oldest first. A row of a later catalog takes the place of an earlier one.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import catalog, ledger, schema, storage
from astroray.catalog import Piece
from astroray.errors import FileError, LedgerError
from astroray.ledger import Receipt
from astroray.parquet import read_parquet
from astroray.surveys.shards import Shard

__all__ = [
    "Inherited", "Night", "Receipts", "describe_version", "read_inherited", "read_layers",
    "read_older", "read_pieces", "read_receipts", "read_version",
]  # fmt: skip

Receipts = Mapping[str, tuple[str, Receipt]]
"""By shard: the run directory that embedded it, and its receipt."""

_FILE = "inherited.parquet"
_FIELDS = pa.schema(
    [
        pa.field("version", pa.string()),
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("receipt", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inherited:
    """What a version takes over from older ones."""

    receipts: Receipts
    """By shard: the run directory that embedded it, and its receipt."""
    catalogs: Sequence[tuple[str, str, str]]
    """Run directory, path in it and sha256 of each catalog file, oldest version first."""

    def publish(self, run_dir: str) -> None:
        """Writes the manifest of `run_dir`."""
        rows = [
            {"version": version, "path": path, "sha256": sha256, "receipt": None}
            for version, path, sha256 in self.catalogs
        ]
        for name in sorted(self.receipts):
            version, receipt = self.receipts[name]
            text = json.dumps(dataclasses.asdict(receipt), sort_keys=True)
            path = f"embeddings/{name}.parquet"
            rows.append(
                {"version": version, "path": path, "sha256": receipt.checksum, "receipt": text}
            )
        ledger.publish_table(_path(run_dir), pa.Table.from_pylist(rows, schema=_FIELDS))

    @property
    def versions(self) -> list[str]:
        """The run directories that are referred to, oldest first."""
        of_embeddings = (version for version, _ in self.receipts.values())
        return list(dict.fromkeys([*(version for version, _, _ in self.catalogs), *of_embeddings]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Night:
    """What makes a scan a night: the version that it goes on from, and its time."""

    reference: str
    inherited: Inherited
    listing: Sequence[Shard]
    """The shards that the reference lists; those it has not embedded are embedded now."""
    survey: str
    """The reference's; where the night's is the same, its shards must still be there."""
    backends: Mapping[str, str]
    """Device and attention that the reference was embedded with."""
    number: int
    """1 for the first night after a scan."""
    embed_until_s: float | None
    """Unix time."""
    finish_by_s: float | None
    """Unix time."""

    @property
    def identity(self) -> str:
        """Content hash of all that the night inherits."""
        checksums = [sha256 for _, _, sha256 in self.inherited.catalogs]
        shards = {name: receipt.checksum for name, (_, receipt) in self.inherited.receipts.items()}
        text = json.dumps([checksums, shards], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_inherited(run_dir: str) -> Inherited:
    """The manifest of a version; empty for a scan, which refers to none."""
    if not storage.exists(_path(run_dir)):
        return Inherited(receipts={}, catalogs=())
    table = read_parquet(storage.read_bytes(_path(run_dir)))
    receipts, catalogs = {}, []
    for row in table.to_pylist():
        if row["receipt"] is None:
            catalogs.append((row["version"], row["path"], row["sha256"]))
        else:
            receipt = Receipt(**json.loads(row["receipt"]))
            receipts[receipt.shard] = (row["version"], receipt)
    return Inherited(receipts=receipts, catalogs=catalogs)


def describe_version(run_dir: str) -> Inherited:
    """What the next version takes over from a finished `run_dir`: its own files and older ones."""
    older = read_inherited(run_dir)
    own = ledger.read_receipts(run_dir)
    files = [
        (run_dir, path, hashlib.sha256(storage.read_bytes(storage.join(run_dir, path))).hexdigest())
        for path in catalog.catalog_files(run_dir)
    ]
    return Inherited(
        receipts={**older.receipts, **{name: (run_dir, receipt) for name, receipt in own.items()}},
        catalogs=[*older.catalogs, *files],
    )


def read_receipts(run_dir: str) -> Receipts:
    """By shard, in order of name: where its embeddings stand, and its receipt; own and older."""
    own = {name: (run_dir, receipt) for name, receipt in ledger.read_receipts(run_dir).items()}
    found = {**read_inherited(run_dir).receipts, **own}
    return {name: found[name] for name in sorted(found)}


def read_older(inherited: Inherited, columns: Sequence[str]) -> pa.Table:
    """The rows of the older catalogs, the latest of each object, unsorted; some columns.

    `object_id` must be among the columns. Raises LedgerError where a file is missing or differs.
    """
    rows = schema.CATALOG.empty_table().select(columns)
    for _, layer in read_layers(inherited, columns):
        rows = _replaced(rows, layer)
    return rows.combine_chunks()


def read_version(run_dir: str) -> pa.Table:
    """All rows of a version, schema.CATALOG, sorted by rank; of a scan that is its catalog.

    A row of an older version was not re-scored here: its score is a bound, it is not certified,
    and its rank is that of the bound.
    """
    own = catalog.read_catalog(run_dir)
    inherited = read_inherited(run_dir)
    if not inherited.catalogs:
        return own
    older = read_older(inherited, schema.CATALOG.names)
    bounds = {"score_kind": "bound", "certified": False}
    for name, value in bounds.items():
        index = older.schema.get_field_index(name)
        filled = pa.repeat(pa.scalar(value, schema.CATALOG.field(name).type), len(older))
        older = older.set_column(index, schema.CATALOG.field(name), filled)
    table = _replaced(older, own)
    keys = [("outlier_score", "descending"), ("object_id", "ascending")]
    table = table.sort_by(keys).combine_chunks()  # no score last
    index = table.schema.get_field_index("rank")
    rank = pa.array(np.arange(1, len(table) + 1), pa.int64())
    return table.set_column(index, schema.CATALOG.field("rank"), rank)


def read_pieces(run_dir: str) -> Iterator[Piece]:
    """The rows of a version in pieces, in any order: of a scan a row group at a time.

    Of a night, whose rows take the place of older ones, it is one piece.
    """
    if read_inherited(run_dir).catalogs:
        whole = read_version(run_dir)
        yield Piece(whole.select)
    else:
        yield from catalog.read_pieces(run_dir)


def _replaced(rows: pa.Table, later: pa.Table) -> pa.Table:
    """`rows`, but where `later` has the object its row of it, then the objects of `later` alone."""
    is_old = pc.is_in(rows["object_id"], value_set=later["object_id"].combine_chunks())
    return pa.concat_tables([rows.filter(pc.invert(is_old)), later]) if len(rows) else later


def read_layers(inherited: Inherited, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Each older version and what its catalog wrote, oldest first; some columns.

    Raises LedgerError where a file is missing or differs.
    """
    by_version: dict[str, list[pa.Table]] = {}
    for version, path, sha256 in inherited.catalogs:
        file = storage.join(version, path)
        advice = "older versions may not change: restore it, or begin a new reference"
        try:
            data = storage.read_bytes(file)
        except FileError as error:
            raise LedgerError(f"{error}; this version refers to it; {advice}") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise LedgerError(f"{file} has changed, expected sha256 {sha256}; {advice}")
        table = read_parquet(data, columns)
        by_version.setdefault(version, []).append(table)
    for version, tables in by_version.items():
        yield version, pa.concat_tables(tables)


def _path(run_dir: str) -> str:
    return storage.join(run_dir, "ledger", _FILE)
