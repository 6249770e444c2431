"""What a simulated survey of spectra holds: stars and planted rare objects, made from its seed.

Object i is made of (seed, i) alone, so shards of any size, single rows and the truth agree. Spectra
are sketches: a black body or a power law, lines and bands where the real ones have them, noise that
falls with brightness, and pixels lost to the sky. They serve docs and tests, not astrophysics.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from astroray import schema, storage
from astroray.errors import ConfigError
from astroray.storage.parquet import parquet_bytes
from astroray.surveys.shards import Reject, Shard, SurveyUri, parse_options
from astroray.surveys.slices import gather_lists
from astroray.surveys.spectrum_rows import RawSpectrum, Spectra, settle

__all__ = ["KINDS", "READ_BY", "list_shards", "pack", "read_shard", "truth_table"]

_SCHEME = "sim:spectra"
READ_BY = "?format=spectra"
"""Options by which files of `pack` are read."""
KINDS = ("quasar", "carbon", "white_dwarf", "emission_galaxy")
"""Planted."""
_FIRST, _STEP, _NUM_PIXELS = 3.58, 2e-4, 1900
"""log10 of Angstrom: 3800 to 9120."""
_GROUP_ROWS = 100
"""Spectra of a row group: what is read for one of them."""
_BALMER = (6564.6, 4862.7, 4341.7, 4102.9, 3971.2)
_METALS = ((3934.8, 9.0), (3969.6, 8.0), (5176.0, 18.0), (5894.6, 8.0), (8544.4, 7.0))
_TITANIUM = ((4954.0, 150.0), (5448.0, 160.0), (6159.0, 180.0), (7053.0, 220.0), (8432.0, 180.0))
_SWAN = ((4737.0, 120.0), (5165.0, 160.0), (5636.0, 170.0))
_QUASAR = ((1215.7, 20.0, 3.0), (1549.1, 25.0, 1.5), (1908.7, 30.0, 0.8), (2799.1, 30.0, 0.8))
_GALAXY = ((3728.5, 2.0, 3.0), (4862.7, 2.0, 2.0), (5008.2, 2.0, 6.0), (6564.6, 2.5, 7.0))
_SKY = (5577.3, 6300.3, 8344.6, 8885.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedSpectrumOptions:
    """What stands after the question mark of `sim:spectra?...`."""

    count: int = 2000
    """Objects; zero makes a survey of no shards."""
    seed: int = 7
    """Of all that is drawn."""
    outliers: float = 0.02
    """Fraction of objects that are planted: quasars, carbon stars, white dwarfs, galaxies with
    emission lines; the others are stars."""
    shard_rows: int = 500
    """Objects a shard."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        for name, low, high in (
            ("count", 0, 2**32),
            ("seed", 0, 2**32 - 1),
            ("outliers", 0, 1),
            ("shard_rows", 1, 100_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} of {_SCHEME} is {value}, expected {low}..{high}")


def list_shards(inputs: Sequence[storage.InputFile], uri: SurveyUri) -> list[Shard]:
    """Shards of `shard_rows` objects; `inputs` is empty, as there is no file.

    Raises ConfigError on options that cannot work.
    """
    options = parse_options(SimulatedSpectrumOptions, uri.options)
    content = {"seed": options.seed, "outliers": options.outliers}
    found = []
    for start in range(0, options.count, options.shard_rows):
        stop = min(start + options.shard_rows, options.count)
        params: dict[str, Any] = {**content, "start": start, "stop": stop}
        digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:10]
        name = f"spec{options.seed}-{start // options.shard_rows:05d}-{digest}"
        found.append(
            Shard(
                name=name,
                reader="simulated_spectra",
                inputs=(),
                params=params,
                num_rows=stop - start,
            )
        )
    return found


def read_shard(shard: Shard, *, rows: Sequence[int] | None = None) -> Iterator[Spectra | Reject]:
    """Spectra of the shard's objects, or of `rows` alone, in slices of row order."""
    start, stop = shard.params["start"], shard.params["stop"]
    wanted = range(stop - start) if rows is None else sorted(set(rows))
    made = ((row, _made(shard, row)) for row in wanted)
    yield from gather_lists(
        (settle(raw, row=row, where=raw.object_id) for row, raw in made), Spectra.of
    )


def pack(shard: Shard) -> bytes:
    """The shard as a Parquet file, a row a spectrum, with the bad pixels and their mask."""
    made = [_made(shard, row) for row in range(shard.params["stop"] - shard.params["start"])]
    lists = {"flux": pa.float32(), "ivar": pa.float32(), "mask": pa.int32()}
    columns = {
        "object_id": pa.array([one.object_id for one in made], pa.string()),
        "ra": pa.array([one.ra_deg for one in made], pa.float64()),
        "dec": pa.array([one.dec_deg for one in made], pa.float64()),
        "redshift": pa.array([one.redshift for one in made], pa.float64()),
        "wavelength": pa.array([one.wavelength for one in made], pa.list_(pa.float64())),
    }
    for name, kind in lists.items():
        columns[name] = pa.array([getattr(one, name) for one in made]).cast(pa.list_(kind))
    return parquet_bytes(pa.table(columns), row_group_size=_GROUP_ROWS)


