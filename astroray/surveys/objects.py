"""Who the rows of a survey are, and how a shard carries that."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from astroray.surveys.object_files import publish_rows, read_rows

__all__ = ["Objects", "basename", "describe_objects", "id_of_file", "stem"]

_PACKED = re.compile(r"\.(gz|fz|bz2)$", re.IGNORECASE)
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objects:
    """Identifier and position of the rows of a survey, or of one shard.

    object_id_N  [N]  identifiers; None where the survey has none
    ra_deg_N     [N]  right ascension, ICRS, deg; NaN where unknown
    dec_deg_N    [N]  declination, ICRS, deg; NaN together with ra_deg_N
    """

    object_id_N: Sequence[str | None]
    ra_deg_N: np.ndarray
    dec_deg_N: np.ndarray

    @classmethod
    def unknown(cls, num_rows: int) -> "Objects":
        """Rows of which nothing is known."""
        nan_N = np.full(num_rows, np.nan)
        return cls(object_id_N=[None] * num_rows, ra_deg_N=nan_N, dec_deg_N=nan_N)

    @classmethod
    def from_files(cls, paths: Sequence[str], folder: str) -> "Objects":
        """One object a file, called by its path below `folder` without the suffix."""
        ids = [id_of_file(path, folder) for path in paths]
        return dataclasses.replace(cls.unknown(len(paths)), object_id_N=ids)

    @classmethod
    def joined(cls, parts: Sequence["Objects"]) -> "Objects":
        """The objects of several parts, one part after the other."""
        return cls(
            object_id_N=[name for part in parts for name in part.object_id_N],
            ra_deg_N=np.concatenate([np.empty(0), *(part.ra_deg_N for part in parts)]),
            dec_deg_N=np.concatenate([np.empty(0), *(part.dec_deg_N for part in parts)]),
        )

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Objects":
        """The objects that a shard carries, or that stand in a file of its run's ledger.

        Raises LedgerError where that file is missing or differs from what the listing wrote.
        """
        if "sha256" in params:
            return cls.from_rows(read_rows(params))
        ids = params["object_id"]
        if params["ra"] is None:
            return dataclasses.replace(cls.unknown(len(ids)), object_id_N=ids)
        ra_deg_N, dec_deg_N = (np.array(params[key], np.float64) for key in ("ra", "dec"))
        return cls(object_id_N=ids, ra_deg_N=ra_deg_N, dec_deg_N=dec_deg_N)

    @classmethod
    def from_rows(cls, rows: pa.Table) -> "Objects":
        """The inverse of `to_rows`."""
        ra_deg_N, dec_deg_N = (rows[key].to_numpy() for key in ("ra", "dec"))
        ids = rows["object_id"].to_pylist()
        return cls(object_id_N=ids, ra_deg_N=ra_deg_N, dec_deg_N=dec_deg_N)

    def to_rows(self) -> pa.Table:
        """The objects as columns object_id, ra, dec."""
        columns = {
            "object_id": pa.array(self.object_id_N, pa.large_string()),
            "ra": pa.array(self.ra_deg_N, pa.float64()),
            "dec": pa.array(self.dec_deg_N, pa.float64()),
        }
        return pa.table(columns)

    def to_params(self) -> dict[str, Any]:
        """Values that JSON can hold, for the params of a shard; unknown is null."""
        has_positions = bool(np.isfinite(self.ra_deg_N).any())
        return {
            "object_id": list(self.object_id_N),
            "ra": _json_numbers(self.ra_deg_N) if has_positions else None,
            "dec": _json_numbers(self.dec_deg_N) if has_positions else None,
        }

    def take(self, rows: Sequence[int] | slice) -> "Objects":
        """The objects at `rows`."""
        ids = self.object_id_N
        return Objects(
            object_id_N=ids[rows] if isinstance(rows, slice) else [ids[i] for i in rows],
            ra_deg_N=self.ra_deg_N[rows],
            dec_deg_N=self.dec_deg_N[rows],
        )


def describe_objects(groups: Iterable[Objects], folder: str) -> Iterator[dict[str, Any]]:
    """What each shard stores of its objects: where to find them in a file that is written now.

    groups  the objects of one shard after the other
    folder  where the files go; empty: none are written, and each shard stores its objects itself
    """
    if folder:
        yield from publish_rows((objects.to_rows() for objects in groups), folder)
    else:
        yield from (objects.to_params() for objects in groups)


def id_of_file(path: str, folder: str) -> str:
    """The identifier of the object in a file where no table gives one."""
    below = path.removeprefix(folder.rstrip("/") + "/")
    parent, _, name = below.rpartition("/")
    return f"{parent}/{stem(name)}" if parent else stem(name)


def basename(path: str) -> str:
    """The name of a file as a table may have it, with slashes of either kind."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def stem(name: str) -> str:
    """`name` without the suffix of a data file; what follows a dot in `J12.5+01.25` is none."""
    if "." not in name:
        return name
    return _SUFFIX.sub("", _PACKED.sub("", name)) or name


def _json_numbers(values_N: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values_N]
