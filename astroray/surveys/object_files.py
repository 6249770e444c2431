"""How identifiers and positions stand in files of a run's ledger, many shards to a file.

    ledger/objects/HASH.parquet    columns object_id, ra, dec; the rows of some shards in a row
    ledger/objects/outside.json    how many objects of a catalog lie on none of the listed images

A shard names its file, the file's sha256 and which rows are its own, so that what a listing holds
and what a task is told do not grow with the objects. A file is named by its content: it never
changes, whoever writes it.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from astroray import storage
from astroray.errors import FileError, LedgerError
from astroray.storage.meter import METER
from astroray.storage.parquet import parquet_bytes, read_parquet
from astroray.surveys.shards import Shard

__all__ = [
    "damage", "files_of", "moved", "publish_outside", "publish_rows", "read_outside", "read_rows",
]  # fmt: skip

FILE_ROWS = 32_768
"""A file is closed once it has so many rows: about a megabyte, which a reader takes whole."""


def publish_rows(groups: Iterable[pa.Table], folder: str) -> Iterator[dict[str, Any]]:
    """Writes the objects of shards to files in `folder`; yields what `read_rows` needs of each.

    groups  the objects of one shard after the other: object_id, ra, dec, null where unknown
    """
    pending: list[pa.Table] = []
    for group in groups:
        pending.append(group)
        if sum(map(len, pending)) >= FILE_ROWS:
            yield from _publish(pending, folder)
            pending = []
    if pending:
        yield from _publish(pending, folder)


def read_rows(reference: Mapping[str, Any]) -> pa.Table:
    """The objects of one shard: object_id, ra, dec; NaN where a position is unknown.

    Raises LedgerError where their file is missing or differs from what the listing wrote.
    """
    table = _read(reference["file"], reference["sha256"])
    return table.slice(reference["start"], reference["stop"] - reference["start"])


def publish_outside(folder: str, *, num_outside: int, num_images: int) -> None:
    """Notes how many objects of a catalog lie on none of the images that were listed with it."""
    facts = {"outside": num_outside, "images": num_images}
    storage.publish(storage.join(folder, _OUTSIDE), json.dumps(facts).encode())


def read_outside(folder: str, *, num_images: int) -> int | None:
    """What was noted of so many images; None where nobody has counted, as once others came."""
    path = storage.join(folder, _OUTSIDE)
    if not storage.exists(path):
        return None
    try:
        facts = json.loads(storage.read_bytes(path))
        return int(facts["outside"]) if facts["images"] == num_images else None
    except (ValueError, TypeError, KeyError) as error:
        raise LedgerError(f"{path} is damaged ({error!r}); {_ADVICE}") from None


def files_of(shards: Iterable[Shard]) -> dict[str, str]:
    """The files that shards name, each with its sha256."""
    named = (shard.params["objects"] for shard in shards if _names_file(shard))
    return {reference["file"]: reference["sha256"] for reference in named}


def moved(shard: Shard, move: Callable[[str], str]) -> Shard:
    """The shard with its file where `move` says; one that names none as it is."""
    if not _names_file(shard):
        return shard
    reference = {**shard.params["objects"], "file": move(shard.params["objects"]["file"])}
    return dataclasses.replace(shard, params={**shard.params, "objects": reference})


def damage(path: str, sha256: str) -> str:
    """What is wrong with a file of objects; empty where nothing is."""
    try:
        found = storage.checksum(path)
    except FileError:
        return f"{path} is missing; {_ADVICE}"
    return "" if found == sha256 else f"{path} differs from its listing: {_ADVICE}"


_OUTSIDE = "outside.json"
_ADVICE = (
    "it holds identifiers and positions that the listing was given: restore it, or scan into "
    "another --out"
)


def _names_file(shard: Shard) -> bool:
    return "sha256" in shard.params.get("objects", {})


def _publish(groups: list[pa.Table], folder: str) -> Iterator[dict[str, Any]]:
    data = parquet_bytes(pa.concat_tables(groups))
    sha256 = hashlib.sha256(data).hexdigest()
    path = storage.join(folder, f"{sha256[:20]}.parquet")
    if not storage.exists(path):
        storage.publish(path, data)
    start = 0
    for group in groups:
        yield {"file": path, "sha256": sha256, "start": start, "stop": start + len(group)}
        start += len(group)


@functools.lru_cache(maxsize=2)
def _read(path: str, sha256: str) -> pa.Table:
    """The whole file, kept for the next shard, whose objects mostly stand in it too."""
    try:
        data = storage.read_bytes(path)
    except FileError:
        raise LedgerError(f"{path} is missing; {_ADVICE}") from None
    METER.add(-len(data))  # receipts count the bytes of the survey alone
    if hashlib.sha256(data).hexdigest() != sha256:
        raise LedgerError(f"{path} differs from its listing: {_ADVICE}")
    return read_parquet(data)
