"""How an index lies on storage: a manifest, the cells, and partitions that can be memory-mapped.

    index/manifest.json                written last: the index is complete
    index/cells-SOURCE.arrow           a row a cell: its centroid and its partition
    index/objects-SOURCE.arrow         a row an object, in the order of object_id: who it is
    index/partition-SOURCE-P.arrow     a row a vector: its cell, how far it is from the centroid,
                                       its numbers, its objects
    index/ranking-SOURCE.arrow         a row an object: its score and rank in the run's catalog; of
                                       a night those that it searched, with their numbers

SOURCE stands for what the index was built from. A partition is referred to by URI and checksum,
so another run directory can point to it: a night adds a layer, partitions of its new objects by
the same cells, beside the layers that stand. Objects are numbered in each layer by themselves, so
a layer never changes. Files are uncompressed Arrow IPC, read where they lie; a partition's rows
are in the order of cell, then first object.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from astroray import storage
from astroray.errors import FileError, LedgerError
from astroray.neighbors.blocks import Block
from astroray.run_files import where_now
from astroray.storage.kept_copies import find_copy, kept_copy
from astroray.storage.ranges import Ranges

__all__ = [
    "Layer",
    "Manifest",
    "Partition",
    "PartitionEntry",
    "open_batches",
    "open_some",
    "read_batches",
    "write_batches",
]

FOLDER = "index"
VERSION = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitionEntry:
    """A partition as the manifest names it."""

    uri: str
    """Relative to the folder of the manifest, or absolute in another run directory."""
    sha256: str
    num_objects: int
    num_vectors: int
    cells: tuple[int, ...]
    """Cells that it holds vectors of, ascending."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """What one version added to an index, as later versions refer to it."""

    objects: str
    """URI of who its objects are; their numbers are places there."""
    objects_sha256: str
    num_objects: int
    num_duplicates: int
    partitions: tuple[PartitionEntry, ...]

    @property
    def files(self) -> list[tuple[str, str]]:
        """URI and sha256 of its files."""
        entries = [(entry.uri, entry.sha256) for entry in self.partitions]
        return [(self.objects, self.objects_sha256), *entries]

    @property
    def ranking(self) -> str:
        """URI of the scores that the version's search gave; each search writes them anew."""
        folder, _, name = self.objects.rpartition("objects-")
        return f"{folder}ranking-{name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index consists of, and what it was made from; counts are of its own layer."""

    source: str
    """Hash of the embeddings and of the settings that decide where they go."""
    model_id: str
    dim: int
    num_objects: int
    num_duplicates: int
    cells: str
    cells_sha256: str
    objects: str
    objects_sha256: str
    partitions: tuple[PartitionEntry, ...]
    metric: str = "euclidean"
    kind: str = "flat in cells"
    reason: str = ""
    version: int = VERSION
    older: tuple[Layer, ...] = ()
    """Of the versions that a night goes on from, the oldest first."""

    def publish(self, run_dir: str) -> None:
        """Writes `index/manifest.json`, whole or absent."""
        text = json.dumps(self, default=vars)  # indented it takes fifty times as long
        storage.publish(_path(run_dir, "manifest.json"), text.encode() + b"\n")

    @classmethod
    def load(cls, run_dir: str) -> "Manifest | None":
        """The manifest of a run directory; None where there is none that can be read.

        Files of older versions are named where they lie now, which is looked up once a version.
        """
        path = _path(run_dir, "manifest.json")
        if not storage.exists(path):
            return None
        try:
            values = json.loads(storage.read_bytes(path))
            partitions = _entries(values.pop("partitions"))
            older = tuple(
                Layer(**{**layer, "partitions": _entries(layer["partitions"])})
                for layer in values.pop("older", [])
            )
            manifest = cls(**values, partitions=partitions, older=older)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LedgerError(
                f"{path} is damaged ({error}); delete it, then the same command builds it anew"
            ) from None
        place = functools.cache(functools.partial(where_now, run_dir=run_dir))

        def locate(uri: str) -> str:
            if not storage.is_whole(uri):
                return uri
            version, *names = uri.rsplit("/", 2)  # of an older one, index/NAME
            return storage.join(place(version), *names)

        return manifest.located(locate)

    def path(self, run_dir: str, uri: str) -> str:
        """Where a file that the manifest names lies."""
        return uri if storage.is_whole(uri) else _path(run_dir, uri)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, its own last; URIs as the manifest has them."""
        own = Layer(
            objects=self.objects,
            objects_sha256=self.objects_sha256,
            num_objects=self.num_objects,
            num_duplicates=self.num_duplicates,
            partitions=self.partitions,
        )
        return (*self.older, own)

    @property
    def files(self) -> list[tuple[str, str]]:
        """URI and sha256 of all files that it names."""
        of_layers = [file for layer in self.layers for file in layer.files]
        return [(self.cells, self.cells_sha256), *of_layers]

    @property
    def own_files(self) -> list[tuple[str, str]]:
        """Those of its own layer; the others belong to older versions."""
        return [(uri, sha256) for uri, sha256 in self.files if not storage.is_whole(uri)]

    def located(self, locate: Callable[[str], str]) -> "Manifest":
        """The same with other URIs of its files."""

        def moved(entries: tuple[PartitionEntry, ...]) -> tuple[PartitionEntry, ...]:
            return tuple(dataclasses.replace(e, uri=locate(e.uri)) for e in entries)

        older = tuple(
            dataclasses.replace(
                layer, objects=locate(layer.objects), partitions=moved(layer.partitions)
            )
            for layer in self.older
        )
        return dataclasses.replace(
            self,
            cells=locate(self.cells),
            objects=locate(self.objects),
            partitions=moved(self.partitions),
            older=older,
        )

    def damage(self, run_dir: str, uri: str, sha256: str) -> str:
        """What is wrong with a file of the index, in words; "" where it is as it was written.

        Raises StorageError where the store does not answer, which is no damage.
        """
        path = self.path(run_dir, uri)
        try:
            found = storage.checksum(path)
        except FileError:
            return f"{path} is missing or cannot be read, the manifest names it"
        if found != sha256:
            return f"{path} has sha256 {found}, the manifest expects {sha256}"
        return ""


class Partition:
    """A partition, read where it lies; V vectors of it.

    numbers  ascending numbers that the objects of its layer go by here; None: their own
    """

    def __init__(self, path: str, numbers: np.ndarray | None = None) -> None:
        self.path, self.numbers = path, numbers

    @functools.cached_property
    def _whole(self) -> pa.RecordBatch:
        return open_batches(self.path).get_batch(0)

    @functools.cached_property
    def _facts(self) -> pa.RecordBatch:
        if not storage.is_remote(self.path):
            return self._whole
        return open_some(self.path, ["cell", "away", "objects"]).get_batch(0)

    @functools.cached_property
    def cell_V(self) -> np.ndarray:
        """[V] int32, the cell of each vector, ascending."""
        return np.asarray(self._facts.column("cell").to_numpy(zero_copy_only=True))

    @functools.cached_property
    def away_V(self) -> np.ndarray:
        """[V] float32, its distance from the centroid of its cell."""
        return np.asarray(self._facts.column("away").to_numpy(zero_copy_only=True))

    @functools.cached_property
    def stored_N(self) -> np.ndarray:
        """[N] int64, objects by vector, as their layer numbers them."""
        return np.asarray(self._facts.column("objects").flatten().to_numpy(zero_copy_only=True))

    @functools.cached_property
    def start_V1(self) -> np.ndarray:
        """[V + 1] int64, where the objects of each vector begin, and where the last ones end."""
        return np.asarray(self._facts.column("objects").offsets.to_numpy(zero_copy_only=True))

    @functools.cached_property
    def vector_VD(self) -> np.ndarray:
        """[V, D] float32, the vectors; a remote file is copied when they are first asked for."""
        column = self._whole.column("embedding")
        flat = column.flatten().to_numpy(zero_copy_only=True)
        return np.asarray(flat.reshape(len(column), column.type.list_size))

    @property
    def member_N(self) -> np.ndarray:
        """[N] int64, objects by vector."""
        return self._members(slice(None))

    def _members(self, places: slice) -> np.ndarray:
        stored_B = self.stored_N[places]
        return stored_B if self.numbers is None else self.numbers[stored_B]

    @property
    def count_V(self) -> np.ndarray:
        """[V] int64, objects of each vector."""
        return np.diff(self.start_V1)

    def rows_of(self, cell: int) -> slice:
        """The rows of a cell."""
        start, stop = np.searchsorted(self.cell_V, [cell, cell + 1])
        return slice(int(start), int(stop))

    def block(self, rows: slice) -> Block:
        """Some rows, where they lie."""
        start_V1 = self.start_V1[rows.start : rows.stop + 1]
        return Block(
            vector_UD=self.vector_VD[rows],
            member_N=self._members(slice(start_V1[0], start_V1[-1])),
            count_U=np.diff(start_V1),
            cell_U=self.cell_V[rows],
        )

    @staticmethod
    def write(path: str, away_V: np.ndarray, block: Block) -> str:
        """Publishes a partition of a block, whose vectors are in the order of cells; its sha256.

        away_V  [V] float32, distance of each vector from the centroid of its cell
        """
        offsets = np.append(block.start_U, len(block.member_N))
        columns = {
            "cell": pa.array(block.cell_U, pa.int32()),
            "away": pa.array(away_V, pa.float32()),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(block.vector_UD.ravel()), block.vector_UD.shape[1]
            ),
            "objects": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(block.member_N)),
        }
        return write_batches(path, [pa.record_batch(columns)])


def write_batches(path: str, batches: Iterable[pa.RecordBatch]) -> str:
    """Publishes record batches of one schema, at least one, as one file; returns its sha256.

    A batch is asked for when the one before is written.
    """
    batches = iter(batches)
    first = next(batches)
    with storage.publishing(path) as file:
        sink = _Hashing(file)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
    return sink.sha256.hexdigest()


class _Hashing(io.RawIOBase):
    """A file that is written through, and the hash of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()


