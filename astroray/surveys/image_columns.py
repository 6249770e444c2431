"""How an image column of an Arrow table is stored, and how its rows become pixels.

A row holds [C, Y, X] or [Y, X] numbers as one of

    fixed-size list, list       flat, its shape in the field's metadata or given by the user
    nested lists                the shape is that of the lists
    fixed-shape tensor          of Arrow or of Ray
    binary                      raw numbers, shape and dtype in the field's metadata
    struct of flux and band     lists with one entry a band, as the Multimodal Universe has them;
    list of such structs        ivar and mask beside them are not read

Field metadata (each optional where the type says it): shape "[3, 64, 64]", bands "g,r,i", pixels
"flux" or "display", dtype "float32". Images of shape [Y, X, C] with 1, 3 or 4 channels are turned
round. Unsigned integers are display pixels: they are divided by the largest of their type.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray.errors import ConfigError
from astroray.surveys.nested_columns import is_list
from astroray.surveys.shards import Pixels

_RAY_TENSORS = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2")  # shape is their metadata
_PICTURE_BANDS = {1: ("L",), 3: ("R", "G", "B")}
_CHANNELS = (1, 3, 4)
_FLUX_NAMES = ("flux",)
_BAND_NAMES = ("band", "bands", "filter")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageColumn:
    """How the images of one file are stored."""

    name: str
    parts: tuple[str, ...]
    """Fields of a struct that are read; empty where the image is no struct."""
    shape: tuple[int, ...] | None
    """Shape of an image, where the lists do not tell."""
    axes: tuple[int, ...] | None
    """Order of the axes, where a tensor is stored in another one."""
    dtype: np.dtype
    bands: tuple[str, ...] | None
    pixels: Pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """Why images cannot be used, or are not of one shape."""

    kind: str
    reason: str


def is_image(field: pa.Field) -> bool:
    """Whether a column's type can hold images."""
    leaf, num_lists = _leaf(field.type)
    if _is_bytes(leaf):
        return num_lists == 0 and b"dtype" in (field.metadata or {})
    return num_lists > 0 and (pa.types.is_floating(leaf) or pa.types.is_integer(leaf))


def image_column(
    field: pa.Field, *, shape: str, bands: str, pixels: str, where: str
) -> ImageColumn:
    """How `field` stores images; what the user states (if not empty) beats its metadata.

    Raises ConfigError where the two do not tell.
    """
    where = f"column {field.name!r} of {where}"
    stated = (field.metadata or {}).items()
    facts = {key.decode(errors="replace"): fact.decode(errors="replace") for key, fact in stated}
    leaf, num_lists = _leaf(field.type)
    dtype = _dtype(facts["dtype"], where) if _is_bytes(leaf) else np.dtype(leaf.to_pandas_dtype())
    pixels = pixels or facts.get("pixels") or ("display" if dtype.kind == "u" else "flux")
    if pixels not in ("display", "flux"):
        raise ConfigError(f"pixels is {pixels!r} for {where}, expected display or flux")
    sizes = _stated_shape(field.type, facts, shape, where)
    struct = _struct(field.type)
    if sizes is None and num_lists < (2 if struct is None else 3):
        raise ConfigError(
            f"{where} has no shape: it is {field.type}; give it as shape=3x64x64 after the "
            "question mark of the survey, or as shape in the field's metadata"
        )
    parts = [_child(struct, names) for names in (_FLUX_NAMES, _BAND_NAMES)] if struct else []
    named = bands or facts.get("bands", "")
    return ImageColumn(
        name=field.name,
        parts=tuple(part for part in parts if part),
        shape=sizes,
        axes=tuple(getattr(field.type, "permutation", None) or ()) or None,
        dtype=dtype,
        bands=tuple(re.findall(r"[^,\s]+", named)) or None,
        pixels=cast(Pixels, pixels),
    )


def decode(images: pa.Array, column: ImageColumn) -> tuple[np.ndarray, tuple[str, ...]] | Fault:
    """All rows as one array and the names of their bands, or why that cannot be.

    image_BCYX  [B, C, Y, X]  float32, NaN where null; a view of `images` where they are stored so
    """
    if images.null_count:
        return Fault(kind="missing", reason="is null")
    bands = column.bands
    if _struct(images.type) is not None:
        images, names = _flux_and_bands(images)
        if len(set(names)) > 1:
            return Fault(kind="shape", reason="has other bands than the next")
        bands = bands or names[0] or None
    values = _numbers(images, column.dtype)
    if values is None or not values.size:
        return Fault(kind="shape", reason="is empty, or its lists are ragged or null")
    shaped = _shaped(values, column, bands)
    if isinstance(shaped, Fault):
        return shaped
    if not bands:
        bands = tuple(f"b{band}" for band in range(1, shaped.shape[1] + 1))
        if column.dtype.kind == "u":
            bands = _PICTURE_BANDS.get(shaped.shape[1], bands)
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is seen later
        image_BCYX = shaped.astype(np.float32, copy=False)
    if column.pixels == "display" and column.dtype.kind == "u":
        image_BCYX = image_BCYX / np.float32(np.iinfo(column.dtype).max)
    return image_BCYX, bands


