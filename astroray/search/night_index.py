"""Which layers the index of a night has: those of its reference, as they stand, and its own.

A layer holds the objects that one version added. A night refers to the files of older layers by
URI and checksum and writes one layer beside them, by the same cells. Where its reference has no
index, or one that is damaged, the night's own layer holds all objects, built from the embeddings.
"""

import hashlib
import json
import logging

from astroray import ledger, storage
from astroray.actors import index
from astroray.actors.index import IndexPlan, Numbering
from astroray.actors.join import read_ranking
from astroray.actors.night_parts import NightPlan
from astroray.actors.search import SearchPlan
from astroray.catalog import versions
from astroray.catalog.versions import Inherited
from astroray.errors import LedgerError
from astroray.grouping import Groups, Stored, grouped, rows_of_partition
from astroray.neighbors.partitions import VERSION, Manifest
from astroray.receipts import read_receipts
from astroray.search.indexing import build_partitions, find_damage, lay_cells, publish_manifest
from astroray.search.stages import Each

__all__ = ["NightIndex"]

_log = logging.getLogger("astroray.search.night_index")

LEAST_ROWS = 65_536
"""Of a partition: a round costs each the merging of its lists."""


class NightIndex:
    """The index of one night: what stands of it, and what is to be written.

    Raises LedgerError where embeddings that the night refers to are missing.
    """

    def __init__(self, search: SearchPlan, each: Each) -> None:
        self.search, self.each = search, each
        inherited = versions.read_inherited(search.run_dir)
        old = _embedded(list(inherited.receipts.values()))
        new = _embedded([(search.run_dir, r) for r in read_receipts(search.run_dir).values()])
        self.older = _older(search, inherited, each)
        if self.older is not None:
            _check_present(old)
        self.dim = self.older.dim if self.older else index.dimensions(*(old + new)[0])
        own = new if self.older else old + new
        self.rows_each = rows_of_partition(
            _num_rows(old + new), self.dim, search.search.partition_mb, least=LEAST_ROWS
        )
        self.num_rows = _num_rows(own)
        """Embeddings of the night's own layer."""
        self.groups: Groups = grouped(own, self.rows_each)
        self.plan = NightPlan(
            index=IndexPlan(
                run_dir=search.run_dir,
                model_id=search.model_id,
                source=self._source(inherited, own),
                seed=search.search.seed,
                num_groups=len(self.groups),
                older_cells=self.older.cells if self.older else "",
                num_partitions=max(1, -(-self.num_rows // self.rows_each)) if self.older else 0,
            ),
            older=tuple(layer.objects for layer in self.older.layers) if self.older else (),
            rankings=tuple(layer.ranking for layer in self.older.layers) if self.older else (),
            num_catalogs=0 if self.older else len(inherited.catalogs),
        )

    def build(self, numbering: Numbering, *, reason: str) -> Manifest:
        """Writes the partitions of the night's own layer, then the manifest.

        numbering  of the objects of all layers
        """
        plan, older = self.plan.index, self.older
        num_older = sum(layer.num_objects for layer in older.layers) if older else 0
        num_own = numbering.num_objects - num_older
        self._remove_damaged()
        if older is None:
            lay_cells(plan, self.groups, num_own, self.rows_each, self.each)
        partitions = build_partitions(plan, self.groups, self.each) if num_own else ()
        return publish_manifest(
            plan,
            partitions,
            dim=self.dim,
            num_objects=num_own,
            num_duplicates=self.num_rows - num_own,
            objects_sha256=numbering.objects_sha256,
            reason=reason,
            older=older,
        )

    def _remove_damaged(self) -> None:
        """Removes what is damaged of an own layer that was complete already."""
        run_dir = self.search.run_dir
        before = Manifest.load(run_dir)
        if before is None or before.source != self.plan.index.source:
            return
        for uri, fault in find_damage(before, run_dir, before.own_files, self.each).items():
            _log.warning("the index is damaged and built anew from the embeddings: %s", fault)
            storage.delete(before.path(run_dir, uri))

    def _source(self, inherited: Inherited, own: list[Stored]) -> str:
        """Hash of all that the files of the search depend on."""
        facts = [
            VERSION,
            self.search.model_id,
            self.search.search.seed,
            self.rows_each,
            [file.sha256 for file in [*inherited.catalogs, *inherited.rankings]],
            [sha256 for _, sha256 in self.older.files] if self.older else [],
            [(receipt.shard, receipt.checksum) for _, receipt in own],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _older(search: SearchPlan, inherited: Inherited, each: Each) -> Manifest | None:
    """The index of the reference, every file checked, with absolute URIs; None to build anew."""
    if not inherited.versions:
        return None
    reference = inherited.versions[-1]
    try:
        manifest = Manifest.load(reference)
        if manifest is None:
            return None
        fault = _misfit(manifest, search, inherited, reference)
        fault = fault or _damage(manifest, inherited, reference, each)
    except LedgerError as error:
        manifest, fault = None, str(error)
    if manifest is None or fault:
        _log.warning(
            "the index of the reference is not used, and this night builds one of all embeddings "
            "in its own folder: %s",
            fault,
        )
        return None
    return manifest.located(lambda uri: manifest.path(reference, uri))


def _misfit(manifest: Manifest, search: SearchPlan, inherited: Inherited, reference: str) -> str:
    """Why an index that stands is not that of the reference's embeddings; "" where it is."""
    if manifest.model_id != search.model_id:
        return f"it is of model {manifest.model_id}, expected {search.model_id}"
    num_rows = sum(layer.num_objects + layer.num_duplicates for layer in manifest.layers)
    if num_rows != inherited.num_rows:
        return f"it is of {num_rows} embeddings, expected {inherited.num_rows}"
    for path in set(_rankings(manifest, reference)) - set(_noted(inherited)):
        return f"{path} was not there when the night began, expected the scores of each layer"
    return ""


def _rankings(manifest: Manifest, reference: str) -> list[str]:
    """Where it lies what the search of each layer's version gave."""
    return [manifest.path(reference, layer.ranking) for layer in manifest.layers]


def _noted(inherited: Inherited) -> dict[str, str]:
    """The sha256 of each such file, by path, when the night began."""
    return {file.address: file.sha256 for file in inherited.rankings}


def _damage(manifest: Manifest, inherited: Inherited, reference: str, each: Each) -> str:
    """What is wrong with the files of an index, in words; "" where nothing is.

    Raises LedgerError where one was damaged before the night began.
    """
    noted, rankings = _noted(inherited), _rankings(manifest, reference)
    files = [*manifest.files, *((path, noted[path]) for path in rankings)]
    if wrong := find_damage(manifest, reference, files, each):
        return "; ".join(wrong.values())
    for path in rankings:
        read_ranking(path)
    return ""


def _check_present(stored: list[Stored]) -> None:
    """Raises LedgerError where embeddings that stay where they are, unread, are gone."""
    folders = {run_dir: storage.join(run_dir, "embeddings") for run_dir, _ in stored}
    names = {run_dir: set(storage.list_names(folder)) for run_dir, folder in folders.items()}
    for run_dir, receipt in stored:
        if f"{receipt.shard}.parquet" not in names[run_dir]:
            path = ledger.embeddings_path(run_dir, receipt.shard)
            raise LedgerError(
                f"{path} is missing, and this version refers to it; older versions may not change: "
                "restore it, or begin a new reference"
            )


def _embedded(stored: list[Stored]) -> list[Stored]:
    """The shards that have embeddings."""
    return [(run_dir, receipt) for run_dir, receipt in stored if receipt.rows_embedded]


def _num_rows(stored: list[Stored]) -> int:
    return sum(receipt.rows_embedded for _, receipt in stored)
