"""What is wrong with a run directory of `flares find`, in words."""

import hashlib
from collections.abc import Mapping

import pyarrow as pa

from astroray import schema, storage
from astroray.errors import AstrorayError
from astroray.receipts import Receipt
from astroray.run_files import flare_part_file
from astroray.run_record import RunRecord
from astroray.storage.parquet import read_parquet

__all__ = ["check_flare_shard", "check_flare_tables"]

_TABLES = {
    "flares": schema.FLARES,
    "refused": schema.REFUSED_FLARES,
    "light_curves": schema.FLARE_CURVES,
    "stars": schema.FLARE_STARS,
    "rejects": schema.REJECTS,
}


def check_flare_shard(run_dir: str, receipt: Receipt) -> str:
    """What is wrong with a done shard's parts; empty where nothing is."""
    if receipt.shard_rejected:
        return ""
    try:
        path = flare_part_file(run_dir, "candidates", receipt.shard)
        data = storage.read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        if digest != receipt.checksum:
            return f"{path} has checksum {digest[:12]}, its receipt says {receipt.checksum[:12]}"
        path = flare_part_file(run_dir, "light_curves", receipt.shard)
        num_curves = len(_read(path, schema.FLARE_CURVES))
    except (AstrorayError, pa.ArrowInvalid) as error:
        return str(error)
    if num_curves != receipt.rows_embedded:
        return f"{path} has {num_curves} rows, its receipt says {receipt.rows_embedded}"
    return ""


def check_flare_tables(
    run_dir: str, record: RunRecord, receipts: Mapping[str, Receipt]
) -> list[str]:
    """What is wrong with the tables of a finished run; each is counted against the others."""
    tables: dict[str, pa.Table] = {}
    faults = []
    for name, promised in _TABLES.items():
        try:
            tables[name] = _read(storage.join(run_dir, f"{name}.parquet"), promised)
        except (AstrorayError, pa.ArrowInvalid) as error:
            faults.append(str(error))
    if faults:
        return faults
    curves, stars = tables["light_curves"], tables["stars"]
    expected = {
        "light_curves": sum(receipt.rows_embedded for receipt in receipts.values()),
        "flares": sum(curves["num_flares"].to_pylist()),
        "refused": sum(curves["num_refused"].to_pylist()),
        "stars": len(set(curves["object_id"].to_pylist())),
        "rejects": sum(r.rows_rejected + r.shard_rejected for r in receipts.values()),
    }
    for name, count in expected.items():
        if len(tables[name]) != count:
            faults.append(f"{name}.parquet has {len(tables[name])} rows, expected {count}")
    if sum(stars["num_flares"].to_pylist()) != len(tables["flares"]):
        faults.append("the stars' flares are not those of flares.parquet")
    if (counted := record.counts.flares) != (num_flares := len(tables["flares"])):
        faults.append(f"run.json counts {counted} flares, flares.parquet has {num_flares}")
    return faults


def _read(path: str, promised: pa.Schema) -> pa.Table:
    table = read_parquet(storage.read_bytes(path))
    return schema.conform(table, promised, path)
