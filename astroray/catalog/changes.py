"""What changed in the certified list from one version to the next."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from astroray import schema

__all__ = ["change_list"]


def change_list(
    before: pa.Table, rows: pa.Table, suspect_of: Mapping[str, str] | None = None
) -> pa.Table:
    """CHANGES: who entered the certified list, left it or moved in it, by rank, left ones last.

    before      the certified rows of the reference, columns `object_id`, `rank`, `outlier_score`
    rows        CATALOG rows of the night, with all that are or were certified
    suspect_of  by object_id: why it is likely an artefact
    """
    index = pc.index_in(rows["object_id"], value_set=before["object_id"].combine_chunks())
    is_in, was_in = rows["certified"], pc.is_valid(index)
    rank_before = before["rank"].take(index)
    has_moved = pc.and_(is_in, pc.fill_null(pc.not_equal(rows["rank"], rank_before), False))
    entered, left = pc.and_not(is_in, was_in), pc.and_not(was_in, is_in)
    change = pc.if_else(entered, "entered", pc.if_else(left, "left", "moved"))
    columns = {name: rows[name] for name in schema.CHANGES.names if name in rows.column_names}
    columns |= {
        "change": change,
        "rank_before": rank_before,
        "score_before": before["outlier_score"].take(index),
        "suspect": pa.array(
            [(suspect_of or {}).get(name) for name in rows["object_id"].to_pylist()], pa.string()
        ),
        "is_left": left,
    }
    chosen = pa.table(columns).filter(pc.or_(pc.or_(entered, left), has_moved))
    order = [("is_left", "ascending"), ("rank", "ascending")]
    return schema.conform(chosen.sort_by(order).combine_chunks(), schema.CHANGES, "changes")
