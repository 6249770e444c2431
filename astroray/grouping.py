"""Which shards a task reads together: in their order, about so many rows of them."""

from collections.abc import Sequence

import numpy as np

from astroray.receipts import Receipt

__all__ = ["Groups", "Stored", "grouped", "rows_of_partition"]

PARTITIONS = 32
"""So many at least, where that leaves each the least; more where one would be too large."""

Stored = tuple[str, Receipt]
"""The run directory that embedded a shard, and its receipt."""
Groups = tuple[tuple[Stored, ...], ...]


def rows_of_partition(num_rows: int, dim: int, partition_mb: int, *, least: int) -> int:
    """Objects of a partition, about: few enough to be held, enough to be worth a task."""
    most = max(1, partition_mb * 2**20 // (4 * dim))
    return min(max(-(-num_rows // PARTITIONS), least), most)


def grouped(stored: Sequence[Stored], rows_each: int) -> Groups:
    """Shards in their order, divided so that each group has about so many rows."""
    start_S = np.cumsum([0, *(receipt.rows_embedded for _, receipt in stored)])[:-1]
    group_S = start_S // rows_each
    return tuple(
        tuple(stored[i] for i in np.flatnonzero(group_S == group).tolist())
        for group in np.unique(group_S)
    )
