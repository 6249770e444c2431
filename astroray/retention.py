"""How long files of older versions stay: until nobody refers to them and a person says so."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from astroray import catalog, ledger, moments, schema, storage
from astroray.catalog import versions
from astroray.errors import ConfigError, LedgerError
from astroray.labelling.labels import label_folders
from astroray.neighbors.partitions import FOLDER, Manifest
from astroray.receipts import Receipt, done_shards, publish_receipt, read_receipt
from astroray.report.page import add_report
from astroray.run_files import OF_SCAN, record_file
from astroray.run_folders import check_finished, record_of
from astroray.run_record import RunRecord
from astroray.storage import InputFile
from astroray.storage.copying import copy_file
from astroray.storage.leases import find_holder, hold_lease
from astroray.storage.parquet import publish_parquet
from astroray.surveys.object_files import damage, files_of, moved

__all__ = ["delete_files", "export_version", "find_prunable"]

_log = logging.getLogger("astroray.retention")

STAYS = ("run.json", "ledger/", "model/")
"""Of a version that a newer one refers to, beside the files that it refers to."""
HIDDEN = ("catalog/dataset/_metadata", "catalog/dataset/_common_metadata")
"""Files that a listing leaves out."""


def export_version(run_dir: str, out: str) -> RunRecord:
    """Copies a version into `out` with all that it refers to, so that it stands alone.

    The copy is a reference for further nights; scores stay the bounds that they were. The same
    call goes on where it was interrupted. Raises ConfigError where the version is not finished,
    LedgerError where a file of it is missing or `out` holds another run.
    """
    record = _finished(run_dir)
    receipts = versions.read_all_receipts(run_dir)
    with hold_lease(out) as lease:
        _check_free(out, record)
        storage.at_once(lambda found: _copy_shard(*found, out), receipts.values())
        _copy_listing(run_dir, out)
        for name in ("thumbnails/thumbnails.parquet", "changes.parquet"):
            _copy(run_dir, name, out)
        for name in storage.list_names(storage.join(run_dir, "model")):
            _copy(run_dir, f"model/{name}", out)
        for folder in label_folders(run_dir):
            for file in storage.list_files(folder):
                copy_file(file.path, storage.join(out, "labels", file.path.rpartition("/")[2]))
        _copy_index(run_dir, out)
        num_duplicates = _copy_duplicates(run_dir, out)
        pieces = (piece.read(schema.CATALOG.names) for piece in versions.read_pieces(run_dir))
        catalog.write_catalog(pieces, out, name=record.survey, created=record.created)
        counts = dataclasses.replace(record.counts, inherited=0, duplicates=num_duplicates)
        counts = ledger.total((receipt for _, receipt in receipts.values()), counts)
        alone = dataclasses.replace(record, begun=moments.now(), counts=counts, night=None)
        dataclasses.replace(alone, state="running").publish(out)
        add_report(out)
        lease.check()
        alone.publish(out)
    return alone


def find_prunable(old: str, newest: str) -> list[InputFile]:
    """The files of the version `old` that `newest` does not need: all where it refers to none.

    Those of other runs that lie within it are not its own. Labels, which nothing can make again,
    stay unless `newest` has a copy. Raises ConfigError where either is no finished version, both
    are the same, or `old` was made of `newest`.
    """
    old, newest = storage.absolute(old).rstrip("/"), storage.absolute(newest).rstrip("/")
    _check_prunable(old, newest)
    needed = _names_in(old, _files_needed(newest))
    stays = STAYS if needed else ()
    copied = {f"labels/{name}" for name in storage.list_names(storage.join(newest, "labels"))}
    hidden = [storage.join(old, name) for name in HIDDEN]
    files = [*storage.list_files(old)] if storage.list_names(old) else []
    files += [storage.describe(path) for path in hidden if storage.exists(path)]
    records = {file.path for file in files if file.path.endswith("/run.json")}
    others = tuple(path.removesuffix("run.json") for path in records - {record_file(old)})
    return [
        file
        for file in files
        if not file.path.startswith(others)
        and (name := file.path.removeprefix(f"{old}/")) not in needed
        and not name.startswith(stays)
        and (name in copied or not name.startswith("labels/"))
    ]


def _check_prunable(old: str, newest: str) -> None:
    if storage.resolve(old) == storage.resolve(newest):
        raise ConfigError(f"{old} cannot be pruned for its own sake; name a newer version")
    _finished(old)
    _finished(newest)
    if storage.resolve(newest) in map(storage.resolve, versions.read_inherited(old).versions):
        raise ConfigError(
            f"{old} was made of {newest}, expected the older version first; "
            f"astroray prune {newest} --keep {old}"
        )
    if holder := find_holder(old):
        raise LedgerError(
            f"{old} is being written by process {holder.owner.pid} on {holder.owner.host}, "
            "expected nobody; wait until it ends"
        )


def _files_needed(run_dir: str) -> Iterator[str]:
    """Paths of all files that a version refers to, its own among them."""
    inherited = versions.read_inherited(run_dir)
    yield from (file.address for file in inherited.catalogs)
    for name, (version, _) in inherited.receipts.items():
        yield ledger.embeddings_path(version, name)
    if manifest := Manifest.load(run_dir):
        yield from (manifest.path(run_dir, uri) for uri, _ in manifest.files)
        yield from (manifest.path(run_dir, layer.ranking) for layer in manifest.layers)
    yield from files_of(ledger.read_listing(run_dir))


def _names_in(run_dir: str, paths: Iterable[str]) -> set[str]:
    """The names within `run_dir` of files that lie there, whichever links lead to it."""
    place_of = functools.cache(functools.partial(_place_in, storage.resolve(run_dir)))
    parted = (path.rpartition("/") for path in paths)
    placed = ((place_of(folder), name) for folder, _, name in parted)
    return {f"{place}{name}" for place, name in placed if place is not None}


def _place_in(run_dir: str, folder: str) -> str | None:
    """What stands before a name within `run_dir` of a file in `folder`; None: it lies elsewhere.

    A folder within a run may itself be a link, to another disk: then it lies there all the same.
    """
    within = ""
    while folder:
        if storage.resolve(folder) == run_dir:
            return within
        folder, _, name = folder.rpartition("/")
        within = f"{name}/{within}"
    return None


def delete_files(files: Sequence[InputFile]) -> None:
    """Deletes them, the run record last, so that an interrupted call can be made again."""
    records = [file.path for file in files if file.path.endswith("/run.json")]
    storage.at_once(storage.delete, {file.path for file in files} - set(records))
    storage.at_once(storage.delete, records)


def _finished(run_dir: str) -> RunRecord:
    record = record_of(run_dir)
    check_finished(record, run_dir)
    return record


def _check_free(out: str, record: RunRecord) -> None:
    there = RunRecord.load(out)
    if there is None and not done_shards(out):
        ledger.check_unclaimed(out, OF_SCAN)
    if there is not None and there.fingerprint != record.fingerprint:
        raise LedgerError(
            f"{out} holds another run, expected an empty folder; choose another --out"
        )


def _copy(run_dir: str, name: str, out: str) -> None:
    if storage.exists(storage.join(run_dir, name)):
        copy_file(storage.join(run_dir, name), storage.join(out, name))


def _copy_listing(run_dir: str, out: str) -> None:
    """The listing, and the files that its shards name, as files of `out`."""
    if not (shards := ledger.read_listing(run_dir)):
        return
    files, folder = files_of(shards), ledger.objects_folder(out)
    place = {path: storage.join(folder, path.rpartition("/")[2]) for path in files}
    for path, sha256 in files.items():
        if fault := damage(path, sha256):
            raise LedgerError(fault)
        copy_file(path, place[path])
    ledger.write_listing(out, [moved(shard, place.__getitem__) for shard in shards])


def _copy_index(run_dir: str, out: str) -> None:
    """All layers of an index as files of `out`, whose manifest comes last; none if one is damaged.

    A file's name says what it was built from, so those of several versions never meet.
    """
    manifest = Manifest.load(run_dir)
    if manifest is None:
        return
    wrong = [manifest.damage(run_dir, uri, sha256) for uri, sha256 in manifest.files]
    if any(wrong):
        fault = "; ".join(filter(None, wrong))
        _log.warning("the copy has no index, the next night builds one anew: %s", fault)
        return
    for uri in [*(uri for uri, _ in manifest.files), *(one.ranking for one in manifest.layers)]:
        folder, _, name = manifest.path(run_dir, uri).rpartition(f"/{FOLDER}/")
        _copy(folder, f"{FOLDER}/{name}", out)
    manifest.located(lambda uri: uri.rpartition("/")[2]).publish(out)


def _copy_shard(version: str, receipt: Receipt, out: str) -> None:
    """Embeddings, rejects and done mark of a shard, in this order."""
    if read_receipt(out, receipt.shard):
        return
    if not receipt.shard_rejected:
        ledger.read_embeddings(version, receipt, ["row"])  # checks the file
        _copy(version, f"embeddings/{receipt.shard}.parquet", out)
    _copy(version, f"rejects/{receipt.shard}.parquet", out)
    publish_receipt(out, receipt)


def _copy_duplicates(run_dir: str, out: str) -> int:
    """The duplicates that each version dropped, as one file; returns their number."""
    older = versions.read_inherited(run_dir).versions
    tables = [ledger.read_rejects_of(version, "duplicates") for version in [*older, run_dir]]
    table = pa.concat_tables(tables)
    if len(table):
        publish_parquet(storage.join(out, "rejects", "duplicates.parquet"), table)
    return len(table)
