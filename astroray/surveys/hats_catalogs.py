"""Which files of a folder are the partitions of a HATS catalog, and where each lies on the sky."""

import contextlib
import csv
import dataclasses
import io
import math
import re
from collections.abc import Sequence

import numpy as np

from astroray import storage
from astroray.errors import FileError, StorageError
from astroray.surveys.parquet_files import SUFFIXES

__all__ = ["HatsCatalog", "find_pixel", "is_hats", "list_files", "open_hats"]

_PIXEL = re.compile(r"/Norder=(\d+)/(?:Dir=\d+/)?Npix=(\d+)[./]")
_RADIUS_OF_SIDE = 0.95
"""A pixel lies within so many of its mean sides from its center; 0.875 is the most at any order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HatsCatalog:
    """The catalog of a folder, or the primary one of a collection."""

    partitions: Sequence[storage.InputFile]
    ra: str
    """Column of right ascension, as its properties name it; empty where they do not."""
    dec: str
    num_rows: int
    """As its properties state it; 0 where they do not."""


def is_hats(location: str) -> bool:
    """Whether a HATS catalog or collection stands there; other files lie beside its tables."""
    names = ("hats.properties", "collection.properties")
    with contextlib.suppress(StorageError):  # forbidden, as where only keys may be read
        return any(storage.exists(storage.join(location, name)) for name in names)
    return False


def list_files(location: str) -> storage.FileList:
    """`storage.list_files`, but of a HATS catalog on a web server the partitions that it names.

    A web server lists no folder, or page by page; `partition_info.csv` of the catalog has it all.
    """
    if not (storage.is_web(location) and is_hats(location)):
        return storage.list_files(location)
    folder, facts = _catalog_of(location)
    table = storage.join(folder, "partition_info.csv")
    suffix = facts.get("hats_npix_suffix", ".parquet")
    if not storage.exists(table) or suffix == "/":
        return storage.list_files(storage.join(folder, "dataset"))
    rows = csv.DictReader(io.StringIO(storage.read_bytes(table).decode("utf-8", "replace")))
    try:
        pixels = sorted({(int(row["Norder"]), int(row["Npix"])) for row in rows})
    except (KeyError, ValueError, csv.Error) as error:
        raise FileError(f"{table} is no list of partitions ({error!r}); report it") from None
    paths = (
        f"{folder}/dataset/Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}{suffix}"
        for order, pixel in pixels
    )
    return storage.FileList(storage.describe_each(paths))


def open_hats(location: str, files: Sequence[storage.InputFile]) -> HatsCatalog | None:
    """The catalog at `location`, whose files are `files`; None where there is none.

    A collection also holds margins, which repeat objects, and indices.
    """
    if not is_hats(location):
        return None
    folder, facts = _catalog_of(location)
    if not facts:
        return None
    part = "/" + folder.rstrip("/").rpartition("/")[2] if folder != location.rstrip("/") else ""
    return HatsCatalog(
        partitions=[
            file
            for file in files
            if f"{part}/dataset/Norder=" in file.path and file.path.lower().endswith(SUFFIXES)
        ],
        ra=facts.get("hats_col_ra", ""),
        dec=facts.get("hats_col_dec", ""),
        num_rows=int(rows) if (rows := facts.get("hats_nrows", "")).isdigit() else 0,
    )


def find_pixel(path: str) -> tuple[np.ndarray, float] | None:
    """Center, as a unit vector [3], and radius, rad, of a circle that holds a partition's pixel.

    None where the path is that of no partition.
    """
    found = _PIXEL.search(path)
    if found is None:
        return None
    import cdshealpix

    order, pixel = int(found[1]), int(found[2])
    lon, lat = cdshealpix.healpix_to_lonlat(np.array([pixel], np.uint64), order)
    ra, dec = float(lon.rad[0]), float(lat.rad[0])
    side_rad = math.sqrt(4 * math.pi / 12) / 2**order
    center = np.array([math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)])
    return center, min(_RADIUS_OF_SIDE * side_rad, math.pi)


def _catalog_of(location: str) -> tuple[str, dict[str, str]]:
    """Folder and properties of the catalog there, or of the primary one of a collection."""
    facts = _facts(storage.join(location, "hats.properties"))
    collection = _facts(storage.join(location, "collection.properties"))
    if facts or "hats_primary_table_url" not in collection:
        return location.rstrip("/"), facts
    folder = storage.join(location, collection["hats_primary_table_url"])
    return folder, _facts(storage.join(folder, "hats.properties"))


def _facts(path: str) -> dict[str, str]:
    """Keys and values of a .properties file; empty where there is none."""
    if not storage.exists(path):
        return {}
    lines = storage.read_bytes(path).decode("utf-8", "replace").splitlines()
    pairs = (line.partition("=") for line in lines if not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, mark, value in pairs if mark}