def _shaped(
    values: np.ndarray, column: ImageColumn, bands: Sequence[str] | None
) -> np.ndarray | Fault:
    """`values` [B, ...] as [B, C, Y, X]."""
    if column.shape is not None:
        if math.prod(values.shape[1:]) != math.prod(column.shape):
            got, expected = math.prod(values.shape[1:]), " x ".join(map(str, column.shape))
            return Fault(kind="shape", reason=f"has {got} numbers, expected {expected}")
        values = values.reshape(len(values), *column.shape)
    if values.ndim not in (3, 4):
        return Fault(kind="shape", reason=f"has {values.ndim - 1} axes, expected [C, Y, X]")
    if column.axes is not None:
        values = values.transpose(0, *(axis + 1 for axis in column.axes))
    if values.ndim == 3:
        values = values[:, None]
    first, last = values.shape[1], values.shape[3]
    known = (len(bands),) if bands else _CHANNELS
    if last in known and first not in known:
        values = np.moveaxis(values, 3, 1)
    if bands and len(bands) != values.shape[1]:
        got, expected = values.shape[1], ", ".join(bands)
        return Fault(kind="shape", reason=f"has {got} bands, expected those named {expected}")
    return values


def _numbers(images: pa.Array, dtype: np.dtype) -> np.ndarray | None:
    """[B, ...] numbers, NaN where null; None where the lists are ragged or one is null."""
    if _is_bytes(images.type):
        rows = images.to_pylist()
        if len({len(row) for row in rows}) > 1 or len(rows[0]) % dtype.itemsize:
            return None
        return np.frombuffer(b"".join(rows), dtype).reshape(len(rows), -1)
    sizes = [len(images)]
    while not pa.types.is_primitive(images.type):
        if isinstance(images.type, pa.BaseExtensionType):
            images = images.storage
            continue
        length_N = pc.list_value_length(images)
        shortest, longest = pc.min_max(length_N).as_py().values()
        if images.null_count or not longest or shortest != longest:
            return None
        sizes.append(longest)
        images = images.flatten()
    return cast(np.ndarray, images.to_numpy(zero_copy_only=False).reshape(sizes))


def _flux_and_bands(images: pa.Array) -> tuple[pa.Array, list[tuple[str, ...]]]:
    """Flux as lists with one entry a band, and the names of the bands of each row."""
    struct = _struct(images.type)
    flux, band = _child(struct, _FLUX_NAMES), _child(struct, _BAND_NAMES)
    if not is_list(images.type):
        names = images.field(band).to_pylist() if band else [None] * len(images)
        return images.field(flux), [tuple(map(str, row or ())) for row in names]
    offsets = np.cumsum([0, *pc.list_value_length(images).to_pylist()])
    entries = images.flatten()
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), entries.field(flux))
    each = entries.field(band).to_pylist() if band else []
    return lists, [tuple(map(str, each[i:j])) for i, j in itertools.pairwise(offsets)]


def _leaf(kind: pa.DataType) -> tuple[pa.DataType, int]:
    """Type of the numbers within lists, tensors and the flux of structs, and how deep they are."""
    num_lists = 0
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif is_list(kind):
            kind, num_lists = kind.value_type, num_lists + 1
        elif pa.types.is_struct(kind) and (flux := _child(kind, _FLUX_NAMES)):
            kind = kind.field(flux).type
        else:
            return kind, num_lists


def _struct(kind: pa.DataType) -> pa.DataType | None:
    """The struct that an image is, or is a list of."""
    kind = kind.value_type if is_list(kind) else kind
    return kind if pa.types.is_struct(kind) else None


def _child(struct: pa.DataType, names: Sequence[str]) -> str | None:
    return next((field.name for field in struct if field.name.lower() in names), None)


def _is_bytes(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in kinds)


def _stated_shape(
    kind: pa.DataType, facts: Mapping[str, str], asked: str, where: str
) -> tuple[int, ...] | None:
    if asked:
        return _shape(asked, where)
    if isinstance(kind, pa.BaseExtensionType) and getattr(kind, "shape", None):
        return tuple(kind.shape)
    if facts.get("ARROW:extension:name") in _RAY_TENSORS:
        return _shape(facts.get("ARROW:extension:metadata", ""), where)
    return _shape(facts["shape"], where) if "shape" in facts else None


def _shape(text: str, where: str) -> tuple[int, ...]:
    """The sizes in `3x64x64`, `3,64,64` or `[3, 64, 64]`."""
    shape = tuple(int(number) for number in re.findall(r"\d+", text))
    if not re.fullmatch(r"[\[(\s]*\d+(\s*[x,]\s*\d+){1,2}[\])\s]*", text) or 0 in shape:
        raise ConfigError(f"shape is {text!r} for {where}, expected 2 or 3 sizes, as in 3x64x64")
    return shape


def _dtype(text: str, where: str) -> np.dtype:
    try:
        dtype = np.dtype(text)
    except TypeError:
        dtype = np.dtype(np.void)
    if dtype.kind not in "fiu":
        raise ConfigError(f"dtype is {text!r} in the metadata of {where}, expected e.g. float32")
    return dtype