def open_batches(path: str) -> pa.ipc.RecordBatchFileReader:
    """The batches of a file, memory-mapped; of a remote one the copy that this machine keeps.

    Raises LedgerError where it is missing or damaged.
    """
    with _named_errors(path):
        if storage.is_remote(path):
            return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(kept_copy(path))))
        return pa.ipc.open_file(pa.memory_map(path))


def read_batches(path: str) -> Iterator[pa.RecordBatch]:
    """The batches of a file in their order, one at a time; raises as `open_batches`."""
    reader = open_batches(path)
    return map(reader.get_batch, range(reader.num_record_batches))


def open_some(path: str, columns: Sequence[str] | None = None) -> pa.ipc.RecordBatchFileReader:
    """The same where little is wanted: of a remote file without a copy what is asked for is read.

    columns  of the batches; None: all
    """
    if not storage.is_remote(path):
        return open_batches(path)
    with _named_errors(path):
        if (copy := find_copy(path)) is not None:
            return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(copy)))
        file = Ranges(path)
        names = pa.ipc.open_file(pa.PythonFile(file, mode="r")).schema.names
        places = [names.index(name) for name in columns or names]
        options = pa.ipc.IpcReadOptions(included_fields=places)
        return pa.ipc.open_file(pa.PythonFile(file, mode="r"), options=options)


@contextlib.contextmanager
def _named_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid, FileError) as error:
        raise LedgerError(
            f"{path} is missing or damaged ({error}); run the same command again to build it anew"
        ) from None


def _entries(values: list[dict[str, Any]]) -> tuple[PartitionEntry, ...]:
    return tuple(PartitionEntry(**{**value, "cells": tuple(value["cells"])}) for value in values)


def _path(run_dir: str, name: str) -> str:
    return storage.join(run_dir, FOLDER, name)
