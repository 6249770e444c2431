"""By which names the columns are known that say who and where an object is.

They are tried in order where the user names none. Nothing but letters and digits matters, in either
case: `RA (J2000)` is `raj2000`. The kinds of tables differ: a name such as `name` is an identifier
beside files and of a row with an image, and a word like any other beside the numbers of a light
curve.
"""

from collections.abc import Mapping, Sequence

__all__ = ["OF_FILES", "OF_IMAGES", "OF_LISTS", "OF_MEASUREMENTS", "find_name", "plain_name"]

OF_IMAGES: Mapping[str, Sequence[str]] = {
    "id": (
        "object_id", "objid", "source_id", "target_id", "coadd_object_id", "ls_id", "iauname",
        "designation", "id", "name",
    ),
    "ra": (
        "ra", "ra_deg", "raj2000", "ra_icrs", "alpha_j2000", "right_ascension", "ra_mean",
        "coord_ra", "obj_ra",
    ),
    "dec": (
        "dec", "de", "dec_deg", "de_deg", "decj2000", "dej2000", "dec_icrs", "de_icrs",
        "delta_j2000", "declination", "dec_mean", "coord_dec", "obj_dec",
    ),
}  # fmt: skip
"""Of Parquet whose rows are objects with an image, and of catalogs of positions."""

OF_LISTS: Mapping[str, Sequence[str]] = {
    "id": (
        "objectid", "objid", "sourceid", "targetid", "diaobjectid", "ps1objid", "ticid", "kepid",
        "kic", "tic", "specobjid", "obsid", "id",
    ),
    "ra": ("ra", "radeg", "raobj", "raicrs", "objra", "ramean", "meanra", "coordra", "targetra"),
    "dec": (
        "dec", "decdeg", "decobj", "deicrs", "objdec", "decmean", "meandec", "coorddec",
        "targetdec",
    ),
}  # fmt: skip
"""Of tables whose rows are light curves or spectra, or single measurements of them."""

OF_FILES: Mapping[str, Sequence[str]] = {
    "id": (
        "object_id", "objid", "dr7objid", "dr8objid", "sdssid", "source_id",
        "specobjid", "asset_id", "pgc_name", "iauname", "designation", "id", "name",
    ),
    "ra": (
        "ra", "raj2000", "ra_deg", "ra_icrs", "alpha_j2000", "alphawin_j2000", "right_ascension",
    ),
    "dec": (
        "dec", "decj2000", "dej2000", "dec_deg", "de_deg", "dec_icrs", "de_icrs", "delta_j2000",
        "deltawin_j2000", "declination", "de",
    ),
    "file": ("file", "filename", "file_name", "file_path", "image", "path", "img"),
}  # fmt: skip
"""Of tables that stand beside files or arrays of objects."""

OF_MEASUREMENTS = ("id", "objectid", "object_id", "objid", "oid", "source_id", "name", "star")
"""In small letters: columns that may tell objects apart in a text taken for that of one object."""


def plain_name(name: str) -> str:
    """A column's name without what does not matter in it."""
    return "".join(filter(str.isalnum, name.lower()))


def find_name(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of the known names that is there, as it is written there."""
    written = {plain_name(name): name for name in reversed(names)}
    plain = filter(None, map(plain_name, known))
    return next((written[name] for name in plain if name in written), None)
