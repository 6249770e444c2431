"""What a run directory says of itself: status, verification, and shards worth another try."""

import dataclasses
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import ledger, schema, storage, surveys
from astroray.catalog import versions
from astroray.config import ScanConfig
from astroray.errors import AstrorayError, ConfigError, LedgerError
from astroray.execution.progress import read_steps
from astroray.flares.verification import check_flare_shard, check_flare_tables
from astroray.ledger import RETRYABLE_KINDS
from astroray.neighbors.partitions import Manifest
from astroray.receipts import Receipt, done_shards, read_receipts, undo_shard
from astroray.run_folders import night_after, record_of
from astroray.run_record import Counts, RunRecord
from astroray.runs import check_takes
from astroray.settings import from_dict
from astroray.storage.leases import find_holder, hold_lease
from astroray.storage.spill import Spill
from astroray.surveys.object_files import damage, files_of

NUM_CODES = 2**32
ROWS_AT_ONCE = 100_000
"""Whose names or ranks are compared at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is."""

    run_dir: str
    record: RunRecord
    """A blank one before it is written: while the survey is listed, or a run copied here."""
    num_shards: int
    """As listed so far; of a night with those of older versions, as what is done."""
    done: Counts
    """Shards and rows by their receipts, while `record.counts` are those of the last search."""
    writer: str | None
    """Who writes to it now, and since when; None where nobody does."""
    search: str
    """How far a running search is; empty where none runs."""

    def words(self) -> dict[str, str]:
        """For a person."""
        record, done = self.record, self.done
        if self._is_beginning:
            told = "its survey is being listed, or a run copied here; nothing else is known yet"
            return {"state": record.state, "stage": told, "writer": self.writer or ""}
        spent = ", ".join(f"{stage} {value:.0f}" for stage, value in record.seconds.items())
        status = {
            "survey": record.survey,
            "state": record.state,
            "model": _model_words(record),
            "shards done": f"{done.shards} of {self.num_shards}",
            "objects": str(done.rows_embedded),
            "rejects": f"{done.rows_rejected} rows, {done.shards_rejected} shards",
            "seconds": spent,
        }
        if record.is_of_flares:
            del status["model"]
            found = record.counts.flares
            status["flares"] = "not gathered yet" if found is None else str(found)
        if record.state == "running":
            nobody = "nobody: it was killed or lost; the same command goes on with it"
            status["writer"] = self.writer or nobody
        if self.search:
            status["search"] = self.search
        if record.night:
            status["night"] = f"{record.night.number} after {record.night.reference}"
        if record.proof:
            status["proof"] = record.proof.sentence
        if record.error:
            status["error"] = record.error
        return status

    def facts(self) -> dict[str, Any]:
        """For a program, as JSON has it; the rest of what is known stands in `run.json`."""
        record, done = self.record, self.done
        facts = {
            "run": self.run_dir,
            "run_id": record.run_id,
            "survey": record.survey,
            "state": record.state,
            "error": record.error or None,
            "model_id": record.model.model_id if record.model else None,
            "shards": self.num_shards,
            "shards_done": done.shards,
            "shards_rejected": done.shards_rejected,
            "rows_embedded": done.rows_embedded,
            "rows_rejected": done.rows_rejected,
            "catalog": record.counts.catalog,
            "flares": record.counts.flares,
            "seconds": dict(record.seconds),
            "writer": self.writer,
            "search": self.search or None,
            "reference": record.night.reference if record.night else None,
            "proof": record.proof.sentence if record.proof else None,
        }
        known = {"run", "state", "writer"} if self._is_beginning else set(facts)
        return {name: value if name in known else None for name, value in facts.items()}

    @property
    def _is_beginning(self) -> bool:
        return not self.record.created


def read_status(run_dir: str) -> RunStatus:
    """How far a run is, though it may have no record yet. Raises ConfigError without a run."""
    record = RunRecord.load(run_dir)
    if record is None and find_holder(run_dir):
        record = RunRecord(survey="", fingerprint="", config={}, created="")
    record = record or _record(run_dir)
    receipts = versions.read_all_receipts(run_dir)
    is_running = record.state == "running"
    holder = find_holder(run_dir) if is_running else None
    return RunStatus(
        run_dir=run_dir,
        record=record,
        num_shards=len(ledger.listed_names(run_dir)),
        done=ledger.total(receipt for _, receipt in receipts.values()),
        writer=str(holder) if holder else None,
        search=read_steps(run_dir) if is_running else "",
    )


