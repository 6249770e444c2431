"""What of a finished run can be asked for: its catalog, its pictures, its nearest neighbors.

All of it is read when a server starts and never changes under it: a new run is a new archive.
"""

import bisect
import dataclasses
import functools
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray import ledger, sky, surveys
from astroray.actors.run_model import RunModel, model_of_run
from astroray.actors.search import embedding_matrix, read_embeddings
from astroray.catalog import versions
from astroray.errors import DataError, LedgerError
from astroray.neighbors.certificate import score_of
from astroray.neighbors.lookup import nearest_of
from astroray.picture_store import PictureStore
from astroray.preparation.modalities import MODALITIES
from astroray.report.thumbnails import render_thumbnail
from astroray.run_folders import finished_run, version_of
from astroray.surveys.shards import Cutouts, ModalityName, Rows, Shard

__all__ = ["Archive", "Nearest", "draw_item", "draw_rows"]

_log = logging.getLogger("astroray.archive")

_MAX_PICTURE_BYTES = 64 * 2**20
"""Of pictures kept by one archive: some 4,000 small ones, or 200 large ones."""
_BAND_SLACK_DEG = 1e-9  # rounding must not cut the edge of a cone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nearest:
    """What the catalog holds near an embedding, nearest first."""

    row_K: np.ndarray
    """[K] int64, rows of the catalog, that is rank - 1."""
    distance_K: np.ndarray
    """[K] float64, Euclidean, from the stored embeddings."""


class _Sheet(NamedTuple):
    """Pictures that one reading gives."""

    shard: str
    size_px: int
    band: str
    aspect: int


