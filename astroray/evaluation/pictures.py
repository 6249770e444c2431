"""The objects of a protocol, read and prepared by astroray's own readers."""

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from astroray import surveys
from astroray.actors.sample import MEASURE_ROWS
from astroray.errors import ConfigError
from astroray.evaluation.protocols import Protocol
from astroray.preparation import DEFAULT_SIZE_PX, SIZE_STEP_PX, Preparation, Wishes
from astroray.preparation.modalities import MODALITIES, AnyPreparation
from astroray.surveys.shards import Cutouts, Reject, Rows, Shard

__all__ = ["Pictures"]


class Pictures:
    """Reads the objects of a protocol, as often as they are prepared in another way.

    Raises ConfigError where an object of the protocol cannot be read.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self._shards = surveys.list_shards(protocol.survey).shards
        self.modality = surveys.modality_of(self._shards[0])
        self._row_of = {object_id: row for row, object_id in enumerate(protocol.object_ids)}
        self._places = self._find()
        self._prepared: tuple[str, np.ndarray] | None = None
        inputs = [[f.path, f.size_bytes, f.version] for s in self._shards for f in s.inputs]
        content = json.dumps([protocol.survey, protocol.object_ids, inputs])
        self.content_id = hashlib.sha256(content.encode()).hexdigest()[:16]
        """Hash of the objects and of the files that they are read from."""

    def measure(self, row_M: np.ndarray) -> AnyPreparation:
        """A preparation fitted to these rows alone; of images at a size that all encoders take."""
        chosen_M = row_M[:: -(-len(row_M) // MEASURE_ROWS)]
        slices = [rows for _, rows in self._read(chosen_M)]
        edges = [min(c.image_BCYX.shape[2:]) for c in slices if isinstance(c, Cutouts)]
        edge_px = min(DEFAULT_SIZE_PX, *edges) if edges else None
        size_px = edge_px and max(SIZE_STEP_PX, edge_px // SIZE_STEP_PX * SIZE_STEP_PX)
        return MODALITIES[self.modality].measure(iter(slices), Wishes(size_px=size_px))

    def prepared(self, preparation: AnyPreparation) -> np.ndarray:
        """All objects as an encoder sees them, float16 [N, C, Y, X], as fits store them.

        Raises ConfigError where an object cannot be prepared this way, e.g. for a band it lacks.
        """
        key = _meaning(preparation)
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = None  # the old ones go before the new ones come
            self._prepared = key, self._prepare(preparation)
        return self._prepared[1]

    def thumbnails(self, row_M: np.ndarray) -> dict[int, bytes]:
        """A small JPEG of each of the rows."""
        return {
            int(row): jpeg
            for row_B, rows in self._read(np.unique(row_M))
            for row, jpeg in zip(row_B, MODALITIES[self.modality].render(rows), strict=True)
        }

    def _prepare(self, preparation: AnyPreparation) -> np.ndarray:
        modality = MODALITIES[self.modality]
        shape = modality.shape(preparation.network)
        input_NCYX = np.empty((len(self._row_of), *shape), np.float16)
        for row_B, rows in self._read(np.arange(len(self._row_of))):
            done = modality.prepare(rows, preparation)
            for reject in done.rejects[:1]:
                raise ConfigError(
                    f"object {rows.object_id_B[list(rows.row_B).index(reject.row)]} of "
                    f"{self.protocol.survey} cannot be prepared for "
                    f"{preparation.describe()['input']}: "
                    f"{reject.reason}; take it out of the label table, or use another model"
                )
            input_NCYX[row_B] = done.input_BCYX
        return input_NCYX

    def _find(self) -> dict[int, list[tuple[int, int]]]:
        """By shard: its rows, and the protocol's rows that they are; reads every object once."""
        places: dict[int, list[tuple[int, int]]] = {}
        reasons = []
        for number, shard in enumerate(self._shards):
            for item in surveys.read_shard(shard):
                if isinstance(item, Reject):
                    reasons.append(item.reason)
                    continue
                for row, object_id in zip(item.row_B, item.object_id_B, strict=True):
                    if object_id in self._row_of:
                        found = places.setdefault(number, [])
                        found.append((int(row), self._row_of[object_id]))
        missing = set(range(len(self._row_of)))
        missing -= {place for found in places.values() for _, place in found}
        if missing:
            raise ConfigError(
                f"{len(missing)} of {len(self._row_of)} labelled objects cannot be read "
                f"in {self.protocol.survey}, e.g. {self.protocol.object_ids[min(missing)]} "
                f"({reasons[0] if reasons else 'no row of that name'}); mend the data set"
            )
        return places

    def _read(self, row_M: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
        """Slices of these rows of the protocol, and which rows they are."""
        wanted = set(row_M.tolist())
        for number, found in self._places.items():
            place_of = {row: place for row, place in found if place in wanted}
            if not place_of:
                continue
            shard: Shard = self._shards[number]
            for item in surveys.read_shard(shard, rows=sorted(place_of)):
                assert isinstance(item, Rows)  # it was readable before
                yield np.array([place_of[int(row)] for row in item.row_B]), item


def _meaning(preparation: AnyPreparation) -> str:
    """What decides the prepared numbers: of pictures the levels do not, where none is stretched."""
    if not isinstance(preparation, Preparation):
        return repr(preparation)
    levels = (preparation.sky_C, preparation.noise_C, preparation.peak_C)
    return repr(
        (
            preparation.size_px,
            preparation.bands,
            preparation.stretch,
            () if preparation.stretch == "none" else levels,
        )
    )
