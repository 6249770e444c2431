"""Where a row of a catalog comes from, and its score once more from the stored embeddings."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import catalog, ledger, storage, surveys
from astroray.actors.embed import prepare_slice
from astroray.actors.run_model import RunModel, model_of_run
from astroray.actors.search import embedding_matrix, read_embeddings
from astroray.catalog import versions
from astroray.catalog.asked import find_object
from astroray.catalog.versions import Receipts
from astroray.config import ScanConfig
from astroray.encoders import OF_BATCH
from astroray.errors import BackendError, ConfigError, DataError, LedgerError
from astroray.neighbors.certificate import score_of
from astroray.neighbors.distances import pair_distances
from astroray.run_folders import finished_run, version_of
from astroray.settings import from_dict
from astroray.sky import describe_position
from astroray.storage import InputFile
from astroray.surveys.shards import Reject, Shard
from astroray.terminal import one_line

__all__ = ["Explanation", "explain_object"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What one version of a catalog wrote of an object."""

    run: str
    outlier_score: float | None
    score_kind: str
    certified: bool

    def __str__(self) -> str:
        score = self.outlier_score
        value = "no score" if score is None else f"{score:.6g} {self.score_kind}"
        return f"{self.run}: {value}{', certified' * self.certified}"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Explanation:
    """The trace of one row; its text is what `astroray explain` writes."""

    row: dict[str, Any]
    """As `versions.read_version` has it."""
    numbers: str
    """What its stored embedding was computed in: float32, or as `encoder.quantize` has it."""
    embedded_in: str
    """Run directory of the version that embedded it."""
    shard: Shard
    history: Sequence[Scored]
    """Of each version that wrote the row, oldest first."""
    neighbor_id: Sequence[str]
    """Nearest first, among all objects of this version, found again by float64 distances."""
    distance: Sequence[float]
    score: float
    """Of these distances; NaN where there is no other object."""
    encoded_distance: float | None
    """How far the object, read and encoded now, is from its stored embedding."""
    encoded: str
    """What became of reading and encoding it again."""

    @property
    def files(self) -> Sequence[InputFile]:
        """Where it was read: of a shard with files for each row, those alone."""
        return self.shard.files_of(self.row["row"])

    @property
    def agrees(self) -> bool:
        """Whether the score computed again is what the catalog says of it."""
        return not re.search("differs|bug", self.verdict)

    def facts(self) -> dict[str, Any]:
        """For a program, as JSON has it."""
        named = ("object_id", "ra", "dec", "shard", "row", "model_id", "outlier_score", "rank",
                 "score_kind", "certified")  # fmt: skip
        return {
            **{name: self.row[name] for name in named},
            "numbers": self.numbers,
            "embedded_in": self.embedded_in,
            "files": [dataclasses.asdict(file) for file in self.files],
            "history": [dataclasses.asdict(scored) for scored in self.history],
            "neighbors": [
                {"object_id": name, "distance": distance}
                for name, distance in zip(self.neighbor_id, self.distance, strict=True)
            ],
            "score_now": None if np.isnan(self.score) else self.score,
            "agrees": self.agrees,
            "verdict": self.verdict,
            "encoded": self.encoded,
            "encoded_distance": self.encoded_distance,
        }

    @property
    def verdict(self) -> str:
        """What the score computed again says of the one in the catalog."""
        stored = self.row["outlier_score"]
        if stored is None or np.isnan(self.score):
            return "no other object, no score" if stored is None else "differs: no other object"
        if self.row["score_kind"] == "bound":
            holds = self.score <= stored
            return f"exact now: {self.score!r}, " + (
                "the bound holds" if holds else f"above the bound {stored!r}: report this as a bug"
            )
        if self.score == stored and list(self.neighbor_id) == self.row["neighbor_id"]:
            return "equal to the last bit, with the same neighbors"
        return f"differs: {self.score!r} now, {stored!r} in the catalog; run `astroray verify`"

    def __str__(self) -> str:
        row = self.row
        again = "" if self.encoded_distance is None else f", distance {self.encoded_distance:.3g}"
        return "\n".join(
            one_line(line)
            for line in [
                f"object    {row['object_id']}  {describe_position(row['ra'], row['dec'])}",
                f"shard     {row['shard']}, row {row['row']}, embedded in {self.embedded_in}",
                *(
                    f"file      {f.path}, {f.size_bytes} bytes, version {f.version}"
                    for f in self.files
                ),
                *self._read_with(),
                f"model     {row['model_id']} in {self.numbers}",
                *(f"scored    {scored}" for scored in self.history),
                f"now       rank {row['rank']}, {row['score_kind']}, {self.verdict}",
                *(
                    f"neighbor  {distance:.6g}  {name}"
                    for name, distance in zip(self.neighbor_id, self.distance, strict=True)
                ),
                f"encoded   {self.encoded}{again}",
            ]
        )

    __repr__ = __str__  # a notebook shows a person this, not the files of the whole shard

    def _read_with(self) -> list[str]:
        of_all = ("objects", "members")  # of the shard; what is this row's stands in other lines
        part = [
            f"{key}={value}"
            for key, value in self.shard.params.items()
            if key not in of_all and value not in ("", None)
        ]
        return [f"read with {' '.join(part)}"] if part else []


