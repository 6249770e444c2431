"""How one shard becomes published embeddings: read, prepare, encode, publish, receipt."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from astroray import faults, ledger, schema, surveys
from astroray.attempts import Nodes, begin_attempt
from astroray.encoders import AttentionName, QuantizeName
from astroray.errors import ConfigError, DataError, ShardError
from astroray.preparation import Prepared
from astroray.receipts import Receipt, read_receipt
from astroray.storage.meter import METER
from astroray.storage.parquet import parquet_bytes
from astroray.surveys.shards import Reject, Rows, Shard

if TYPE_CHECKING:
    from astroray.actors.encode import BatchEncoder

_log = logging.getLogger("astroray.embed")
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedPlan:
    """What every worker of the embed stage is told; small, so that it travels with the actor."""

    run_dir: str
    model_path: str
    session: str
    """Attempts are counted within a session, so that a killed driver accuses no shard."""
    batch_size: int
    device: str = "cpu"
    num_threads: int = 1
    attention: AttentionName = "auto"
    quantize: QuantizeName = "auto"
    until_s: float | None = None
    """Unix time after which no shard is begun, while those that are begun are finished: so that
    what is done stands still when the stage ends. None: all shards are embedded."""
    fault_plan: str = ""


class Embedder:
    """Worker of the embed stage: shards in, receipts out, a row for each shard that is done.

    Called with a batch {"shard": [packed Shard]}; returns {"receipt": [JSON of a Receipt]}.
    """

    def __init__(self, plan: EmbedPlan, nodes: Nodes | None = None) -> None:
        faults.arm(plan.fault_plan)
        self.plan = plan
        self.nodes = nodes
        self.encoder = start_encoder(plan)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        receipts = [
            self.embed(unpack_shard(text)) for text in batch["shard"] if not self._is_late()
        ]
        return {"receipt": [json.dumps(dataclasses.asdict(receipt)) for receipt in receipts]}

    def _is_late(self) -> bool:
        return self.plan.until_s is not None and time.time() > self.plan.until_s

    def embed(self, shard: Shard) -> Receipt:
        """Embeds one shard and publishes it whole; does nothing twice.

        A shard that cannot be read becomes one reject; so does one that has killed its worker
        `attempts.MAX_DEATHS` times.
        """
        done = read_receipt(self.plan.run_dir, shard.name)
        if done is not None:
            return done
        started, bytes_before = time.monotonic(), METER.bytes_read
        attempt = begin_attempt(self.plan.run_dir, shard.name, self.plan.session, nodes=self.nodes)
        faults.reach("shard.begun", shard.name)
        rows = _Rows()
        advice = "look at logs/workers, then retry-rejects"
        killer = attempt.quarantine(stage="encode", advice=advice)
        fault = killer or self._fill(rows, shard)
        faults.reach("shard.encoded", shard.name)
        data = b"" if fault else rows.to_parquet(shard.name, dim=self.encoder.dim)
        rejects = [fault] if fault else rows.rejects
        receipt = Receipt(
            shard=shard.name,
            rows_read=0 if fault else rows.num_embedded + len(rows.rejects),
            rows_embedded=0 if fault else rows.num_embedded,
            rows_rejected=0 if fault else len(rows.rejects),
            shard_rejected=fault is not None,
            checksum=hashlib.sha256(data).hexdigest() if data else "",
            attempt=attempt.number,
            seconds=round(time.monotonic() - started, 4),
            bytes_read=METER.bytes_read - bytes_before,
        )
        ledger.finish_shard(self.plan.run_dir, receipt, embeddings=data, rejects=rejects)
        faults.reach("shard.done", shard.name)
        _log.info("embedded %s", receipt)
        return receipt

    def _fill(self, rows: "_Rows", shard: Shard) -> Reject | None:
        """Reads and encodes the shard into `rows`; a reject where it is unreadable as a whole."""
        prepare = self.encoder.model.prepare
        slices = (prepare_slice(item, prepare) for item in surveys.read_shard(shard))
        try:
            for read, prepared in ahead(slices):
                rows.reject(prepared.rejects)
                if read is not None:
                    rows.keep(read, prepared)
                    with self._said_where(shard, rows):
                        rows.encoded(self.encoder.push(prepared.input_BCYX))
            with self._said_where(shard, rows):
                rows.encoded(self.encoder.flush())
            _check_count(shard, rows.num_embedded + len(rows.rejects))
        except DataError as error:
            return Reject.of_shard(error)
        finally:
            self.encoder.clear()
        return None

    @contextlib.contextmanager
    def _said_where(self, shard: Shard, rows: "_Rows") -> Iterator[None]:
        """Puts shard and object before what a network raises."""
        try:
            yield
        except ConfigError as error:
            batch, alone = self.encoder.find_failing()
            if alone is not None:
                raise ConfigError(
                    f"shard {shard.name}, {rows.describe(alone)}: {error}. Where a network makes "
                    "NaN of an object, that one is rejected and the others go on"
                ) from error
            raise ConfigError(
                f"shard {shard.name}, {rows.describe(batch[0])} to {rows.describe(batch[-1])}, "
                f"each of which is encoded alone, but not in a batch of {self.plan.batch_size}, "
                f"filled up with zeros: {error}"
            ) from error


def _check_count(shard: Shard, num_read: int) -> None:
    """Raises ShardError where the reader gave other rows than the listing had counted."""
    if shard.num_rows not in (None, num_read):
        raise ShardError(
            f"shard {shard.name} gave {num_read} rows, expected {shard.num_rows} as when it was "
            "listed; its files were changed, or its reader loses rows: restore them, then "
            "retry-rejects"
        )


def start_encoder(plan: EmbedPlan) -> "BatchEncoder":
    """The model of a plan, loaded on its device and ready for rows."""
    from astroray.actors.encode import BatchEncoder  # loads torch, which the driver need not

    return BatchEncoder(
        model_path=plan.model_path,
        batch_size=plan.batch_size,
        device=plan.device,
        num_threads=plan.num_threads,
        attention=plan.attention,
        quantize=plan.quantize,
    )


def prepare_slice(
    item: Rows | Reject, prepare: Callable[[Rows], Prepared]
) -> tuple[Rows | None, Prepared]:
    """A slice beside its prepared rows; a reject of the reader passes through."""
    if isinstance(item, Reject):
        return None, _only_rejects((item,))
    impossible_B = (np.abs(item.dec_deg_B) > 90) | (np.abs(item.ra_deg_B - 90) > 270)
    if not impossible_B.any():
        return item, prepare(item)
    rejects = tuple(
        Reject(
            row=int(item.row_B[i]),
            stage="read",
            kind="position",
            reason=f"ra is {item.ra_deg_B[i]} and dec is {item.dec_deg_B[i]} deg, expected "
            "-180..360 and -90..90; mend the table",
        )
        for i in np.flatnonzero(impossible_B)
    )
    possible = item.take(np.flatnonzero(~impossible_B))
    prepared = prepare(possible)
    return possible, dataclasses.replace(prepared, rejects=(*rejects, *prepared.rejects))


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items; the next one is made by a thread while the caller works on this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item


def pack_shard(shard: Shard) -> str:
    """A shard as text, the way it travels to a worker; packed, since all are handed over at once.

    It is text, as Ray may take bytes for those of an array, and drop zeros at their end.
    """
    return base64.b64encode(zlib.compress(json.dumps(shard.facts()).encode())).decode()


def unpack_shard(text: str) -> Shard:
    """The shard of `pack_shard`."""
    return Shard.of_facts(json.loads(zlib.decompress(base64.b64decode(text))))


class _Rows:
    """The rows of one shard on their way to its embeddings file."""

    def __init__(self) -> None:
        self.rejects: list[Reject] = []
        self.num_embedded = 0
        self._identities: list[pa.Table] = []
        self._embeddings: list[np.ndarray] = []

    def reject(self, rejects: Sequence[Reject]) -> None:
        self.rejects.extend(rejects)

    def keep(self, read: Rows, prepared: Prepared) -> None:
        """Notes identity and flags of the prepared rows of a slice."""
        index_B = prepared.index_B
        ids = [read.object_id_B[i] for i in index_B]
        columns = schema.identity(ids, read.ra_deg_B[index_B], read.dec_deg_B[index_B])
        columns["row"] = pa.array(read.row_B[index_B], pa.int64())
        columns["processing_flags"] = pa.array(prepared.flags_B, pa.int32())
        for name in ("field", "night", "detector"):
            columns[name] = pa.array([getattr(read, name)] * len(index_B), pa.string())
        self._identities.append(pa.table(columns))

    def describe(self, place: int) -> str:
        """The object that was kept as the `place`-th of all, from 0."""
        kept = pa.concat_tables(self._identities).slice(place, 1).to_pylist()[0]
        return f"row {kept['row']} (object {kept['object_id']})"

    def encoded(self, embedding_BD: np.ndarray) -> None:
        """Takes the embeddings of rows kept before, in order."""
        self._embeddings.append(embedding_BD)
        self.num_embedded += len(embedding_BD)

    def to_parquet(self, shard: str, *, dim: int) -> bytes:
        """The shard's EMBEDDINGS file. A row whose embedding is not finite is a reject."""
        promised = schema.embeddings(dim)
        if not self._identities:
            return _parquet(promised.empty_table())
        table = pa.concat_tables(self._identities)
        embedding_ND = np.concatenate(self._embeddings)
        finite_N = np.isfinite(embedding_ND).all(axis=1)
        for row in table["row"].filter(pa.array(~finite_N)).to_pylist():
            reason = (
                "the encoder gave numbers that are not finite; look for a division by a spread, or "
                "a logarithm, if it is of your own, else report it with this object"
            )
            self.rejects.append(Reject(row=row, stage="encode", kind="nonfinite", reason=reason))
        self.num_embedded = int(finite_N.sum())
        table = table.filter(pa.array(finite_N))
        flat = pa.array(np.ascontiguousarray(embedding_ND[finite_N]).reshape(-1), pa.float32())
        table = table.append_column(
            schema.embedding_column(dim), pa.FixedSizeListArray.from_arrays(flat, dim)
        )
        table = table.append_column("shard", pa.array([shard] * len(table), pa.string()))
        return _parquet(schema.conform(table, promised, "embeddings"))


def _parquet(table: pa.Table) -> bytes:
    return parquet_bytes(table, use_dictionary=["shard", "field", "night", "detector"])


def _only_rejects(rejects: tuple[Reject, ...]) -> Prepared:
    nothing = np.zeros(0, np.int32)
    return Prepared(
        index_B=nothing, input_BCYX=np.zeros((0, 0, 0, 0), np.float32), flags_B=nothing,
        rejects=rejects,
    )  # fmt: skip
