"""Which objects of a catalog a person means by their names, and what is said where it lacks one."""

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray.errors import ConfigError

__all__ = ["find_object", "find_objects", "name_of", "names_like", "names_of"]


def find_object(table: pa.Table, object_id: str, run_dir: str) -> int:
    """Row of an object in the catalog of a run. Raises ConfigError where it has none."""
    (row,) = find_objects(table, [object_id], run_dir)
    return row


def find_objects(table: pa.Table, object_ids: Sequence[str], run_dir: str) -> list[int]:
    """Rows of objects, in the order asked for. Raises ConfigError where the run lacks one."""
    asked = pa.array(dict.fromkeys(object_ids), pa.string())
    asked_N = pc.index_in(table["object_id"], value_set=asked)  # null: not asked for
    row_F = pc.indices_nonzero(pc.is_valid(asked_N))
    names = table["object_id"].take(row_F).to_pylist()
    rows = dict(zip(names, row_F.to_pylist(), strict=True))
    for object_id in object_ids:
        if object_id not in rows:
            some = names_like(table["object_id"], object_id)
            raise ConfigError(
                f"no object {object_id!r} in {run_dir}, expected one of its {len(table)}, such as "
                f"{some}; it may be among the rejects"
            )
    return [rows[object_id] for object_id in object_ids]


def names_like(object_id_N: pa.ChunkedArray, asked: str) -> str:
    """Three identifiers in which `asked` occurs, whatever its case, else the first three."""
    stem = asked.rpartition("/")[2].strip()
    found = pc.filter(object_id_N, pc.match_substring(object_id_N, stem, ignore_case=True))
    return ", ".join((found if len(found) else object_id_N).slice(0, 3).to_pylist())


def name_of(what: str | os.PathLike[str] | int) -> str:
    """An identifier or path as text: a survey's numbers are the text of their digits here.

    Raises ConfigError on what is neither.
    """
    if isinstance(what, str | os.PathLike):
        return os.fspath(what)
    if not isinstance(what, int | np.integer):
        raise ConfigError(
            f"the object is a {type(what).__name__}, expected its identifier, such as "
            "run.to_pandas().object_id[0], or a path"
        )
    return str(what)


def names_of(object_ids: str | Sequence[str | int]) -> list[str]:
    """Identifiers as text, of one or several. Raises ConfigError on what is none."""
    return [name_of(one) for one in ([object_ids] if isinstance(object_ids, str) else object_ids)]
