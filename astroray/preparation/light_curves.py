"""How a light curve becomes what an encoder eats: binned on an even grid, scaled, or rejected.

The grid is fixed when a model is fitted: windows of 512 bins, as many as cover most light curves
of the survey, at most 16. Its bins are the survey's own cadence, or wider where the windows
would not suffice or would stay nearly empty.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import numpy as np

from astroray import schema
from astroray.errors import ConfigError
from astroray.preparation import Prepared, Wishes
from astroray.surveys.light_curve_rows import LightCurve, LightCurves
from astroray.surveys.shards import ModalityName, Reject, Rows

__all__ = ["WINDOW", "CurvePreparation", "measure_curves", "prepare_curves"]

WINDOW = 512
"""Bins of a window."""
MAX_WINDOWS = 16
COVERED_SHARE = 0.9
"""Share of the light curves that the windows cover; longer ones get wider bins and a flag."""
SPARE_SHARE = 0.05
"""The windows are longer than that by so much: the visits of a mission differ a little."""
BINS_PER_CADENCE = 8
"""Most bins for each cadence of a typical light curve: sparse ones get wider bins."""
MIN_OBSERVED = 4
"""Bins with a measurement that a light curve needs: fewer have a level and a slope at most."""
SECONDS_PER_DAY = 86400.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvePreparation:
    """What a model expects of its light curves."""

    modality: ClassVar[ModalityName] = "light_curves"

    cadence_s: float
    """Width of a bin."""
    num_windows: int
    """Windows of 512 bins, one after the other from the first cadence on."""
    is_relative: bool
    """Whether flux is divided by its median; else the median is taken away only, as for fluxes
    of differences, which scatter around zero."""
    scale: float
    """Typical scatter of a light curve: below it variation is linear, above logarithmic."""
    min_observed: int = MIN_OBSERVED
    """Fewest bins with a measurement; fewer are a reject."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_windows <= MAX_WINDOWS:
            raise ConfigError(f"num_windows is {self.num_windows}, expected 1..{MAX_WINDOWS}")
        if not (self.cadence_s > 0 and self.scale > 0):
            raise ConfigError(
                f"cadence_s is {self.cadence_s} and scale is {self.scale}, expected more than 0"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CurvePreparation":
        """The preparation whose `dataclasses.asdict` went through JSON."""
        return cls(**values)

    @property
    def network(self) -> dict[str, int]:
        """The numbers that a network for such light curves is built with."""
        return {"num_windows": self.num_windows}

    def describe(self) -> dict[str, Any]:
        """What a run record says of it."""
        minutes = self.cadence_s / 60
        width = f"{minutes:.3g} min" if minutes < 600 else f"{minutes / 1440:.3g} d"
        flux = "relative flux" if self.is_relative else "flux"
        return {
            "input": f"{flux}, {self.num_windows} × {WINDOW} bins of {width}",
            **dataclasses.asdict(self),
        }


def prepare_curves(rows: Rows, preparation: CurvePreparation) -> Prepared:
    """The slice as the encoder expects it, [B, 2, W, 512]: flux and where it was observed.

    Flux is the mean of the cadences of a bin, as asinh of its distance from the curve's median in
    units of the survey's typical scatter (relative to the median where the survey is so), 0 where
    nothing was observed; the second plane is 1 where something was. A curve longer than the
    windows gets bins as wide as it needs, and the flag COARSER. A row is rejected where fewer
    than `min_observed` bins are observed, where its flux never changes, and where relative flux
    has no meaning since the median is not above 0.
    """
    curves = cast(LightCurves, rows).curve_B
    shape = (2, preparation.num_windows, WINDOW)
    kept: list[int] = []
    inputs: list[np.ndarray] = []
    flags_B = rows.flags_B.astype(np.int32)
    rejects: list[Reject] = []
    for i, curve in enumerate(curves):
        seen_T = np.isfinite(curve.flux)
        flux, time_d = curve.flux[seen_T], curve.time_d[seen_T]
        level = float(np.median(flux))
        fault = _fault(flux, level, preparation)
        if fault is None:
            value_T, is_coarse = _binned(time_d, flux, level, preparation)
            num_observed = int(np.count_nonzero(np.isfinite(value_T)))
            fault = _sparse(num_observed, preparation)
        if fault is not None:
            kind, reason = fault
            row = int(rows.row_B[i])
            rejects.append(Reject(row=row, stage="prepare", kind=kind, reason=reason))
            continue
        observed_T = np.isfinite(value_T)
        inputs.append(np.stack([np.where(observed_T, value_T, 0.0), observed_T]).reshape(shape))
        kept.append(i)
        flags_B[i] |= schema.Flag.COARSER if is_coarse else 0
    index_B = np.array(kept, np.int64)
    return Prepared(
        index_B=index_B,
        input_BCYX=np.array(inputs, np.float32) if inputs else np.zeros((0, *shape), np.float32),
        flags_B=flags_B[index_B],
        rejects=tuple(rejects),
    )


def measure_curves(slices: Iterator[Rows], wishes: Wishes) -> CurvePreparation:
    """A preparation fitted to a sample of the survey: its cadence, length, level and scatter.

    Raises ConfigError where the sample is empty, and on wishes that only images can have.
    """
    wishes.refuse_those_of_images("light curves")
    curves = [curve for rows in slices for curve in cast(LightCurves, rows).curve_B]
    if not curves:
        raise ConfigError("no readable light curve in the sample of the survey")
    span_d = float(np.quantile([_span_d(curve) for curve in curves], COVERED_SHARE))
    span_s = (1 + SPARE_SHARE) * span_d * SECONDS_PER_DAY
    own_s = float(np.median([curve.cadence_s for curve in curves]))
    typical = float(np.median([np.count_nonzero(np.isfinite(curve.flux)) for curve in curves]))
    num_bins = min(span_s / own_s + 1, BINS_PER_CADENCE * typical)
    num_windows = wishes.num_windows or min(max(1, math.ceil(num_bins / WINDOW)), MAX_WINDOWS)
    level_N = np.array([np.nanmedian(curve.flux) for curve in curves])
    is_relative = bool(np.mean(level_N > 0) >= COVERED_SHARE)
    scatters = [
        _scatter(curve.flux / level if is_relative else curve.flux)
        for curve, level in zip(curves, level_N, strict=True)
        if level > 0 or not is_relative
    ]
    return CurvePreparation(
        cadence_s=max(own_s, span_s / (num_windows * WINDOW - 1)),
        num_windows=num_windows,
        is_relative=is_relative,
        scale=float(np.median(scatters)) or 1.0,
    )


def _fault(flux: np.ndarray, level: float, preparation: CurvePreparation) -> tuple[str, str] | None:
    """Why the observed flux cannot be scaled by its median, as class and reason."""
    if flux.min() == flux.max():
        return "constant", f"every flux is {level:g}: nothing to look at"
    if preparation.is_relative and level <= 0:
        return (
            "level",
            f"median flux is {level:g}, expected above 0: the model was fitted on flux relative "
            "to its median",
        )
    return None


def _sparse(num_observed: int, preparation: CurvePreparation) -> tuple[str, str] | None:
    if num_observed >= preparation.min_observed:
        return None
    width_d = preparation.cadence_s / SECONDS_PER_DAY
    return (
        "sparse",
        f"{num_observed} bins of {width_d:.3g} d are observed, expected at least "
        f"{preparation.min_observed}",
    )


def _binned(
    time_d: np.ndarray, flux: np.ndarray, level: float, preparation: CurvePreparation
) -> tuple[np.ndarray, bool]:
    """Scaled flux of each bin [W * 512], NaN where nothing was observed; whether bins are wider."""
    num_bins = preparation.num_windows * WINDOW
    bins_T = (time_d - time_d[0]) * (SECONDS_PER_DAY / preparation.cadence_s)
    coarser = max(1.0, bins_T[-1] / (num_bins - 1))
    bin_T = np.rint(bins_T / coarser).astype(np.int64)
    above_T = flux / level - 1 if preparation.is_relative else flux - level
    count_B = np.bincount(bin_T, minlength=num_bins)
    sum_B = np.bincount(bin_T, weights=above_T, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_B = sum_B / count_B
    return np.arcsinh(mean_B / preparation.scale), coarser > 1.0


def _span_d(curve: LightCurve) -> float:
    seen_d = curve.time_d[np.isfinite(curve.flux)]
    return float(seen_d[-1] - seen_d[0])


def _scatter(flux: np.ndarray) -> float:
    return 1.4826 * float(np.nanmedian(np.abs(flux - np.nanmedian(flux))))