def truth_table(survey: str | Shard) -> pa.Table:
    """What the objects of a survey or of one shard truly are, in row order.

    object_id, ra, dec, _healpix_29   identity
    kind, is_outlier                  star, or one of KINDS, which are planted
    """
    if isinstance(survey, Shard):
        seed, outliers = int(survey.params["seed"]), float(survey.params["outliers"])
        index_N = range(survey.params["start"], survey.params["stop"])
    else:
        options = parse_options(SimulatedSpectrumOptions, SurveyUri.parse(survey).options)
        seed, outliers, index_N = options.seed, options.outliers, range(options.count)
    drawn = [_draw(seed, outliers, i) for i in index_N]
    ra_deg, dec_deg = (np.array([one[j] for one in drawn], np.float64) for j in (1, 2))
    identity = schema.identity([_name(seed, i) for i in index_N], ra_deg, dec_deg)
    kinds = [one[0] for one in drawn]
    columns = {
        "kind": pa.array(kinds, pa.string()),
        "is_outlier": pa.array([kind in KINDS for kind in kinds], pa.bool_()),
    }
    return pa.table({**identity, **columns})


def _name(seed: int, index: int) -> str:
    return f"spec{seed}-{index:07d}"


def _draw(seed: int, outliers: float, index: int) -> tuple[str, float, float, np.random.Generator]:
    """Kind and position of an object, and its random numbers, now behind those."""
    stream = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, index])))
    planted, kind, ra, dec = stream.random(4)
    named = KINDS[int(kind * len(KINDS))] if planted < outliers else "star"
    return named, 145.0 + 10 * ra, -2.8 + 10 * dec, stream


def _made(shard: Shard, row: int) -> RawSpectrum:
    seed, index = int(shard.params["seed"]), int(shard.params["start"]) + row
    kind, ra_deg, dec_deg, stream = _draw(seed, float(shard.params["outliers"]), index)
    wavelength = 10.0 ** (_FIRST + _STEP * np.arange(_NUM_PIXELS))
    redshift, flux = _MAKERS[kind](wavelength, stream)
    flux = flux / np.median(flux)
    noise = 10.0 ** stream.uniform(-2.0, -0.8) * np.sqrt(flux.clip(min=0.2))
    sky = sum(np.exp(-(((wavelength - line) / 4.0) ** 2)) for line in _SKY)
    noise = noise * (1 + 8 * sky)
    return RawSpectrum(
        object_id=_name(seed, index),
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        wavelength=wavelength,
        flux=flux + noise * stream.standard_normal(len(flux)),
        ivar=noise**-2.0,
        mask=(sky > 0.5).astype(np.float64),
        origin="other",
        redshift=redshift,
    )


def _black_body(wavelength: np.ndarray, temperature_k: float) -> np.ndarray:
    """Planck (1901), over any constant."""
    x = 1.4388e8 / (wavelength * temperature_k)
    return (5000.0 / wavelength) ** 5 / np.expm1(x)


def _profile(wavelength: np.ndarray, center: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((wavelength - center) / width) ** 2)


def _band(wavelength: np.ndarray, head: float, width: float, *, is_red: bool) -> np.ndarray:
    """A molecular band: sharp at its head, fading to the red or to the blue."""
    beyond = (wavelength - head) if is_red else (head - wavelength)
    return np.where(beyond >= 0, np.exp(-beyond.clip(min=0) / width), 0.0)


def _star(wavelength: np.ndarray, stream: np.random.Generator) -> tuple[float, np.ndarray]:
    temperature_k = float(np.exp(stream.normal(np.log(5600.0), 0.14)))
    flux = _black_body(wavelength, temperature_k)
    hot = float(np.clip((temperature_k - 4800) / 3500, 0.02, 1.0))
    cool = float(np.clip((4300 - temperature_k) / 800, 0.0, 1.0))
    for line in _BALMER:
        flux = flux * (1 - 0.55 * hot * _profile(wavelength, line, 5 + 8 * hot))
    metals = stream.uniform(0.3, 1.0) * (1.05 - hot)
    for line, width in _METALS:
        flux = flux * (1 - 0.6 * metals * _profile(wavelength, line, width))
    for head, width in _TITANIUM:
        flux = flux * (1 - 0.6 * cool * _band(wavelength, head, width, is_red=True))
    return float(stream.normal(0, 1e-4)), flux


def _quasar(wavelength: np.ndarray, stream: np.random.Generator) -> tuple[float, np.ndarray]:
    redshift = float(stream.uniform(1.2, 3.0))
    rest = wavelength / (1 + redshift)
    flux = (rest / 2000.0) ** stream.uniform(-1.8, -0.8)
    lines = [strength * _profile(rest, line, width) for line, width, strength in _QUASAR]
    return redshift, flux * (1 + np.sum(lines, axis=0))


def _carbon(wavelength: np.ndarray, stream: np.random.Generator) -> tuple[float, np.ndarray]:
    flux = _black_body(wavelength, float(stream.uniform(3300, 4300)))
    for head, width in _SWAN:
        depth = stream.uniform(0.5, 0.8)
        flux = flux * (1 - depth * _band(wavelength, head, width, is_red=False))
    return 0.0, flux


def _white_dwarf(wavelength: np.ndarray, stream: np.random.Generator) -> tuple[float, np.ndarray]:
    flux = _black_body(wavelength, float(stream.uniform(11000, 25000)))
    for line in _BALMER:
        flux = flux * (1 - 0.5 * _profile(wavelength, line, stream.uniform(40, 60)))
    return 0.0, flux


def _emission_galaxy(
    wavelength: np.ndarray, stream: np.random.Generator
) -> tuple[float, np.ndarray]:
    redshift = float(stream.uniform(0.02, 0.3))
    rest = wavelength / (1 + redshift)
    flux = _black_body(rest, float(stream.uniform(5500, 8000)))
    strength = stream.uniform(0.5, 1.5)
    lines = [strength * peak * _profile(rest, line, width) for line, width, peak in _GALAXY]
    return redshift, flux * (1 + np.sum(lines, axis=0))


_MAKERS = {
    "star": _star,
    "quasar": _quasar,
    "carbon": _carbon,
    "white_dwarf": _white_dwarf,
    "emission_galaxy": _emission_galaxy,
}
