"""Which files make up a version of a survey: its own, and those of older versions it refers to.

A night's run directory holds what is new. The rest stays where an older version wrote it, and
`ledger/inherited.parquet` names each such file with its checksum: the embeddings, the catalog files
of every older version, oldest first, and the files in which their indexes keep the scores. An
object's row in a later catalog takes the place of its row in an earlier one.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import catalog, ledger, schema, storage
from astroray.catalog import Piece
from astroray.errors import FileError, LedgerError
from astroray.receipts import Receipt, read_receipts
from astroray.run_files import where_now
from astroray.run_record import Backends, NightRecord
from astroray.storage.parquet import publish_parquet, read_parquet
from astroray.surveys.shards import Shard

__all__ = [
    "Inherited", "Night", "OlderFile", "Receipts", "describe_version", "read_all_receipts",
    "read_file", "read_inherited", "read_layers", "read_older", "read_pieces", "read_version",
]  # fmt: skip

Receipts = Mapping[str, tuple[str, Receipt]]
"""By shard: the run directory that embedded it, and its receipt."""

_FILE = "inherited.parquet"
_RANKING = "index/ranking-"
_RANKED = pa.schema([("object_id", pa.large_string()), ("outlier_score", pa.float64())])
_FIELDS = pa.schema(
    [
        pa.field("version", pa.string()),
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("receipt", pa.string()),
    ]
)


class OlderFile(NamedTuple):
    """A file of an older version."""

    version: str
    """Its run directory."""
    path: str
    """In that directory."""
    sha256: str

    @property
    def address(self) -> str:
        """Where it lies."""
        return storage.join(self.version, self.path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inherited:
    """What a version takes over from older ones."""

    receipts: Receipts = dataclasses.field(default_factory=dict)
    """By shard: the run directory that embedded it, and its receipt."""
    catalogs: Sequence[OlderFile] = ()
    """Catalog files, oldest version first."""
    rankings: Sequence[OlderFile] = ()
    """Files of scores in an index, the manifest of which says which of them are valid."""

    def publish(self, run_dir: str) -> None:
        """Writes the manifest of `run_dir`."""
        rows = [file._asdict() | {"receipt": None} for file in [*self.catalogs, *self.rankings]]
        for name in sorted(self.receipts):
            version, receipt = self.receipts[name]
            text = json.dumps(dataclasses.asdict(receipt), sort_keys=True)
            path = f"embeddings/{name}.parquet"
            rows.append(
                {"version": version, "path": path, "sha256": receipt.checksum, "receipt": text}
            )
        publish_parquet(_path(run_dir), pa.Table.from_pylist(rows, schema=_FIELDS))

    @property
    def num_rows(self) -> int:
        """Embeddings of the older versions."""
        return sum(receipt.rows_embedded for _, receipt in self.receipts.values())

    @property
    def versions(self) -> list[str]:
        """The run directories that are referred to, oldest first."""
        of_embeddings = (version for version, _ in self.receipts.values())
        return list(dict.fromkeys([*(file.version for file in self.catalogs), *of_embeddings]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Night:
    """What makes a scan a night: the version that it goes on from, and its time."""

    reference: str
    inherited: Inherited
    listing: Sequence[Shard]
    """The shards that the reference lists; those it has not embedded are embedded now."""
    survey: str
    """The reference's; where the night's is the same, its shards must still be there."""
    backends: Backends
    """Device, attention and numbers that the reference was embedded with."""
    num_listed: int
    """Length of the reference's certified list."""
    number: int
    """1 for the first night after a scan."""
    embed_until_s: float | None
    """Unix time."""
    finish_by_s: float | None
    """Unix time."""

    @property
    def settled(self) -> set[str]:
        """Inherited shards whose files stay as they are: not those without any object."""
        receipts = self.inherited.receipts.items()
        return {name for name, (_, receipt) in receipts if receipt.rows_embedded}

    def must_stay(self, survey: str) -> Collection[str]:
        """Shards whose files a night of this survey has to find: the reference's, of the same."""
        return self.settled if survey == self.survey else ()

    def find_mended(self, changed: Mapping[str, Shard]) -> set[str]:
        """The files of settled shards that differ now and of which nothing had been embedded.

        They are embedded as new ones, where each row of a shard has files of its own; of a row
        with a file a band all of them are.
        """
        before = {shard.name: shard for shard in self.listing if shard.name in changed}
        found: set[str] = set()
        for name in self.settled & set(before):
            shard = before[name]
            if not (places := shard.places_of_rows()):
                continue
            rows = ledger.read_embeddings(*self.inherited.receipts[name], ["row"])["row"]
            before_F, now_F, embedded = shard.inputs, changed[name].inputs, set(rows.to_pylist())
            for row, own in enumerate(places):
                if row not in embedded and any(before_F[i] != now_F[i] for i in own):
                    found |= {before_F[i].path for i in own}
        return found

    def taken_over(self, shards: Sequence[Shard]) -> Inherited:
        """What is inherited, where the survey's shards are these now.

        A shard without any object whose files have changed since, as where a file had come in half,
        is none of it: it is embedded now.
        """
        before = {shard.name: list(shard.inputs) for shard in self.listing}
        changed = {shard.name for shard in shards if list(shard.inputs) != before.get(shard.name)}
        mended = changed - self.settled
        receipts = self.inherited.receipts.items()
        return dataclasses.replace(
            self.inherited, receipts={name: one for name, one in receipts if name not in mended}
        )

    def describe(self) -> NightRecord:
        """What a run record says of it before anything is embedded."""
        return NightRecord(reference=self.reference, number=self.number, inherits=self.identity)

    @property
    def identity(self) -> str:
        """Content hash of all that the night inherits."""
        checksums = [file.sha256 for file in self.inherited.catalogs]
        shards = {name: receipt.checksum for name, (_, receipt) in self.inherited.receipts.items()}
        text = json.dumps([checksums, shards], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_inherited(run_dir: str) -> Inherited:
    """The manifest of a version; empty for a scan, which refers to none."""
    if not storage.exists(path := _path(run_dir)):
        return Inherited()
    try:
        rows = read_parquet(storage.read_bytes(path)).to_pylist()
        places = {one: where_now(one, run_dir) for one in {row["version"] for row in rows}}
        return _inherited([row | {"version": places[row["version"]]} for row in rows])
    except (pa.ArrowInvalid, OSError, ValueError, TypeError, KeyError) as error:
        raise LedgerError(
            f"{path} is damaged ({error}), expected the files that a night inherits; restore it, "
            "or begin a new reference"
        ) from error


def _inherited(rows: Sequence[Mapping[str, Any]]) -> Inherited:
    receipts: dict[str, tuple[str, Receipt]] = {}
    catalogs: list[OlderFile] = []
    rankings: list[OlderFile] = []
    for row in rows:
        if row["receipt"] is None:
            files = rankings if row["path"].startswith(_RANKING) else catalogs
            files.append(OlderFile(row["version"], row["path"], row["sha256"]))
        else:
            receipt = Receipt(**json.loads(row["receipt"]))
            receipts[receipt.shard] = (row["version"], receipt)
    return Inherited(receipts=receipts, catalogs=catalogs, rankings=rankings)


def describe_version(run_dir: str) -> Inherited:
    """What the next version takes over from a finished `run_dir`: its own files and older ones."""
    older = read_inherited(run_dir)
    own = read_receipts(run_dir)
    of_index = storage.list_names(storage.join(run_dir, "index"))
    rankings = [f"index/{n}" for n in of_index if f"index/{n}".startswith(_RANKING)]

    def named(paths: Sequence[str]) -> list[OlderFile]:
        whole = (storage.join(run_dir, path) for path in paths)
        checksums = storage.at_once(storage.checksum, whole)
        return [OlderFile(run_dir, *one) for one in zip(paths, checksums, strict=True)]

    return Inherited(
        receipts={**older.receipts, **{name: (run_dir, receipt) for name, receipt in own.items()}},
        catalogs=[*older.catalogs, *named(catalog.catalog_files(run_dir))],
        rankings=[*older.rankings, *named(rankings)],
    )


def read_all_receipts(run_dir: str) -> Receipts:
    """By shard, in order of name: where its embeddings stand, and its receipt; own and older."""
    own = {name: (run_dir, receipt) for name, receipt in read_receipts(run_dir).items()}
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
    if not read_inherited(run_dir).catalogs:
        return catalog.read_catalog(run_dir)
    pieces = [piece.read(schema.CATALOG.names) for piece in read_pieces(run_dir)]
    table = pa.concat_tables([schema.CATALOG.empty_table(), *pieces])
    return table.sort_by("rank").combine_chunks()


def read_pieces(run_dir: str) -> Iterator[Piece]:
    """The rows of a version, a row group at a time, in the order of its files.

    Of a night, the rows as `read_version` has them; names and ranks of all objects are held then.
    A piece is to be read before the next one is asked for. Raises LedgerError where there is no
    complete catalog, and where a file is missing, damaged or differs.
    """
    inherited = read_inherited(run_dir)
    if not inherited.catalogs:
        yield from catalog.read_pieces(run_dir)
        return
    rank_of = _ranks(run_dir, inherited)
    for rank_B, (is_own, piece) in zip(rank_of, _all_pieces(run_dir, inherited), strict=True):
        yield Piece(functools.partial(_current, piece, rank_B, is_own))


def _all_pieces(run_dir: str, inherited: Inherited) -> Iterator[tuple[bool, Piece]]:
    """What every version wrote, oldest first, and whether it is the last of them."""
    for file in inherited.catalogs:
        for piece in catalog.read_pieces(file.version, [file.path]):
            yield False, piece
    for piece in catalog.read_pieces(run_dir):
        yield True, piece


def _ranks(run_dir: str, inherited: Inherited) -> list[np.ndarray]:
    """The ranks of the rows of `_all_pieces`; 0 where a later version wrote the object again."""
    storage.at_once(_check_file, inherited.catalogs)
    found = [
        piece.read(["object_id", "outlier_score"]).cast(_RANKED)
        for _, piece in _all_pieces(run_dir, inherited)
    ]
    if not found:
        return []
    latest_first = pa.concat_tables(reversed(found)).combine_chunks()
    code_T = latest_first["object_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    latest_N = np.unique(code_T, return_index=True)[1]
    keys = [("outlier_score", "descending"), ("object_id", "ascending")]  # no score last
    order_N = pc.sort_indices(latest_first.take(pa.array(latest_N)), sort_keys=keys).to_numpy()
    rank_T = np.zeros(len(code_T), np.int64)
    rank_T[latest_N[order_N]] = np.arange(1, len(latest_N) + 1)
    ends = np.cumsum([len(table) for table in reversed(found)])[:-1]
    return np.split(rank_T, ends)[::-1]


def _current(piece: Piece, rank_B: np.ndarray, is_own: bool, columns: Sequence[str]) -> pa.Table:
    """Rows of what a version wrote as they stand now; some columns."""
    rows = piece.read(columns).filter(pa.array(rank_B > 0))
    now = {"rank": pa.array(rank_B[rank_B > 0])}
    if not is_own:
        now["score_kind"] = pa.repeat(pa.scalar("bound"), len(rows))
        now["certified"] = pa.repeat(pa.scalar(False), len(rows))
    for name in now.keys() & set(columns):
        place, field = rows.schema.get_field_index(name), schema.CATALOG.field(name)
        rows = rows.set_column(place, field, now[name])
    return rows


def _replaced(rows: pa.Table, later: pa.Table) -> pa.Table:
    """`rows`, but where `later` has the object its row of it, then the objects of `later` alone."""
    is_old = pc.is_in(rows["object_id"], value_set=later["object_id"].combine_chunks())
    return pa.concat_tables([rows.filter(pc.invert(is_old)), later]) if len(rows) else later


def read_layers(inherited: Inherited, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Each older version and what its catalog wrote, oldest first; some columns.

    Raises LedgerError where a file is missing or differs.
    """
    by_version: dict[str, list[pa.Table]] = {}
    for file in inherited.catalogs:
        by_version.setdefault(file.version, []).append(read_file(file, columns))
    for version, tables in by_version.items():
        yield version, pa.concat_tables(tables)


def read_file(file: OlderFile, columns: Sequence[str]) -> pa.Table:
    """Some columns of a catalog file. Raises LedgerError where it is missing or differs."""
    _check_file(file)
    pieces = [piece.read(columns) for piece in catalog.read_pieces(file.version, [file.path])]
    return pa.concat_tables([schema.CATALOG.empty_table().select(columns), *pieces])


def _check_file(file: OlderFile) -> None:
    """Raises LedgerError where a file of an older version is missing or differs."""
    advice = "older versions may not change: restore it, or begin a new reference"
    try:
        found = storage.checksum(file.address)
    except FileError as error:
        raise LedgerError(f"{error}; this version refers to it; {advice}") from None
    if found != file.sha256:
        raise LedgerError(f"{file.address} has changed, expected sha256 {file.sha256}; {advice}")


def _path(run_dir: str) -> str:
    return storage.join(run_dir, "ledger", _FILE)