def verify_run(run_dir: str) -> list[str]:
    """Faults of a run, in words; none is an empty list.

    Of a scan, checks every receipt's conservation, every embeddings file's checksum, schema and
    rows, the files of its listing and of its index by their checksums where it has such, that
    embedded = catalog + duplicates, and that the catalog conforms and its ranks are 1..N; of
    `flares find`, the parts of every shard, and that the tables conform and agree.
    """
    return _find_faults(run_dir)[0]


def repair_run(run_dir: str) -> tuple[list[str], list[str]]:
    """Takes back the done marks of damaged shards, so that the next scan does them again.

    Returns the faults as `verify_run` has them, and the names of those shards. Raises ConfigError
    without a run, LedgerError while another process writes to it.
    """
    faults, damaged = _find_faults(run_dir)
    if damaged:
        check_takes(run_dir, "ledger")
        with hold_lease(run_dir):
            for name in damaged:
                undo_shard(run_dir, name)
    return faults, damaged


def _find_faults(run_dir: str) -> tuple[list[str], list[str]]:
    """Faults in words, and the names of the shards whose output is damaged."""
    record = _record(run_dir)
    faults: list[str] = []
    listing = ledger.read_listing(run_dir)
    listed = {shard.name for shard in listing}
    named = sorted(files_of(listing).items())
    faults += filter(None, storage.at_once(lambda file: damage(*file), named))
    receipts = versions.read_all_receipts(run_dir)
    unlisted = set(receipts) - listed
    if not listed:  # a night that was stopped early knows those of its reference before it lists
        unlisted &= done_shards(run_dir)
    faults += [f"shard {name} is done but not listed" for name in sorted(unlisted)]
    missing = sorted(listed - set(receipts))
    coverage = record.night and record.night.coverage
    if record.state == "done" and len(missing) != (coverage.shards_left if coverage else 0):
        faults.append(f"the run is done, but {len(missing)} shards are not, first {missing[:1]}")
    damaged = _damaged(record, receipts)
    faults += damaged.values()
    if record.state == "done" and record.is_of_flares:
        own = {name: receipt for name, (_, receipt) in receipts.items()}
        faults += check_flare_tables(run_dir, record, own)
    elif record.state == "done":
        faults += _check_index(run_dir, record)
        faults += _check_catalog(run_dir, record)
    return faults, sorted(damaged)


def _damaged(record: RunRecord, receipts: versions.Receipts) -> dict[str, str]:
    """What is wrong with the output of each damaged shard, by its name."""
    check = check_flare_shard if record.is_of_flares else _check_embeddings
    checked = storage.at_once(lambda found: check(*found), receipts.values())
    return {name: fault for name, fault in zip(receipts, checked, strict=True) if fault}


def reopen_rejected(run_dir: str) -> tuple[ScanConfig, list[str]]:
    """Takes back the done marks of shards with rejects whose cause may have gone.

    Their files are taken as they are now. Returns the run's configuration and the shards' names;
    a scan with it does them again.
    """
    record = _record(run_dir)
    if record.is_of_flares:
        raise ConfigError(
            f"{run_dir} is a run of flares find, expected one of a scan; search the mended "
            "files with flares find and another --out"
        )
    night = run_dir if record.night else night_after(run_dir)
    if night:
        raise ConfigError(
            f"{run_dir} is {'a night' if record.night else f'what the night {night} is made of'}, "
            "expected a scan that no other version refers to; a file of which nothing was read is "
            "embedded by the next night once it is mended; for single rows of a file scan the "
            "survey into a new --out, which begins a new reference"
        )
    config: ScanConfig = from_dict(ScanConfig, record.config, where="run.json")
    config = dataclasses.replace(config, out=run_dir)
    check_takes(run_dir, "ledger")
    with hold_lease(run_dir):
        return config, _reopen(run_dir, config)


def _reopen(run_dir: str, config: ScanConfig) -> list[str]:
    """Takes back the done marks, of what stands while nobody else writes."""
    rejects = ledger.read_rejects(run_dir)
    may_pass = pc.and_(
        pc.is_in(rejects["class"], value_set=pa.array(RETRYABLE_KINDS)),
        pc.is_in(rejects["stage"], value_set=pa.array(["read", "encode"])),
    )
    names = set(rejects["shard"].filter(may_pass).unique().to_pylist())
    known = ledger.read_listing(run_dir)
    changed = surveys.list_shards(config.survey, known=known).changed
    fresh = [changed[s.name] if s.name in names & set(changed) else s for s in known]
    for name in sorted(names):
        undo_shard(run_dir, name)
    ledger.write_listing(run_dir, fresh)
    return sorted(names)


