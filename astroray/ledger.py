"""The ledger of a run: what was listed, which shards are done, what was rejected and why.

A run directory belongs to one fingerprint. A shard is done when its done mark stands, and the
mark is written last; so whatever is killed, listing the marks tells what is left to do.

    run.json                     the run record; see `run_record`
    ledger/shards.parquet        the listing; membership of a shard never changes
    ledger/objects/              identifiers and positions of its rows; see `object_files`
    ledger/attempts/             which shards were begun; see `attempts`
    ledger/done/SHARD.json       the receipt of a finished shard; see `receipts`
    rejects/SHARD.parquet        its rejects
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from astroray import faults, schema, storage
from astroray.errors import LedgerError
from astroray.receipts import Receipt, done_shards, publish_receipt
from astroray.run_files import OF_FLARES, OF_SCAN, listing_file, where_now
from astroray.run_record import Counts, RejectCount, RunRecord
from astroray.storage.parquet import publish_parquet, read_batches, read_parquet
from astroray.surveys.object_files import moved
from astroray.surveys.shards import Reject, Shard

FREE_SETTINGS = ("out", "workers", "num_gpus", "max_rejected", "fault_plan", "num_random")
"""Settings that do not change a catalog: they may differ when a run is resumed."""
RETRYABLE_KINDS = ("missing_file", "missing", "unreadable", "corrupt", "quarantine")
"""Kinds of reject whose cause may have gone when the run is tried again."""
_LISTING = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("reader", pa.string()),
        pa.field("inputs", pa.string()),
        pa.field("params", pa.string()),
        pa.field("num_rows", pa.int64()),
    ]
)
_SHARDS_AT_ONCE = 64


def fingerprint(science: Mapping[str, Any]) -> str:
    """Hash of everything that may change a catalog's content; workers and paths are not in it."""
    text = json.dumps({"schema_version": schema.SCHEMA_VERSION, **science}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_run(run_dir: str, fresh: RunRecord) -> RunRecord:
    """The record to go on with: `fresh` in a free directory, else that of `find_owner`."""
    old = find_owner(run_dir, fresh)
    if old is None:
        fresh.publish(run_dir)
        return fresh
    return dataclasses.replace(
        old,
        state="running",
        error="",
        config=fresh.config,
        versions=fresh.versions,
        begun=fresh.created if old.state == "done" else old.begun,
    )


def find_owner(run_dir: str, fresh: RunRecord) -> RunRecord | None:
    """The record of the run in a directory, which `fresh` goes on with; None where it is free.

    A run that ended before it had listed its shards left nothing, and its directory is free.
    Raises LedgerError where the directory belongs to a run of another fingerprint, or holds shards
    of a run whose record is gone, or what somebody else put where the run would write.
    """
    old = RunRecord.load(run_dir)
    if old is None and done_shards(run_dir):
        raise LedgerError(
            f"{run_dir} holds shards of a run, and no run.json that says which settings made them; "
            "restore that file, or choose another --out"
        )
    if old is None:
        check_unclaimed(run_dir, OF_FLARES if fresh.is_of_flares else OF_SCAN)
        return None
    if old.fingerprint == fresh.fingerprint:
        return old
    if is_bare(run_dir):
        return None
    if old.is_of_flares != fresh.is_of_flares:
        verbs = ("a scan or night", "astroray flares find")
        raise LedgerError(
            f"{run_dir} belongs to {verbs[old.is_of_flares]}, expected one of "
            f"{verbs[fresh.is_of_flares]} or an empty folder; choose another --out"
        )
    was, now_is = (
        {name: value for name, value in record.config.items() if name not in FREE_SETTINGS}
        for record in (old, fresh)
    )
    changed = (
        "; ".join(differences(was, now_is))
        or "other versions, another backend, or other code of the encoder"
    )
    raise LedgerError(
        f"{run_dir} belongs to another run (fingerprint {old.fingerprint}, expected "
        f"{fresh.fingerprint}): {changed}; choose another --out, or repeat that run's settings to "
        "resume it"
    )


def check_unclaimed(run_dir: str, names: Collection[str]) -> None:
    """Raises LedgerError where files or folders of these names stand, though no run is there."""
    there = {*storage.list_names(run_dir), *storage.list_folders(run_dir)}
    if taken := sorted(there & set(names)):
        raise LedgerError(
            f"{run_dir} holds {', '.join(taken)} and no run, whose files would take their place; "
            "choose another --out"
        )


def is_bare(run_dir: str, record: str = "run.json") -> bool:
    """Whether a run left nothing but its record, its leases and what was logged."""
    ledger = storage.join(run_dir, "ledger")
    return (
        storage.list_names(run_dir) == [record]
        and set(storage.list_folders(run_dir)) <= {"ledger", "logs"}
        and not storage.list_names(ledger)
        and set(storage.list_folders(ledger)) <= {"leases", "objects"}
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Settings that are not what they were, in words, by name."""
    for key in sorted({*old, *new}):
        was, now_is = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(now_is, Mapping):
            yield from differences(was, now_is, f"{within}{key}.")
        elif was != now_is:
            yield f"{within}{key} was {was!r} and is {now_is!r}"


def objects_folder(run_dir: str) -> str:
    """Where the files of identifiers and positions stand that the listing's shards name."""
    return storage.join(storage.absolute(run_dir), "ledger", "objects")


def write_listing(run_dir: str, shards: Sequence[Shard]) -> None:
    """Publishes `ledger/shards.parquet`.

    It names files of the run directory from there, so that the directory may be moved.
    """
    own = f"{storage.absolute(run_dir).rstrip('/')}/"
    with (
        storage.publishing(listing_file(run_dir)) as file,
        pq.ParquetWriter(file, _LISTING, compression="zstd") as writer,
    ):
        for start in range(0, len(shards), _SHARDS_AT_ONCE):
            some = shards[start : start + _SHARDS_AT_ONCE]
            rows = [_row(moved(shard, lambda path: path.removeprefix(own))) for shard in some]
            writer.write_table(pa.Table.from_pylist(rows, schema=_LISTING))


def read_listing(run_dir: str) -> list[Shard]:
    """The shards as listed before; empty where nothing was listed yet."""
    find = _finder(run_dir)
    return [_shard(row, find) for rows in _read_listed(run_dir) for row in rows.to_pylist()]


def find_shard(run_dir: str, name: str) -> Shard:
    """One shard of the listing. Raises LedgerError where it is not listed."""
    for rows in _read_listed(run_dir):
        if found := rows.filter(pc.equal(rows["name"], name)).to_pylist():
            return _shard(found[0], _finder(run_dir))
    raise LedgerError(f"shard {name} is not in the listing of {run_dir}")


def listed_names(run_dir: str) -> list[str]:
    """The names of the listed shards, in order; empty where nothing was listed yet."""
    return [name for rows in _read_listed(run_dir, ["name"]) for name in rows["name"].to_pylist()]


def _read_listed(run_dir: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a listing, some shards at a time: of a million files it is never all unpacked."""
    path = listing_file(run_dir)
    if storage.exists(path):
        with _parsing(path):
            yield from read_batches(storage.read_bytes(path), _SHARDS_AT_ONCE, columns)


def _row(shard: Shard) -> dict[str, Any]:
    facts = shard.facts()
    inputs, params = json.dumps(facts["inputs"]), json.dumps(facts["params"], sort_keys=True)
    return {**facts, "inputs": inputs, "params": params}


def _shard(row: Mapping[str, Any], find: Callable[[str], str]) -> Shard:
    packed = {name: json.loads(row[name]) for name in ("inputs", "params")}
    return moved(Shard.of_facts({name: row[name] for name in _LISTING.names} | packed), find)


def _finder(run_dir: str) -> Callable[[str], str]:
    """What says where a file of a run directory lies now that a listing names."""
    own = storage.absolute(run_dir)
    place = functools.cache(lambda version: where_now(version, run_dir))

    def find(name: str) -> str:
        if not storage.is_whole(name):
            return storage.join(own, name)
        version, *names = name.rsplit("/", 3)  # of an older one, ledger/objects/HASH.parquet
        return storage.join(place(version), *names)

    return find


def check_unchanged(
    known: Sequence[Shard], changed: Mapping[str, Shard], done: Collection[str]
) -> None:
    """Raises LedgerError where a finished shard has other files than when it was read.

    known    the listing
    changed  by name: shards of the listing as their files are now, where they differ
    """
    stale = sorted(set(done) & set(changed))
    if not stale:
        return
    before = next(set(shard.inputs) for shard in known if shard.name == stale[0])
    file = next(file for file in changed[stale[0]].inputs if file not in before)
    noun = "shard has" if len(stale) == 1 else "shards have"
    raise LedgerError(
        f"{len(stale)} finished {noun} other files than when they were read, first "
        f"{stale[0]} ({file.path}); restore the files with their times "
        "(cp -p, rsync -a), or scan into another --out"
    )


def finish_shard(
    run_dir: str, receipt: Receipt, *, embeddings: bytes, rejects: Sequence[Reject]
) -> None:
    """Publishes a shard's embeddings, then its rejects, then its done mark."""
    if not receipt.shard_rejected:
        storage.publish(embeddings_path(run_dir, receipt.shard), embeddings)
    faults.reach("shard.embeddings", receipt.shard)
    mark_done(run_dir, receipt, rejects)


def mark_done(run_dir: str, receipt: Receipt, rejects: Sequence[Reject]) -> None:
    """Publishes a shard's rejects, then its done mark, which comes last of all its files."""
    write_rejects(run_dir, receipt.shard, rejects, attempt=receipt.attempt)
    faults.reach("shard.rejects", receipt.shard)
    publish_receipt(run_dir, receipt)


def read_embeddings(
    run_dir: str, receipt: Receipt, columns: Sequence[str] | None = None
) -> pa.Table:
    """The EMBEDDINGS of a done shard, which is not rejected, checked by its receipt.

    columns  those to read; None: all

    Raises LedgerError where the file is missing or differs.
    """
    if not storage.exists(path := embeddings_path(run_dir, receipt.shard)):
        raise LedgerError(f"{path} is missing")
    data = storage.read_bytes(path)
    if hashlib.sha256(data).hexdigest() != receipt.checksum:
        raise LedgerError(f"{path} differs from its receipt: sha256 expected {receipt.checksum}")
    return read_parquet(data, columns)


def embeddings_path(run_dir: str, shard: str) -> str:
    """Where the embeddings of a shard stand; the name depends on the shard alone."""
    return storage.join(run_dir, "embeddings", f"{shard}.parquet")


def write_rejects(run_dir: str, name: str, rejects: Sequence[Reject], *, attempt: int) -> None:
    """Publishes the rejects of one shard or stage; none leaves no file."""
    path = storage.join(run_dir, "rejects", f"{name}.parquet")
    if not rejects:
        storage.delete(path)
        return
    publish_parquet(path, rejects_table(rejects, name, attempt=attempt))


def rejects_table(rejects: Sequence[Reject], name: str = "", *, attempt: int = 1) -> pa.Table:
    """Rejects as rows of schema REJECTS; `name` is the shard of those that name none."""
    columns = {
        "shard": [reject.shard or name for reject in rejects],
        "row": [reject.row for reject in rejects],
        "stage": [reject.stage for reject in rejects],
        "class": [reject.kind for reject in rejects],
        "reason": [reject.reason for reject in rejects],
        "attempt": [attempt] * len(rejects),
    }
    return pa.table(columns, schema=schema.REJECTS)


def read_rejects(run_dir: str) -> pa.Table:
    """All rejects of a run, schema REJECTS."""
    folder = storage.join(run_dir, "rejects")
    paths = [storage.join(folder, name) for name in storage.list_names(folder)]
    found = zip(paths, storage.read_each(paths), strict=True)
    tables = [_parse_table(path, data) for path, data in found if data is not None]
    return pa.concat_tables([schema.REJECTS.empty_table(), *tables])


def read_rejects_of(run_dir: str, name: str) -> pa.Table:
    """The rejects of one shard or stage, schema REJECTS."""
    path = storage.join(run_dir, "rejects", f"{name}.parquet")
    return _read_table(path) if storage.exists(path) else schema.REJECTS.empty_table()


def summarize_rejects(rejects: pa.Table) -> tuple[RejectCount, ...]:
    """How many there are of each kind of reject, by stage and class, with the first reason."""
    grouped = rejects.group_by(["stage", "class"], use_threads=False)  # else none is the first
    kinds = grouped.aggregate([("reason", "first"), ("row", "count"), ([], "count_all")])
    return tuple(
        RejectCount(
            stage=kind["stage"],
            kind=kind["class"],
            reason=kind["reason_first"],
            rows=kind["row_count"],
            shards=kind["count_all"] - kind["row_count"],
        )
        for kind in kinds.sort_by([("stage", "ascending"), ("class", "ascending")]).to_pylist()
    )


def summarize_rejects_of(run_dir: str, receipt: Receipt) -> tuple[RejectCount, ...]:
    """How many rejects of each kind one shard has; they are read only where there are some."""
    has_some = receipt.rows_rejected or receipt.shard_rejected
    return summarize_rejects(read_rejects_of(run_dir, receipt.shard)) if has_some else ()


def total(receipts: Iterable[Receipt], counts: Counts | None = None) -> Counts:
    """Counts of shards and rows over all receipts; all other counts are those of `counts`."""
    receipts = list(receipts)
    return dataclasses.replace(
        counts or Counts(),
        shards=len(receipts),
        shards_rejected=sum(receipt.shard_rejected for receipt in receipts),
        rows_read=sum(receipt.rows_read for receipt in receipts),
        rows_embedded=sum(receipt.rows_embedded for receipt in receipts),
        rows_rejected=sum(receipt.rows_rejected for receipt in receipts),
    )


def _read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    return _parse_table(path, storage.read_bytes(path), columns)


def _parse_table(path: str, data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    with _parsing(path):
        return read_parquet(data, columns)


@contextlib.contextmanager
def _parsing(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise LedgerError(
            f"{path} is damaged ({error}); restore it, or scan into another --out"
        ) from None
