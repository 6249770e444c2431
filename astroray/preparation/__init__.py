"""How a cutout becomes what an encoder eats: cut, resampled, stretched to 0..1, or rejected.

All of it is fixed when a model is fitted and stored with it, so that a later night is prepared
exactly as the first.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np

from astroray import schema
from astroray.errors import ConfigError
from astroray.surveys.shards import Cutouts, ModalityName, Pixels, Reject, Rows

Stretch = Literal["none", "asinh"]
MIN_SIZE_PX, MAX_SIZE_PX = 8, 512
DEFAULT_SIZE_PX = 64
SIZE_STEP_PX = 16
"""The published network halves its image four times."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user asks of a preparation that is yet to be measured."""

    size_px: int | None = None
    bands: tuple[str, ...] | None = None
    max_missing: float = 0.5
    num_windows: int | None = None
    """Of light curves and spectra."""

    def refuse_those_of_images(self, found: str) -> None:
        """Raises ConfigError on wishes for images where the survey has something else."""
        name = "size_px" if self.size_px is not None else "bands"
        if self.size_px is not None or self.bands is not None:
            raise ConfigError(f"encoder.{name} is for images, the survey has {found}; leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a model expects of its cutouts. Bands are [C]; their limits are in the survey's unit."""

    modality: ClassVar[ModalityName] = "images"

    size_px: int
    """Edge of the square that the encoder sees."""
    bands: tuple[str, ...]
    """Bands in order; a survey's other bands are left out."""
    pixels: Pixels
    """Kind of numbers that the model was fitted on."""
    stretch: Stretch
    """none for display pictures; asinh for linear flux."""
    sky_C: tuple[float, ...]
    """Level of the empty sky."""
    noise_C: tuple[float, ...]
    """Its standard deviation: asinh turns from linear to logarithmic at this height."""
    peak_C: tuple[float, ...]
    """Value that becomes 1; brighter pixels become 1 too."""
    max_missing: float = 0.5
    """Largest fraction of missing pixels of a cutout; more is a reject."""

    def __post_init__(self) -> None:
        if not MIN_SIZE_PX <= self.size_px <= MAX_SIZE_PX:
            raise ConfigError(
                f"size is {self.size_px} px, expected {MIN_SIZE_PX}..{MAX_SIZE_PX}; "
                "set encoder.size_px"
            )
        if not 0 <= self.max_missing < 1:
            raise ConfigError(f"max_missing is {self.max_missing}, expected 0 up to below 1")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preparation":
        """The preparation whose `dataclasses.asdict` went through JSON."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)

    @property
    def network(self) -> dict[str, int]:
        """The numbers that a network for such cutouts is built with."""
        return {"num_bands": len(self.bands), "size_px": self.size_px}

    def describe(self) -> dict[str, Any]:
        """What a run record says of it."""
        return {
            "input": f"{self.size_px} × {self.size_px} px, bands {', '.join(self.bands)}",
            "size_px": self.size_px,
            "bands": list(self.bands),
            "pixels": self.pixels,
            "stretch": self.stretch,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows of a slice that can be encoded, in order.

    index_B      [B] positions in the slice
    input_BCYX   [B, C, Y, X] float32, no NaN; of cutouts [B, C, S, S] in 0..1
    flags_B      [B] int32, bits of schema.Flag
    rejects      the other rows, with reasons
    """

    index_B: np.ndarray
    input_BCYX: np.ndarray
    flags_B: np.ndarray
    rejects: tuple[Reject, ...]


def prepare(rows: Rows, preparation: Preparation) -> Prepared:
    """The slice as the encoder expects it: bands chosen, gaps filled, resampled, stretched.

    A row is rejected where a band is missing from the survey, where more than `max_missing` of
    its pixels are missing, or where all its pixels are equal. Missing pixels below that are
    filled with the median of their band in their cutout, and the row is flagged FILLED.
    """
    cutouts = cast(Cutouts, rows)
    image_BCYX, flags_B, reasons = _usable(cutouts, preparation)
    kept_B = np.array([reason is None for reason in reasons], bool)
    rejects = _rejects(cutouts, reasons)
    index_B = np.flatnonzero(kept_B)
    if image_BCYX is None:
        shape = (0, len(preparation.bands), preparation.size_px, preparation.size_px)
        return Prepared(
            index_B=index_B,
            input_BCYX=np.zeros(shape, np.float32),
            flags_B=np.zeros(0, np.int32),
            rejects=rejects,
        )
    if not kept_B.all():
        image_BCYX = image_BCYX[index_B]
    image_BCYX = stretch(resample(image_BCYX, preparation.size_px), preparation)
    return Prepared(
        index_B=index_B, input_BCYX=image_BCYX, flags_B=flags_B[index_B], rejects=rejects
    )


def not_prepared(cutouts: Cutouts, preparation: Preparation) -> tuple[Reject, ...]:
    """The rejects of `prepare` alone, without its work on the other rows."""
    return _rejects(cutouts, _usable(cutouts, preparation)[2])


def _rejects(cutouts: Cutouts, reasons: Sequence["Reason | None"]) -> tuple[Reject, ...]:
    return tuple(
        Reject(row=int(row), stage="prepare", kind=reason[0], reason=reason[1])
        for row, reason in zip(cutouts.row_B, reasons, strict=True)
        if reason is not None
    )


def resample(image_BCYX: np.ndarray, size_px: int) -> np.ndarray:
    """The central square at `size_px` pixels an edge, by anti-aliased bilinear resampling.

    image_BCYX  [B, C, Y, X]  float32, no NaN
    """
    height, width = image_BCYX.shape[2:]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square_BCYX = image_BCYX[:, :, top : top + edge, left : left + edge]
    if edge == size_px:
        return np.ascontiguousarray(square_BCYX)
    import torch  # only where pixels change: most processes start without it

    resized = torch.nn.functional.interpolate(
        torch.from_numpy(np.require(square_BCYX, requirements=["C", "W"])),
        size=(size_px, size_px),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return resized.numpy()


def stretch(image_BCYX: np.ndarray, preparation: Preparation) -> np.ndarray:
    """Values to 0..1: clipped as they are, or by asinh((x - sky) / noise) up to the peak.

    image_BCYX  [B, C, Y, X]  float32 in the survey's unit, no NaN
    Lupton, Gunn & Szalay 1999, AJ 118, 1406 (the asinh magnitude scale).
    """
    if preparation.stretch == "none":
        return np.clip(image_BCYX, 0.0, 1.0)
    sky, noise, peak = (
        np.asarray(values, np.float32)[:, None, None]
        for values in (preparation.sky_C, preparation.noise_C, preparation.peak_C)
    )
    # three noise levels below the sky is black, so that the sky's own noise stays visible
    floor = np.arcsinh(np.float32(-3.0))
    top = np.arcsinh((peak - sky) / noise)
    stretched = (np.arcsinh((image_BCYX - sky) / noise) - floor) / (top - floor)
    return np.clip(stretched, 0.0, 1.0).astype(np.float32)


def measure_cutouts(slices: Iterator[Rows], wishes: Wishes) -> Preparation:
    """What `measure` finds, as the user wishes it.

    The size is the median edge of the cutouts, at most 64 px, rounded down to what all encoders
    take, unless one is wished for.
    """
    cutouts = [c for c in cast(Iterator[Cutouts], slices) if c.image_BCYX.size]  # else rejects
    size_px = wishes.size_px or _default_size_px(
        [min(c.image_BCYX.shape[2:]) for c in cutouts for _ in c.row_B]
    )
    preparation = measure(iter(cutouts), size_px=size_px, bands=wishes.bands)
    return dataclasses.replace(preparation, max_missing=wishes.max_missing)


def _default_size_px(edges: Sequence[int]) -> int:
    edge = min(DEFAULT_SIZE_PX, int(np.median(edges)) if edges else DEFAULT_SIZE_PX)
    return max(SIZE_STEP_PX, edge // SIZE_STEP_PX * SIZE_STEP_PX)


def measure(
    slices: Iterator[Cutouts], *, size_px: int, bands: tuple[str, ...] | None = None
) -> Preparation:
    """A preparation fitted to a sample of the survey: its bands, kind of pixels and levels.

    Sky and noise of a band are the median and 1.4826 MAD over the border pixels of all cutouts
    (the noise at least a thousandth of the peak above the sky, for images clipped at the sky);
    the peak is the 99 % level of the cutouts' brightest pixels.
    Raises ConfigError where the sample is empty or mixes kinds of pixels.
    """
    borders: list[np.ndarray] = []
    peaks: list[np.ndarray] = []
    first: Cutouts | None = None
    for cutouts in slices:
        first = first or cutouts
        if (cutouts.bands, cutouts.pixels) != (first.bands, first.pixels):
            advice = "scan them one by one, each by a glob"
            if len(first.bands) == len(cutouts.bands) == 1 and first.bands != cutouts.bands:
                advice += (
                    ", or, where each file is a band, name the bands as the files do: bands=g,r"
                )
            raise ConfigError(
                f"the survey mixes {_kind(first)} with {_kind(cutouts)}, such as "
                f"{first.object_id_B[0]} and {cutouts.object_id_B[0]}; {advice}"
            )
        image_BCYX = cutouts.image_BCYX
        borders.append(_border(image_BCYX))
        peaks.append(_peak(image_BCYX))
    if first is None:
        raise ConfigError("no readable cutout in the sample of the survey")
    chosen = bands or first.bands
    order = _band_order(first.bands, chosen)
    if order is None:
        raise ConfigError(
            f"bands {chosen} are not all in the survey, which has {first.bands}; set encoder.bands"
        )
    level_CM = np.concatenate(borders, axis=1)[order]
    peak_CM = np.concatenate(peaks, axis=1)[order]
    levels = [_levels(*values) for values in zip(level_CM, peak_CM, strict=True)]
    sky_C, noise_C, peak_C = zip(*levels, strict=True)
    return Preparation(
        size_px=size_px,
        bands=chosen,
        pixels=first.pixels,
        stretch="none" if first.pixels == "display" else "asinh",
        sky_C=sky_C,
        noise_C=noise_C,
        peak_C=peak_C,
    )


def _kind(cutouts: Cutouts) -> str:
    return f"{cutouts.pixels} cutouts in bands {', '.join(cutouts.bands)}"


Reason = tuple[str, str]


def _usable(
    cutouts: Cutouts, preparation: Preparation
) -> tuple[np.ndarray | None, np.ndarray, list[Reason | None]]:
    """Images with the model's bands and no gaps, flags, and per row why it cannot be used."""
    num_rows = len(cutouts.row_B)
    order = _band_order(cutouts.bands, preparation.bands)
    if order is None or cutouts.pixels != preparation.pixels:
        got = f"{cutouts.pixels} pixels in bands {', '.join(cutouts.bands)}"
        expected = f"{preparation.pixels} pixels in bands {', '.join(preparation.bands)}"
        reason = ("bands", f"got {got}, expected {expected} as the model was fitted on")
        return None, cutouts.flags_B, [reason] * num_rows
    if 0 in cutouts.image_BCYX.shape[2:]:
        shape = cutouts.image_BCYX.shape[2:]
        return None, cutouts.flags_B, [("shape", f"image is {shape} px: no pixels")] * num_rows
    image_BCYX = cutouts.image_BCYX
    if order != list(range(len(cutouts.bands))):
        image_BCYX = image_BCYX[:, order]
    missing_BCYX = ~np.isfinite(image_BCYX)
    flags_B = cutouts.flags_B.astype(np.int32)
    missing_B = missing_BCYX.mean(axis=(1, 2, 3))
    if missing_BCYX.any():
        image_BCYX = _fill(image_BCYX, missing_BCYX)
        flags_B = flags_B | np.where(missing_B > 0, schema.Flag.FILLED, 0).astype(np.int32)
    low_B, high_B = image_BCYX.min(axis=(1, 2, 3)), image_BCYX.max(axis=(1, 2, 3))
    empty_B = missing_BCYX.all(axis=(2, 3)).any(axis=1)
    reasons: list[Reason | None] = [None] * num_rows
    bad_B = (missing_B > preparation.max_missing) | empty_B | (low_B == high_B)
    for i in np.flatnonzero(bad_B):
        if missing_B[i] > preparation.max_missing:
            share = f"{missing_B[i]:.0%} of the pixels are missing"
            reasons[i] = ("missing", f"{share}, expected at most {preparation.max_missing:.0%}")
        elif empty_B[i]:
            gaps = zip(preparation.bands, missing_BCYX[i].all(axis=(1, 2)), strict=True)
            empty = ", ".join(band for band, is_empty in gaps if is_empty)
            reasons[i] = ("missing", f"all pixels of band {empty} are missing, expected some")
        else:
            reasons[i] = ("constant", f"all pixels are {low_B[i]:g}: nothing to look at")
    return image_BCYX, flags_B, reasons


def _fill(image_BCYX: np.ndarray, missing_BCYX: np.ndarray) -> np.ndarray:
    """Missing pixels become the median of their band in their cutout; 0 where a band has none."""
    filled_BCYX = np.where(missing_BCYX, np.float32(0), image_BCYX)
    for b, c in np.argwhere(missing_BCYX.any(axis=(2, 3))):
        gaps_YX = missing_BCYX[b, c]
        if not gaps_YX.all():
            filled_BCYX[b, c][gaps_YX] = np.median(image_BCYX[b, c][~gaps_YX])
    return filled_BCYX


def _band_order(have: tuple[str, ...], want: tuple[str, ...]) -> list[int] | None:
    return [have.index(band) for band in want] if set(want) <= set(have) else None


def _border(image_BCYX: np.ndarray) -> np.ndarray:
    """Pixels of the outermost rows and columns, [C, M]."""
    edges = [image_BCYX[:, :, 0], image_BCYX[:, :, -1], image_BCYX[..., 0], image_BCYX[..., -1]]
    border_BCM = np.concatenate(edges, axis=2)
    return border_BCM.transpose(1, 0, 2).reshape(image_BCYX.shape[1], -1)


def _peak(image_BCYX: np.ndarray) -> np.ndarray:
    """The brightest pixel of each cutout and band, [C, B]; NaN where a band has none."""
    finite_BCYX = np.where(np.isfinite(image_BCYX), image_BCYX, -np.inf)
    peak_BC = finite_BCYX.max(axis=(2, 3))
    return np.where(np.isfinite(peak_BC), peak_BC, np.nan).T


def _levels(level_M: np.ndarray, peak_M: np.ndarray) -> tuple[float, float, float]:
    """Sky, noise and peak of one band; see `measure`."""
    sky = _quantile(level_M, 0.5)
    peak = _quantile(peak_M, 0.99)
    noise = 1.4826 * _quantile(np.abs(level_M - sky), 0.5)
    noise = max(noise, 1e-3 * (peak - sky)) or 1.0
    return sky, noise, max(peak, sky + 10 * noise)


def _quantile(values_M: np.ndarray, q: float) -> float:
    finite_M = values_M[np.isfinite(values_M)]
    return float(np.quantile(finite_M.astype(np.float64), q)) if finite_M.size else 0.0