def _record(run_dir: str) -> RunRecord:
    if RunRecord.load(run_dir) is None and (writer := find_holder(run_dir)):
        raise ConfigError(
            f"{run_dir} holds no run.json yet: {writer} lists its survey or copies a run here; "
            "ask again in a moment"
        )
    return record_of(run_dir, expected="scan, a night or flares find")


def _model_words(record: RunRecord) -> str:
    """The model by its id, and in which numbers it encodes the survey, once that is known."""
    backends = record.backends
    words = f" in {backends.fewer_bits or 'float32'}" if backends.quantize else ""
    return f"{record.model.model_id if record.model else 'not fitted yet'}{words}"


def _check_embeddings(run_dir: str, receipt: Receipt) -> str:
    """What is wrong with a done shard's embeddings; empty where nothing is."""
    if receipt.shard_rejected:
        return ""
    try:
        table = ledger.read_embeddings(run_dir, receipt)
    except LedgerError as error:
        return str(error)
    dim = table.schema.field("embedding").type.list_size
    schema.conform(table, schema.embeddings(dim), "embeddings")
    if len(table) != receipt.rows_embedded:
        path = ledger.embeddings_path(run_dir, receipt.shard)
        return f"{path} has {len(table)} rows, its receipt says {receipt.rows_embedded}"
    return ""


def _check_index(run_dir: str, record: RunRecord) -> list[str]:
    """What is wrong with the index of a search over partitions; nothing where there is none."""
    try:
        manifest = Manifest.load(run_dir)
    except LedgerError as error:
        return [str(error)]
    if manifest is None:
        return []
    advice = "the command of the scan, once more, builds it anew from the embeddings"
    if record.night:
        advice = "the next night builds an index anew from the embeddings, in its own folder"
    wrong = [manifest.damage(run_dir, uri, sha256) for uri, sha256 in manifest.files]
    return [f"{fault}; {advice}" for fault in wrong if fault]


def _check_catalog(run_dir: str, record: RunRecord) -> list[str]:
    """What is wrong with the rows of a version, which are gone through a row group at a time."""
    with Spill() as by_rank, Spill() as by_name:
        num_certified = 0
        try:
            for piece in versions.read_pieces(run_dir):
                rows = piece.read(schema.CATALOG.names)  # all, so that damage is noticed
                num_certified += pc.sum(rows["certified"]).as_py() or 0
                by_rank.add(rows["rank"].to_numpy(), rows.select(["rank"]))
                by_name.add(_codes(rows["object_id"]), rows.select(["object_id"]))
        except AstrorayError as error:
            return [str(error)]
        num_rows = by_rank.num_rows
        is_ranked, is_unique = _are_ranks(by_rank), _are_unique(by_name)
    faults = []
    counts = ledger.total(read_receipts(run_dir).values(), record.counts)
    counts = dataclasses.replace(counts, catalog=num_rows)
    if not counts.is_conserved:
        faults.append(counts.balance)
    if not is_ranked:
        faults.append("the catalog's ranks are not 1..N")
    if not is_unique:
        faults.append("the catalog has an object_id twice")
    num_proven = record.proof and record.proof.num_certified
    if num_certified != num_proven:
        faults.append(f"{num_certified} rows are certified, the proof is for {num_proven}")
    return faults


def _codes(ids: pa.ChunkedArray) -> np.ndarray:
    """A number below NUM_CODES of each name, [B]; equal names have equal ones."""
    return np.array([zlib.crc32(name.encode()) for name in ids.to_pylist()], np.int64)


def _are_ranks(by_rank: Spill) -> bool:
    """Whether the ranks are 1..N."""
    end = 1
    for rows in by_rank.in_ranges(ROWS_AT_ONCE):
        if not np.array_equal(rows["rank"], np.arange(end, end + len(rows))):
            return False
        end += len(rows)
    return True


def _are_unique(by_name: Spill) -> bool:
    """Whether no name occurs twice."""
    step = max(1, NUM_CODES * ROWS_AT_ONCE // max(1, by_name.num_rows))
    return all(
        pc.count_distinct(rows["object_id"]).as_py() == len(rows)
        for rows in by_name.in_ranges(step)
    )