def explain_object(run_dir: str, object_id: str) -> Explanation:
    """Traces one object of a scan or night, and computes its score again.

    Raises ConfigError where there is no such version or object, LedgerError where a file that it
    needs is gone.
    """
    run_dir, record = version_of(run_dir), finished_run(run_dir)
    config: ScanConfig = from_dict(ScanConfig, record.config, where="run.json")
    table = versions.read_version(run_dir)
    row = table.slice(find_object(table, object_id, run_dir), 1).to_pylist()[0]
    numbers = record.proven.selected_by
    if numbers and row["rank"] <= record.proven.num_rescored:  # the shortlist
        raise LedgerError(
            f"{object_id} was encoded again by model {row['model_id']} in float32 for its rank, "
            f"and only the embeddings of {record.fitted.model_id} in {numbers}, which selected "
            "it, are stored: its score cannot be computed again; scan with encoder.quantize none "
            "to have it explained"
        )
    receipts = versions.read_all_receipts(run_dir)
    if undone := set(table["shard"].unique().to_pylist()) - set(receipts):
        raise LedgerError(
            f"shard {min(undone)} is in the catalog of {run_dir} but not done, expected its "
            "embeddings; run the same command again to do it anew"
        )
    shard = ledger.find_shard(run_dir, row["shard"])
    own_D = _stored(receipts, row)
    names, distance_K = _nearest(receipts, table, row, own_D, k=config.search.k)
    model = model_of_run(run_dir, record)
    batch_size = config.batch_size_on(record.backends.device or "cpu")
    encoded_distance, encoded = _encode(model, batch_size, shard, row["row"], own_D)
    return Explanation(
        row=row,
        numbers=model.numbers,
        embedded_in=receipts[shard.name][0],
        shard=shard,
        history=_history(run_dir, object_id),
        neighbor_id=names,
        distance=distance_K.tolist(),
        score=float(score_of(distance_K[None], config.search.score)[0]),
        encoded_distance=encoded_distance,
        encoded=encoded,
    )


def _stored(receipts: Receipts, row: dict[str, Any]) -> np.ndarray:
    """The stored embedding of a row, float32 [D]."""
    objects = read_embeddings({row["shard"]: receipts[row["shard"]]})
    objects = objects.filter(pc.equal(objects["row"], row["row"]))
    vector_D: np.ndarray = embedding_matrix(objects)[0]
    return vector_D


def _nearest(
    receipts: Receipts, table: pa.Table, row: dict[str, Any], own_D: np.ndarray, *, k: int
) -> tuple[list[str], np.ndarray]:
    """Names and distances of the nearest others, several shards at a time, ties by object_id."""
    kept = table.select(["shard", "row"]).group_by("shard").aggregate([("row", "list")])

    def nearest_in(name: str, rows: pa.ListScalar) -> list[tuple[float, str]]:
        objects = read_embeddings({name: receipts[name]}, ["object_id", "row", "embedding"])
        is_kept = pc.is_in(objects["row"], value_set=rows.values)
        is_other = pc.not_equal(objects["object_id"], row["object_id"])
        objects = objects.filter(pc.and_(is_kept, is_other)).combine_chunks()
        if not len(objects):
            return []
        vectors = np.concatenate([own_D[None], embedding_matrix(objects)])
        other_P = np.arange(1, len(vectors))
        distance_P = pair_distances(vectors, np.zeros(len(other_P), np.int64), other_P)
        near = np.flatnonzero(distance_P <= np.sort(distance_P)[:k][-1])
        ids = objects["object_id"].take(pa.array(near)).to_pylist()
        return sorted(zip(distance_P[near].tolist(), ids, strict=True))[:k]

    shards = zip(kept["shard"].to_pylist(), kept["row_list"], strict=True)
    found = storage.at_once(lambda shard: nearest_in(*shard), shards)
    best = sorted(itertools.chain.from_iterable(found))[:k]
    return [name for _, name in best], np.array([distance for distance, _ in best])


def _encode(
    model: RunModel, batch_size: int, shard: Shard, row: int, own_D: np.ndarray
) -> tuple[float | None, str]:
    """How far the object encoded now is from its stored embedding, and what happened."""
    try:
        encoder = model.start(batch_size=batch_size, device="cpu", num_threads=1)
    except BackendError as error:
        return None, f"not encoded again: {error}"
    try:
        for item in surveys.read_shard(shard, rows=[row]):
            read, prepared = prepare_slice(item, encoder.model.prepare)
            if read is None or not len(prepared.index_B):
                reason = prepared.rejects[0].reason if prepared.rejects else "nothing was read"
                return None, f"rejected now: {reason}"
            now_BD = np.concatenate([encoder.push(prepared.input_BCYX.copy()), encoder.flush()])
            pair = np.stack([own_D, now_BD[0]])
            distance = float(pair_distances(pair, np.array([0]), np.array([1]))[0])
            same = "equal to the last bit" if np.array_equal(own_D, now_BD[0]) else "not equal"
            if encoder.backends["quantize"] in OF_BATCH and same == "not equal":
                same += ", since it was rounded by the largest of its batch, and is alone now"
            return distance, f"read and encoded again, {same}"
    except DataError as error:
        return None, f"the survey cannot be read now: {Reject.of_shard(error).reason}"
    except (BackendError, ConfigError) as error:  # a network of the user's own raises it
        return None, f"not encoded again: {error}"
    return None, "the survey has no such row now"


def _history(run_dir: str, object_id: str) -> list[Scored]:
    """What each version wrote of an object, oldest first."""
    columns = ["outlier_score", "score_kind", "certified"]
    named = ["object_id", *columns]
    layers = versions.read_layers(versions.read_inherited(run_dir), named)
    found = []
    for version, rows in [*layers, (run_dir, catalog.read_catalog(run_dir).select(named))]:
        of_object = rows.filter(pc.equal(rows["object_id"], object_id)).select(columns)
        found += [Scored(run=version, **row) for row in of_object.to_pylist()]
    return found
