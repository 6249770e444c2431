"""Which stored array holds a survey's images, and what each of its axes is."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from astroray.errors import ConfigError, ShardError
from astroray.surveys import light_curve_columns, spectrum_columns
from astroray.surveys.array_files import ArrayFile
from astroray.surveys.array_headers import ArrayHeader
from astroray.surveys.column_names import plain_name
from astroray.surveys.object_tables import TableOptions

LAYOUTS = ("NCYX", "NYXC", "NYX", "CYX", "YXC", "YX")
MAX_BANDS = 6
NO_WEIGHT = "none"
_IMAGE_NAMES = ("image", "images", "image_array", "cutout", "cutouts", "img", "data", "flux")
_WEIGHT_NAMES = ("weight", "weights", "ivar", "image_ivar", "invvar", "inverse_variance")
MASK_NAMES = ("mask", "masks", "bad", "badpix", "dq")
_BAND_NAMES = ("bands", "band", "image_band", "filters", "filter", "channels")
_MAX_VALUES = 2**30
_OTHER_FORMATS = {
    "light_curves": (light_curve_columns.NAMES["time"], light_curve_columns.NAMES["flux"]),
    "spectra": (spectrum_columns.NAMES["wavelength"], spectrum_columns.NAMES["flux"]),
}
"""Names of the axis and of the fluxes of what is no image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayOptions(TableOptions):
    """Options of a survey of arrays, beside those of its table.

    The table has a row for each object, in the same order; where each file is one object, rows
    are found by file name. Without a table, `id`, `ra` and `dec` are 1-D arrays beside the images.
    """

    image: str = ""
    """Array or column that holds the images, in a group of HDF5 `group/name`; else a well-known
    name, or the only 3-D or 4-D one."""
    weight: str = ""
    """Array of the same shape, or of that of one band, whose values are positive where a pixel was
    measured, or 0 there if it is called mask, bad or dq; else a well-known name, if there is one;
    `none` for none."""
    layout: str = ""
    """NCYX, NYXC or NYX for a stack, CYX, YXC or YX for one object a file; else judged by the
    shape: an axis of at most 6 is the bands, and a 3-D array without one is a stack."""
    bands: str = ""
    """Names of the bands, separated by commas."""
    pixels: str = ""
    """display (0..1; integers are divided by their largest value) or flux (linear); else display
    for unsigned bytes and flux for all other types."""
    shard_rows: int = 10_000
    """Rows a shard of a .npy, HDF5 or FITS file on this machine's disks; others are one each."""
    shard_files: int = 512
    """Files a shard where each file is one object."""
    format: str = ""
    """Name of this reader."""


def settle(arrays: ArrayFile, options: ArrayOptions, where: str) -> ArrayOptions:
    """`options` with nothing left open: what they name fits this file, the rest is judged by it.

    Raises ConfigError where they do not fit or the file can be understood in two ways, and
    ShardError where it holds no image array that can be read.
    """
    image = _image_name(arrays.headers, options.image, where)
    header = arrays.headers[image]
    layout = _layout(header.shape, options.layout, where, is_table=arrays.is_table)
    num_values = _length(header.shape, layout, "C") * header.shape[layout.index("Y")]
    if num_values * header.shape[layout.index("X")] > _MAX_VALUES:
        raise ShardError(f"images of {where} have shape {header.shape}, expected small cutouts")
    pixels = options.pixels or ("display" if header.dtype == "uint8" else "flux")
    return dataclasses.replace(
        options,
        image=image,
        weight=_weight_name(arrays.headers, options.weight, image, layout, where),
        layout=layout,
        pixels=pixels,
        bands=_band_names(arrays, options.bands, _length(header.shape, layout, "C"), pixels, where),
    )


def _image_name(headers: Mapping[str, ArrayHeader], asked: str, where: str) -> str:
    if asked and asked not in headers:
        raise ConfigError(
            f"{where} has no array {asked!r} for option image=, expected one of {sorted(headers)}"
        )
    named = [asked] if asked or "" in headers else _image_candidates(headers)
    other = "" if asked or any(len(headers[n].shape) > 2 for n in named) else _other_format(headers)
    if other:
        shapes = {name: header.shape for name, header in headers.items()}
        raise ConfigError(
            f"{where} holds {other.replace('_', ' ')} by the names of its arrays, {shapes}; add "
            f"?format={other}, or name the array of images with image="
        )
    if len(named) > 1:
        raise ConfigError(f"{where} has several arrays of images, {named}; name one with image=")
    if not named or headers[named[0]].dtype.kind not in "buif":
        stored = {name: f"{h.dtype} {h.shape}" for name, h in headers.items()}
        raise ShardError(
            f"{where} has no array of images, got {stored}, expected numbers with 2 to 4 axes; "
            "arrays of Python objects are never read, as that could run code"
        )
    return named[0]


