"""Which object of a catalog a person means by its name, and what is said where it has none."""

import pyarrow as pa
import pyarrow.compute as pc

from astroray.errors import ConfigError

__all__ = ["find_object", "names_like"]


def find_object(table: pa.Table, object_id: str, run_dir: str) -> int:
    """Row of an object in the catalog of a run. Raises ConfigError where it has none."""
    place: int = pc.index(table["object_id"], object_id).as_py()
    if place < 0:
        some = names_like(table["object_id"], object_id)
        raise ConfigError(
            f"no object {object_id!r} in {run_dir}, expected one of its {len(table)}, such as "
            f"{some}; it may be among the rejects"
        )
    return place


def names_like(object_id_N: pa.ChunkedArray, asked: str) -> str:
    """Three identifiers in which `asked` occurs, whatever its case, else the first three."""
    stem = asked.rpartition("/")[2].strip()
    found = pc.filter(object_id_N, pc.match_substring(object_id_N, stem, ignore_case=True))
    return ", ".join((found if len(found) else object_id_N).slice(0, 3).to_pylist())
