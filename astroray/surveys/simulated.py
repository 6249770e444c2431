"""What a simulated survey holds: every object, planted outliers too, made from its seed.

Object i is made of (seed, i) alone, its parameters as its pixels, so shards of any size, single
rows and the truth table agree, and nothing is ever held whole. `galaxies.py` makes the pixels.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroray import schema, storage
from astroray.errors import ConfigError
from astroray.surveys.galaxies import KINDS, Galaxies, observe
from astroray.surveys.shards import Cutouts, Reject, Shard, SurveyUri, parse_options

_SCHEME = "sim:galaxies"
READ_BY = ""
"""Options by which files of `pack` are read."""
_BANDS = {1: "r", 2: "gr", 3: "gri", 4: "griz", 5: "ugriz"}
_SLICE_ROWS = 32  # the planes of that many objects stay in the cache of one core
_CENTER_ICRS_DEG = (150.0, 2.2)

_UNIFORM = (
    *("outlier", "planted", "host", "ra", "dec", "x", "y", "magnitude", "axis_ratio", "angle"),
    *("sersic", "young", "bulge", "arms", "pitch", "phase"),
    *("neighbor", "neighbor_x", "neighbor_y", "neighbor_magnitude"),
)
_NORMAL = ("radius", "redshift", "seeing")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """What stands after the question mark of `sim:galaxies?...`."""

    count: int = 20000
    """Objects; zero makes a survey of no shards."""
    seed: int = 7
    """Of all that is drawn."""
    outliers: float = 0.01
    """Fraction of objects that are planted; a larger one only adds to those of a smaller one."""
    size: int = 64
    """Pixels along one side of a cutout."""
    bands: int = 3
    """How many bands, 1 to 5: r, gr, gri, griz, ugriz."""
    shard_rows: int = 1000
    """Objects a shard."""
    kinds: str = ""
    """Planted kinds with commas between; all where empty."""
    field_deg: float = 10.0
    """Side of the square patch of sky around ra 150, dec 2.2."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("count", 0, 2**32),
            ("seed", 0, 2**32 - 1),
            ("outliers", 0, 1),
            ("size", 16, 256),
            ("bands", 1, len(_BANDS)),
            ("shard_rows", 1, 100_000),
            ("field_deg", 1e-3, 60),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} of {_SCHEME} is {value}, expected {low}..{high}")
        asked = self.kinds.split(",") if self.kinds else KINDS
        unknown = sorted(set(asked) - set(KINDS))
        if unknown:
            raise ConfigError(
                f"kinds of {_SCHEME} names {unknown}, expected some of {','.join(KINDS)}"
            )
        object.__setattr__(self, "kinds", ",".join(kind for kind in KINDS if kind in asked))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Objects:
    """Objects of a survey before any pixel: identity, what they are, and their random numbers."""

    object_id_B: list[str]
    ra_deg_B: np.ndarray
    dec_deg_B: np.ndarray
    galaxies: Galaxies
    streams_B: list[np.random.Generator]
    """Each object's own, now behind its parameters."""


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """Shards of `shard_rows` objects; none where count is 0. `inputs` is empty: there is no file.

    A shard is named by its objects and by all that changes their content, but not by the count,
    so that a longer survey begins with the same shards.

    Raises ConfigError on options that cannot work.
    """
    options = _options_of(uri)
    content = dataclasses.asdict(options)
    del content["count"], content["shard_rows"]
    shards = []
    for start in range(0, options.count, options.shard_rows):
        stop = min(start + options.shard_rows, options.count)
        params = {**content, "start": start, "stop": stop}
        digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:10]
        name = f"sim{options.seed}-{start // options.shard_rows:05d}-{digest}"
        shards.append(
            Shard(name=name, reader="simulated", inputs=(), params=params, num_rows=stop - start)
        )
    return shards


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Cutouts | Reject]:
    """Images of the shard's objects in nJy, or of `rows` alone, in slices of row order.

    No pixel is NaN: dead columns hold what the detector gave and its mask let through. The
    object_id is seed and index, e.g. `sim7-0000123`: in this survey the index is what an object
    is made of, as stable under another listing as an identifier can be.
    """
    options, start, stop = _members(shard)
    bands = _BANDS[options.bands]
    row_N = np.arange(stop - start) if rows is None else np.unique(np.asarray(rows, np.int64))
    for first in range(0, len(row_N), _SLICE_ROWS):
        row_B = row_N[first : first + _SLICE_ROWS]
        objects = _draw(options, row_B + start)
        yield Cutouts(
            row_B=row_B,
            object_id_B=objects.object_id_B,
            ra_deg_B=objects.ra_deg_B,
            dec_deg_B=objects.dec_deg_B,
            image_BCYX=observe(
                objects.galaxies, objects.streams_B, bands=bands, size_px=options.size
            ),
            bands=tuple(bands),
            pixels="flux",
            flags_B=np.zeros(len(row_B), np.int32),
        )


