"""How an index of a run's embeddings is built, checked and mended: the order of the tasks.

The tasks are in `actors/index.py`. `each` runs them anywhere, so that nothing here knows of Ray.
"""

import hashlib
import json
import logging
from collections.abc import Sequence

from astroray import faults, storage
from astroray.actors import index
from astroray.actors.index import IndexPlan, Numbering
from astroray.actors.search import SearchPlan
from astroray.errors import LedgerError
from astroray.grouping import Groups, grouped, rows_of_partition
from astroray.neighbors.cells import num_cells_of
from astroray.neighbors.distances import spread
from astroray.neighbors.partitions import VERSION, Manifest, PartitionEntry
from astroray.receipts import Receipt, read_receipts
from astroray.search.stages import Each, run_all

__all__ = ["build_index", "build_partitions", "find_damage", "lay_cells", "publish_manifest"]

_log = logging.getLogger("astroray.search.indexing")

LEAST_ROWS = 4096
"""Of a partition of a small survey."""
SAMPLE_SHARDS = 256
"""So many, spread over all, are where the sample of the cells comes from."""


def build_index(search: SearchPlan, each: Each, *, reason: str) -> tuple[Manifest, IndexPlan]:
    """The index that stands, checked and mended, or a new one; and the plan of its tasks.

    Raises LedgerError where embeddings are missing or differ from their receipt, where the
    manifest cannot be read, and where a partition of another run directory is damaged.
    """
    receipts = [
        receipt for receipt in read_receipts(search.run_dir).values() if receipt.rows_embedded
    ]
    dim = index.dimensions(search.run_dir, receipts[0])
    num_rows = sum(receipt.rows_embedded for receipt in receipts)
    rows_each = rows_of_partition(num_rows, dim, search.search.partition_mb, least=LEAST_ROWS)
    groups = grouped([(search.run_dir, receipt) for receipt in receipts], rows_each)
    plan = IndexPlan(
        run_dir=search.run_dir,
        model_id=search.model_id,
        source=_source(search, receipts, rows_each),
        seed=search.search.seed,
        num_groups=len(groups),
    )
    before = Manifest.load(search.run_dir)
    if before and before.source == plan.source and not _mend(before, plan, each):
        return before, plan
    numbering = _number(plan, groups, each)
    lay_cells(plan, groups, numbering.num_objects, rows_each, each)
    partitions = build_partitions(plan, groups, each)
    manifest = publish_manifest(
        plan,
        partitions,
        dim=dim,
        num_objects=numbering.num_objects,
        num_duplicates=numbering.num_duplicates,
        objects_sha256=numbering.objects_sha256,
        reason=reason,
    )
    return manifest, plan


def _number(plan: IndexPlan, groups: Groups, each: Each) -> Numbering:
    run_all(each, index.identify, [(plan, *group) for group in enumerate(groups)])
    (numbering,) = run_all(each, index.number_objects, [(plan,)])
    return numbering


def lay_cells(
    plan: IndexPlan, groups: Groups, num_objects: int, rows_each: int, each: Each
) -> None:
    """Finds the cells of so many objects, and which are a partition of about so many rows."""
    stored = [one for group in groups for one in group]
    some = [stored[i] for i in spread(len(stored), SAMPLE_SHARDS)]
    num_partitions = -(-num_objects // rows_each)
    run_all(each, index.choose_cells, [(plan, some, num_cells_of(num_objects), num_partitions)])


def build_partitions(plan: IndexPlan, groups: Groups, each: Each) -> tuple[PartitionEntry, ...]:
    """All partitions; those whose file stands are taken as they are."""
    run_all(each, index.route, [(plan, *group) for group in enumerate(groups)])
    num_partitions = int(index.cells_of(plan)[1].max()) + 1
    return tuple(run_all(each, index.build, [(plan, number) for number in range(num_partitions)]))


def _mend(manifest: Manifest, plan: IndexPlan, each: Each) -> bool:
    """Removes the damaged files of an index; whether there were any, so that it is to be built."""
    wrong = find_damage(manifest, plan.run_dir, manifest.files, each)
    for uri, fault in wrong.items():
        path = manifest.path(plan.run_dir, uri)
        if uri == path:
            raise LedgerError(
                f"{fault}; it belongs to another run directory, which alone may build it anew: "
                "repeat that run"
            )
        _log.warning("the index is damaged and built anew from the embeddings: %s", fault)
        storage.delete(path)
    return bool(wrong)


def find_damage(
    manifest: Manifest, run_dir: str, files: Sequence[tuple[str, str]], each: Each
) -> dict[str, str]:
    """What is wrong with some files of an index, by URI; what is as it was written is not in it."""
    found = run_all(each, manifest.damage, [(run_dir, uri, sha256) for uri, sha256 in files])
    return {uri: fault for (uri, _), fault in zip(files, found, strict=True) if fault}


def publish_manifest(
    plan: IndexPlan,
    partitions: tuple[PartitionEntry, ...],
    *,
    dim: int,
    num_objects: int,
    num_duplicates: int,
    objects_sha256: str,
    reason: str,
    older: Manifest | None = None,
) -> Manifest:
    """Publishes the manifest of an index whose files stand, which makes it whole.

    older  whose cells are used, and whose layers lie below this one
    """
    cells = (older.cells, older.cells_sha256) if older else _named(plan.cells)
    manifest = Manifest(
        source=plan.source,
        model_id=plan.model_id,
        dim=dim,
        num_objects=num_objects,
        num_duplicates=num_duplicates,
        cells=cells[0],
        cells_sha256=cells[1],
        objects=plan.path("objects").rpartition("/")[2],
        objects_sha256=objects_sha256,
        partitions=partitions,
        reason=reason,
        older=older.layers if older else (),
    )
    faults.reach("index.built")
    manifest.publish(plan.run_dir)
    faults.reach("index.manifest")
    return manifest


def _named(path: str) -> tuple[str, str]:
    """Name and sha256 of a file of the index."""
    return path.rpartition("/")[2], storage.checksum(path)


def _source(search: SearchPlan, receipts: Sequence[Receipt], rows_each: int) -> str:
    """Hash of all that an index of these embeddings depends on."""
    facts = [
        VERSION,
        search.model_id,
        search.search.seed,
        rows_each,
        [(receipt.shard, receipt.checksum) for receipt in receipts],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
