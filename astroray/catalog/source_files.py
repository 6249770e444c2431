"""Which file each object of a run was read from, where it has one of its own."""

import pandas

from astroray import ledger

__all__ = ["source_files"]


def source_files(run_dir: str, objects: pandas.DataFrame) -> list[str]:
    """[N] path of the file that holds an object and no other one; empty where there is none.

    objects  has shard and row, of the catalog of a scan or night
    """
    wanted = set(objects["shard"])
    shards = {shard.name: shard for shard in ledger.read_listing(run_dir) if shard.name in wanted}
    paths = []
    for name, row in zip(objects["shard"], objects["row"].astype(int), strict=True):
        shard = shards.get(name)
        paths.append(shard.files_of(row)[0].path if shard and shard.has_files_of_rows else "")
    return paths