def truth_table(survey: str | Shard) -> pa.Table:
    """What the objects of a survey or of one shard truly are, in row order, without their pixels.

    object_id, ra, dec, _healpix_29   identity
    kind, is_outlier, host            smooth, spiral or a planted kind; host is smooth or spiral
    magnitude                         mag, AB, r band, total light of the object
    half_light_radius_arcsec          arcsec, semi-major axis; of the disk, or of the ring
    axis_ratio, position_angle_deg    minor over major; deg, from north through east
    redshift                          sets the colors
    Faint neighbors belong to no object and have no row.

    Raises ConfigError on options that cannot work.
    """
    if isinstance(survey, Shard):
        options, start, stop = _members(survey)
        index_N = np.arange(start, stop)
    else:
        options = _options_of(SurveyUri.parse(survey))
        index_N = np.arange(options.count)
    objects = _draw(options, index_N)
    galaxies = objects.galaxies
    identity = schema.identity(objects.object_id_B, objects.ra_deg_B, objects.dec_deg_B)
    columns = {
        "kind": pa.array(galaxies.kind, pa.string()),
        "is_outlier": pa.array(np.isin(galaxies.kind, KINDS)),
        "host": pa.array(galaxies.host, pa.string()),
        "magnitude": pa.array(galaxies.magnitude),
        "half_light_radius_arcsec": pa.array(galaxies.radius_arcsec),
        "axis_ratio": pa.array(galaxies.axis_ratio),
        "position_angle_deg": pa.array(galaxies.angle_deg),
        "redshift": pa.array(galaxies.redshift),
    }
    return pa.table({**identity, **columns})


def pack(shard: Shard) -> bytes:
    """The shard as a Parquet file; images are not compressed, since noise does not shrink."""
    options, _, _ = _members(shard)
    bands, size = _BANDS[options.bands], options.size
    shape = [len(bands), size, size]
    meta = {"shape": json.dumps(shape), "bands": ",".join(bands), "pixels": "flux", "unit": "nJy"}
    image = pa.field("image", pa.list_(pa.float32(), int(np.prod(shape))), metadata=meta)
    columns = pa.schema([schema.OBJECT_ID, schema.RA, schema.DEC, image])
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, columns, compression="none", use_dictionary=False) as writer:
        for cutouts in read_shard(shard):
            assert isinstance(cutouts, Cutouts)  # nothing simulated is rejected
            known = schema.identity(cutouts.object_id_B, cutouts.ra_deg_B, cutouts.dec_deg_B)
            flat = pa.array(cutouts.image_BCYX.reshape(-1))
            images = pa.FixedSizeListArray.from_arrays(flat, type=image.type)
            arrays = [known["object_id"], known["ra"], known["dec"], images]
            writer.write_table(pa.Table.from_arrays(arrays, schema=columns))
    return buffer.getvalue()


def _options_of(uri: SurveyUri) -> _Options:
    if uri.location != _SCHEME:
        raise ConfigError(
            f"{uri.location!r} is no simulated survey, expected {_SCHEME}?count=...&seed=..."
        )
    return parse_options(_Options, uri.options)


def _members(shard: Shard) -> tuple[_Options, int, int]:
    params: dict[str, Any] = dict(shard.params)
    start, stop = params.pop("start"), params.pop("stop")
    return _Options(**params), start, stop