def _other_format(headers: Mapping[str, ArrayHeader]) -> str:
    """The format whose arrays these are by name, if any: fluxes beside an axis as long."""
    lengths = {
        plain_name(name.rpartition("/")[2]): header.shape[-1]
        for name, header in headers.items()
        if header.shape
    }
    for format, (axes, fluxes) in _OTHER_FORMATS.items():
        if {lengths[n] for n in axes if n in lengths} & {
            lengths[n] for n in fluxes if n in lengths
        }:
            return format
    return ""


def _image_candidates(headers: Mapping[str, ArrayHeader]) -> list[str]:
    """Well-known names first, then all arrays with 3 or 4 axes, then those with 2."""
    for axes in ((3, 4), (2,)):
        found = [
            name
            for name, header in headers.items()
            if len(header.shape) in axes and header.dtype.kind in "buif"
        ]
        known = [name for known in _IMAGE_NAMES for name in found if name.lower() == known]
        if known:
            return known[:1]
        if found:
            return [name for name in found if name.lower() not in (*_WEIGHT_NAMES, *MASK_NAMES)]
    return []


def _layout(shape: tuple[int, ...], asked: str, where: str, *, is_table: bool) -> str:
    """What each axis is: an axis of at most 6 is the bands, a third large one the objects.

    is_table  the first axis is the objects, however short it is
    """
    if asked:
        if len(asked) != len(shape) or (is_table and asked[0] != "N"):
            raise ConfigError(f"images of {where} have shape {shape}, layout={asked} does not fit")
        return asked
    if is_table and len(shape) == 3:
        return "NYX"
    fitting = {
        2: {"YX": True},
        3: {"CYX": shape[:1] <= (MAX_BANDS,), "YXC": shape[-1:] <= (MAX_BANDS,)},
        4: {"NCYX": shape[1:2] <= (MAX_BANDS,), "NYXC": shape[-1:] <= (MAX_BANDS,)},
    }.get(len(shape), {})
    found = [layout for layout, fits in fitting.items() if fits]
    if not found and len(shape) == 3:
        return "NYX"
    if len(found) != 1:
        raise ConfigError(
            f"images of {where} have shape {shape}, which axis is the bands is unclear; say it "
            f"with layout=, one of {', '.join(LAYOUTS)}"
        )
    return found[0]


def _length(shape: tuple[int, ...], layout: str, axis: str) -> int:
    return shape[layout.index(axis)] if axis in layout else 1


def _weight_name(
    headers: Mapping[str, ArrayHeader], asked: str, image: str, layout: str, where: str
) -> str:
    if asked == NO_WEIGHT:
        return NO_WEIGHT
    shape = headers[image].shape
    of_one_band = tuple(n for n, axis in zip(shape, layout, strict=True) if axis != "C")
    fitting = sorted(
        name
        for name, header in headers.items()
        if header.shape in (shape, of_one_band) and name != image
    )
    if asked:
        if asked not in fitting:
            raise ConfigError(
                f"{where} has no array {asked!r} of shape {shape} for option weight=, expected "
                f"one of {fitting} or none"
            )
        return asked
    ranked = (*_WEIGHT_NAMES, *MASK_NAMES)
    known = [name for name in fitting if name.lower() in ranked]
    return min(known, key=lambda name: ranked.index(name.lower()), default=NO_WEIGHT)


def _band_names(arrays: ArrayFile, asked: str, num_bands: int, pixels: str, where: str) -> str:
    """Names separated by commas: as asked, as an array beside the images says, or numbered."""
    names = [name.strip() for name in asked.split(",")] if asked else []
    for name, header in arrays.headers.items():
        is_text = header.shape[-1:] == (num_bands,) and header.dtype.kind in "US"
        if not names and is_text and name.lower() in _BAND_NAMES:
            stored = next(arrays.rows(name, [(0, header.shape[0])])).astype(str)
            rows = np.unique(stored.reshape(-1, num_bands), axis=0)  # of each object, or of all
            names = rows[0].tolist() if len(rows) == 1 else []
    if not names and pixels == "display" and num_bands in (1, 3):
        names = ["L"] if num_bands == 1 else ["R", "G", "B"]
    names = names or [f"b{i}" for i in range(num_bands)]
    if len(names) != num_bands or len(set(names)) < num_bands:
        raise ConfigError(
            f"{where} has {num_bands} bands, got the names {','.join(names)}; name each with bands="
        )
    return ",".join(names)
