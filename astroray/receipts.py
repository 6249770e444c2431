"""What became of each shard, and how that is read of very many.

    ledger/done/SHARD.json     the receipt of a finished shard; that it stands is the done mark
    ledger/receipts.parquet    receipts of many shards, each with the version of its mark

The marks are the truth. To read one takes a request, so that a run of 10^5 shards gathers them in
one file now and then; a receipt in it counts as long as its mark has the same version.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from astroray import storage
from astroray.errors import LedgerError
from astroray.storage.parquet import publish_parquet, read_parquet

PACK_EVERY = 4096
"""Fewer receipts than these are not worth a file of their own."""
_COLUMNS = ("version", "receipt")
_log = logging.getLogger("astroray.receipts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of one shard; its JSON is the done mark."""

    shard: str
    rows_read: int
    rows_embedded: int
    rows_rejected: int
    shard_rejected: bool
    """The shard could not be read as a whole; its rows are not counted."""
    checksum: str
    """sha256 of the shard's embeddings file; empty where there is none."""
    attempt: int
    seconds: float
    bytes_read: int

    def __post_init__(self) -> None:
        if self.rows_read != self.rows_embedded + self.rows_rejected:
            raise LedgerError(
                f"rows are not conserved in shard {self.shard}: read {self.rows_read}, embedded "
                f"{self.rows_embedded}, rejected {self.rows_rejected}; this is a bug of the reader"
            )


def publish_receipt(run_dir: str, receipt: Receipt) -> None:
    """Publishes the done mark of a shard whose files stand."""
    mark = json.dumps(dataclasses.asdict(receipt), sort_keys=True).encode()
    storage.publish(_path(run_dir, receipt.shard), mark)


def read_receipt(run_dir: str, shard: str) -> Receipt | None:
    """The receipt of one shard; None where it is not done."""
    path = _path(run_dir, shard)
    return _parse(path, storage.read_bytes(path)) if storage.exists(path) else None


def done_shards(run_dir: str) -> set[str]:
    """Names of the shards that are done, from one listing of the done marks."""
    names = storage.list_names(_folder(run_dir))
    return {name.removesuffix(".json") for name in names}


def undo_shard(run_dir: str, shard: str) -> None:
    """Takes back a done mark, so that the next run does the shard again."""
    storage.delete(_path(run_dir, shard))


def read_receipts(run_dir: str) -> dict[str, Receipt]:
    """The receipts of all done shards by name, in order of name."""
    return {receipt.shard: receipt for _, receipt in _read_all(run_dir)[0]}


def pack_receipts(run_dir: str, *, num_done: int = 0) -> None:
    """Gathers all receipts in one file, where at least PACK_EVERY are not in it yet.

    num_done  how many shards are done, for a caller that calls this after each of them: only one
              call in PACK_EVERY then looks at the receipts

    Only the one writer of the run may call it.
    """
    if num_done % PACK_EVERY:
        return
    found, num_new = _read_all(run_dir)
    if num_new < PACK_EVERY:
        return
    columns = {
        "version": [version for version, _ in found],
        "receipt": [json.dumps(dataclasses.asdict(receipt)) for _, receipt in found],
    }
    publish_parquet(_packed_path(run_dir), pa.table(columns))


def _read_all(run_dir: str) -> tuple[list[tuple[str, Receipt]], int]:
    """The version of each mark and its receipt, by name, and how many were not in the file."""
    marks = {mark.path: mark.version for mark in storage.list_versions(_folder(run_dir))}
    packed = _read_packed(run_dir) if len(marks) >= PACK_EVERY else {}
    known = {
        path: packed[path, version] for path, version in marks.items() if (path, version) in packed
    }
    lacking = [path for path in marks if path not in known]
    found = zip(lacking, storage.read_each(lacking), strict=True)
    known |= {path: _parse(path, data) for path, data in found if data is not None}
    ordered = sorted(known, key=lambda path: known[path].shard)  # a before a-1, unlike their paths
    return [(marks[path], known[path]) for path in ordered], len(lacking)


def _parse(path: str, data: bytes) -> Receipt:
    try:
        return Receipt(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise LedgerError(
            f"{path} is no receipt of a shard ({error}); delete it and run the same command "
            "again, which does the shard once more"
        ) from None


def _read_packed(run_dir: str) -> Mapping[tuple[str, str], Receipt]:
    """By path and version of the mark; a file that is damaged only costs time."""
    path = _packed_path(run_dir)
    if not storage.exists(path):
        return {}
    try:
        columns: list[list[Any]] = [
            column.to_pylist() for column in read_parquet(storage.read_bytes(path), _COLUMNS)
        ]
    except (pa.ArrowException, OSError) as error:
        _log.warning("%s is damaged and not used: %s", path, error)
        return {}
    receipts = (_parse(path, text) for text in columns[1])
    return {
        (_path(run_dir, receipt.shard), version): receipt
        for version, receipt in zip(columns[0], receipts, strict=True)
    }


def _folder(run_dir: str) -> str:
    return storage.join(run_dir, "ledger", "done")


def _path(run_dir: str, shard: str) -> str:
    return storage.join(_folder(run_dir), f"{shard}.json")


def _packed_path(run_dir: str) -> str:
    return storage.join(run_dir, "ledger", "receipts.parquet")