def _draw(options: _Options, index_B: np.ndarray) -> _Objects:
    """The objects of the given indices."""
    streams = [
        np.random.Generator(np.random.SFC64(np.random.SeedSequence([options.seed, int(i)])))
        for i in index_B
    ]
    uniform_BK = np.array([stream.random(len(_UNIFORM)) for stream in streams])
    normal_BK = np.array([stream.standard_normal(len(_NORMAL)) for stream in streams])
    u = dict(zip(_UNIFORM, uniform_BK.reshape(-1, len(_UNIFORM)).T, strict=True))
    g = dict(zip(_NORMAL, normal_BK.reshape(-1, len(_NORMAL)).T, strict=True))
    ra0_deg, dec0_deg = _CENTER_ICRS_DEG
    half = np.radians(options.field_deg / 2)
    low, high = np.sin(np.radians(dec0_deg) + np.array([-half, half]))
    return _Objects(
        object_id_B=[f"sim{options.seed}-{i:07d}" for i in index_B],
        ra_deg_B=ra0_deg + (u["ra"] - 0.5) * options.field_deg / np.cos(np.radians(dec0_deg)),
        dec_deg_B=np.degrees(np.arcsin(low + u["dec"] * (high - low))),
        galaxies=_galaxies(options, u, g),
        streams_B=streams,
    )


def _galaxies(
    options: _Options, u: Mapping[str, np.ndarray], g: Mapping[str, np.ndarray]
) -> Galaxies:
    """Galaxies from uniform and normal numbers, [B] under each name of _UNIFORM and _NORMAL."""
    kinds = np.array(options.kinds.split(","), dtype=object)
    planted = u["outlier"] < options.outliers
    named = kinds[(u["planted"] * len(kinds)).astype(int)]
    host = np.where(u["host"] < 0.45, "smooth", "spiral").astype(object)
    # Rings, mergers and lenses bring their own structure; artifacts fall on any galaxy.
    host[planted & np.isin(named, ("ring", "merger", "lensed_arc"))] = "smooth"
    kind = np.where(planted, named, host)
    spiral, lens, ring = host == "spiral", kind == "lensed_arc", kind == "ring"
    # Counts rise as 10^(0.3 m) from r = 17.2 to 20.8; sizes and redshifts follow the magnitude.
    magnitude = 17.2 + np.log10(1 + u["magnitude"] * (10 ** (0.3 * 3.6) - 1)) / 0.3
    redshift = 0.04 * 10 ** (0.2 * (magnitude - 17) + 0.08 * g["redshift"]) + 0.15 * lens
    radius = 10 ** (0.22 - 0.11 * (magnitude - 18.5) + 0.1 * spiral + 0.14 * g["radius"])
    radius = np.clip(radius, np.where(ring, 1.4, 0.45), np.where(lens, 1.2, 2.8))
    inclined = np.sqrt(0.15**2 + (1 - 0.15**2) * u["axis_ratio"] ** 2)
    neighbor = 64 * (np.stack([u["neighbor_x"], u["neighbor_y"]], axis=1) - 0.5)
    alone = (u["neighbor"] > 0.5) | (np.hypot(*neighbor.T) < 12)
    neighbor[alone] = np.nan
    least = np.where(ring | lens, 0.65, 0.5)
    return Galaxies(
        kind=kind,
        host=host,
        offset_px=np.stack([u["x"], u["y"]], axis=1) - 0.5,
        magnitude=magnitude,
        redshift=redshift,
        radius_arcsec=radius,
        axis_ratio=np.where(spiral, inclined, least + (1 - least) * u["axis_ratio"]),
        angle_deg=180 * u["angle"],
        sersic=np.where(spiral, 1.5 + 1.5 * u["sersic"], 2.5 + 2.5 * u["sersic"]),
        young=np.where(spiral, 0.35 + 0.3 * u["young"], 0.0),
        bulge=0.06 + 0.34 * u["bulge"] ** 1.5,
        num_arms=np.where(u["arms"] < 0.7, 2, np.where(u["arms"] < 0.9, 3, 4)),
        pitch_deg=np.where(u["pitch"] < 0.5, -1, 1) * (10 + 36 * (u["pitch"] % 0.5)),
        phase=2 * np.pi * u["phase"],
        neighbor_px=neighbor,
        neighbor_magnitude=21.5 + 3 * np.sqrt(u["neighbor_magnitude"]),
        neighbor_radius_arcsec=0.3 + 0.4 * u["neighbor"],
        seeing=np.exp(0.05 * g["seeing"]),
    )