class Archive:
    """One finished run, read into memory; rows of the catalog are in order of rank.

    Of a folder of versions it is the newest finished one. Of a night it is the whole version: the
    rows and embeddings of older ones too.
    """

    def __init__(self, run_dir: str) -> None:
        run_dir = version_of(run_dir)
        record = finished_run(run_dir)
        self.run_dir, self.record = run_dir, record
        self.table = versions.read_version(run_dir).combine_chunks()
        self._by_id_N = pc.sort_indices(self.table["object_id"]).to_numpy()
        self._sorted_ids = self.table["object_id"].take(pa.array(self._by_id_N)).combine_chunks()
        self.embedding_ND = self._embeddings()
        self._shards = {shard.name: shard for shard in ledger.read_listing(run_dir)}
        self._score_N = self._scores()
        self._dec_N, self._by_dec_N = self._declinations()
        self._pictures = PictureStore(self._draw, max_bytes=_MAX_PICTURE_BYTES)

    @property
    def run_id(self) -> str:
        """The run's id; another catalog has another one."""
        return self.record.run_id

    @property
    def model_id(self) -> str:
        """Content hash of the model that made the embeddings."""
        return self.record.fitted.model_id

    @functools.cached_property
    def model(self) -> RunModel:
        """What an upload is encoded with, to be comparable with the embeddings."""
        return model_of_run(self.run_dir, self.record)

    @property
    def modality(self) -> ModalityName:
        """What its objects are."""
        return self.record.fitted.modality

    @property
    def params(self) -> Mapping[str, Any]:
        """How the survey's files are read, as its first shard has it."""
        return next(iter(self._shards.values())).params if self._shards else {}

    @property
    def k(self) -> int:
        """Neighbors that the run's score looks at."""
        return int(self.record.config["search"]["k"])

    @property
    def score(self) -> Literal["kth", "mean"]:
        """The run's score: distance to the k-th neighbor, or mean distance to k neighbors."""
        return "mean" if self.record.config["search"].get("score") == "mean" else "kth"

    @property
    def num_positions(self) -> int:
        """Objects that have a position on the sky."""
        return len(self._dec_N)

    def find(self, object_id: str) -> int | None:
        """Row of an object; None where the catalog does not hold it."""
        ids = self._sorted_ids
        place = bisect.bisect_left(range(len(ids)), object_id, key=lambda i: ids[i].as_py())
        if place == len(ids) or ids[place].as_py() != object_id:
            return None
        return int(self._by_id_N[place])

    def cone(self, ra_deg: float, dec_deg: float, radius_deg: float) -> np.ndarray:
        """Rows within `radius_deg` of a position, int64, ascending; objects without one never."""
        slack_deg = radius_deg + _BAND_SLACK_DEG
        low = np.searchsorted(self._dec_N, dec_deg - slack_deg, "left")
        high = np.searchsorted(self._dec_N, dec_deg + slack_deg, "right")
        row_M = self._by_dec_N[low:high]
        if not len(row_M):
            return row_M
        near = self.table.select(["ra", "dec"]).take(pa.array(row_M))
        away_M = sky.separation_arcsec(
            near["ra"].to_numpy(), near["dec"].to_numpy(), np.array(ra_deg), np.array(dec_deg)
        )
        return np.sort(row_M[away_M <= radius_deg * 3600.0])

    def nearest(self, embedding_D: np.ndarray, k: int, *, exclude: int = -1) -> Nearest:
        """The k nearest objects of the catalog, exactly; `exclude` is a row that may not be found.

        Ties go to the better rank.
        """
        wanted = k if exclude < 0 else k + 1
        row_M, distance_M = nearest_of(embedding_D, self.embedding_ND, wanted)
        is_kept_M = row_M != exclude
        return Nearest(row_K=row_M[is_kept_M][:k], distance_K=distance_M[is_kept_M][:k])

    def score_of(self, found: Nearest) -> float:
        """The run's score of an object with these neighbors, the run's k of them; NaN with none.

        With fewer neighbors than k, of those that there are, as the run does it.
        """
        return float(score_of(found.distance_K[None], self.score)[0])

    def rank_of(self, score: float) -> int:
        """The rank that a score would have: 1 + objects of the catalog with a larger one.

        A score is one by the embeddings that are stored. Where they selected a shortlist on fewer
        bits, the catalog ranks that by scores of the reference, and here it counts as selected.
        """
        return 1 + int(len(self._score_N) - np.searchsorted(self._score_N, score, "right"))

    def picture(self, row: int, size_px: int, band: str = "", aspect: int = 1) -> bytes | None:
        """PNG of an object, read from the survey's own file; None while that cannot be read.

        Of a cutout with `band` that one alone, or None where the object has none of that name. A
        light curve is drawn `aspect` times as wide as high.
        """
        place = self._places([row])[0]
        sheet = _Sheet(place["shard"], size_px, band, aspect)
        return self._pictures.get(sheet, place["row"])

    def draw_ahead(self, rows: Sequence[int], size_px: int) -> None:
        """Draws pictures that will be asked for, where several come from one reading of a file."""
        by_shard: dict[str, list[int]] = {}
        for place in self._places(rows):
            by_shard.setdefault(place["shard"], []).append(place["row"])
        for shard, of_shard in by_shard.items():
            if len(of_shard) > 1:
                self._pictures.draw_ahead(_Sheet(shard, size_px, "", 1), of_shard)

    def _places(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Shard of each row, and its row in that."""
        places: list[dict[str, Any]] = (
            self.table.select(["shard", "row"]).take(pa.array(rows, pa.int64())).to_pylist()
        )
        return places

    def _scores(self) -> np.ndarray:
        """Scores of the catalog by the stored embeddings, those that are known, ascending."""
        score_N = _floats(self.table["outlier_score"])
        if self.record.proven.selected_by:
            num_listed = self.record.proven.num_rescored  # the first ones are the shortlist
            score_N[:num_listed] = _floats(self.table[f"{self.score}_distance"][:num_listed])
        return np.sort(score_N[~np.isnan(score_N)])

    def _embeddings(self) -> np.ndarray:
        """Embeddings of the catalog's rows, [N, D] float32, each file checked by its receipt."""
        receipts = versions.read_all_receipts(self.run_dir)
        embedding_ND = np.zeros((len(self.table), self.record.fitted.dim), np.float32)
        for name, (row_S, place_S) in self._rows_by_shard().items():
            if name not in receipts:
                raise self._without_embeddings(name, len(row_S))
            objects = read_embeddings({name: receipts[name]}, ["row", "embedding"])
            found_S = pc.index_in(pa.array(row_S), value_set=objects["row"].combine_chunks())
            if found_S.null_count:
                raise self._without_embeddings(name, found_S.null_count)
            embedding_ND[place_S] = embedding_matrix(objects)[found_S.to_numpy()]
        return embedding_ND

    def _rows_by_shard(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By shard: rows in it that the catalog has, int64, and their places in the catalog."""
        shards = self.table["shard"].combine_chunks().dictionary_encode()
        row_N = self.table["row"].to_numpy()
        shard_N = shards.indices.to_numpy()
        order_N = np.argsort(shard_N, kind="stable")
        names = shards.dictionary.to_pylist()
        start = np.searchsorted(shard_N[order_N], np.arange(len(names) + 1))
        places = [order_N[start[i] : start[i + 1]] for i in range(len(names))]
        return {name: (row_N[at], at) for name, at in zip(names, places, strict=True)}

    def _without_embeddings(self, shard: str, num_rows: int) -> LedgerError:
        return LedgerError(
            f"{num_rows} rows of shard {shard} in the catalog of {self.run_dir} have no embedding, "
            "expected one for each; run the same command again to write the catalog anew"
        )

    def _declinations(self) -> tuple[np.ndarray, np.ndarray]:
        """Declinations in ascending order, and the rows that they belong to."""
        dec_N = _floats(self.table["dec"])
        order_N = np.argsort(dec_N, kind="stable")  # NaN last
        order_N = order_N[: np.isfinite(dec_N).sum()]
        return dec_N[order_N], order_N

    def _draw(self, sheet: Hashable, rows: list[int]) -> dict[int, bytes]:
        assert isinstance(sheet, _Sheet)
        shard = self._shards[sheet.shard]
        return draw_rows(shard, rows, size_px=sheet.size_px, band=sheet.band, aspect=sheet.aspect)


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64; null is NaN."""
    return np.array(column.to_numpy(zero_copy_only=False), np.float64)


def draw_rows(
    shard: Shard, rows: Sequence[int], *, size_px: int, band: str = "", aspect: int = 1
) -> dict[int, bytes]:
    """PNG of rows of a shard, as `Archive.picture` gives them; rows without one are left out."""
    drawn: dict[int, bytes] = {}
    wanted = set(rows)
    try:
        for item in surveys.read_shard(shard, rows=list(rows)):
            if not isinstance(item, Rows):
                continue
            for at, row in enumerate(item.row_B):
                if int(row) in wanted:
                    png = draw_item(item, at, size_px=size_px, band=band, aspect=aspect)
                    drawn |= {int(row): png} if png is not None else {}
    except DataError as error:
        _log.warning("no picture of some of %d rows of %s: %s", len(rows), shard.name, error)
    return drawn


def draw_item(
    item: Rows, at: int, *, size_px: int, band: str = "", aspect: int = 1
) -> bytes | None:
    """PNG of one of the objects of a slice; None where it has no band of that name."""
    if not isinstance(item, Cutouts):
        modality = MODALITIES[item.modality]
        return modality.draw_wide(item, at, width_px=aspect * size_px, height_px=size_px)
    planes = [i for i, name in enumerate(item.bands) if band in ("", name)]
    if not planes:
        return None
    return render_thumbnail(
        item.image_BCYX[at][planes],
        bands=[item.bands[plane] for plane in planes],
        pixels=item.pixels,
        size_px=size_px,
        format="PNG",
    )
