"""Which sources an image holds: detection and deblending with SEP (Barbary 2016, JOSS 1, 58)."""

import dataclasses
import logging
import math

import numpy as np
import sep

from astroray.errors import ConfigError, ShardError

_log = logging.getLogger(__name__)

_TINY_NOISE = 1e-6  # of the largest pixel: without noise, rounding must not become sources
_CROWDED = 0.05  # of the image: a source this large has swallowed others
_SUB_OBJECTS = 65_536
_MAX_LEVELS = 1024  # SEP's memory grows with them, and at 10^5 it crashes


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """How sources are found; the words are those of Source Extractor."""

    threshold: float = 1.5
    """Detection threshold, sigma of the local background noise; of `hdf` 3.0."""
    min_area: int = 5
    """Fewest connected pixels above the threshold that make a source."""
    deblend_levels: int = 32
    """Levels between threshold and peak at which blends are searched."""
    deblend_contrast: float = 0.005
    """Least fraction of a blend's flux that makes a source of its own; 1 never deblends."""
    box_px: int = 64
    """Mesh of the background, px; adjusted so that whole meshes fill the image."""
    filter_px: int = 3
    """Median filter of the background, meshes."""
    detect_band: str = ""
    """Band in which sources are detected; the mean of all where empty."""
    min_distance_px: float = 0.0
    """Of two sources closer than this, only the brighter is kept."""
    max_sources: int = 0
    """Only so many sources of an image, the brightest; 0 keeps all."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        least = {
            "min_area": 1, "deblend_levels": 1, "box_px": 1, "filter_px": 1, "max_sources": 0,
            "min_distance_px": 0, "deblend_contrast": 0,
        }  # fmt: skip
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ConfigError(
                    f"survey option {name} is {getattr(self, name)}, expected {bound} or more"
                )
        if self.deblend_levels > _MAX_LEVELS:
            raise ConfigError(
                f"survey option deblend_levels is {self.deblend_levels}, expected at most "
                f"{_MAX_LEVELS}"
            )
        if not self.threshold > 0:
            raise ConfigError(f"survey option threshold is {self.threshold}, expected above 0")


def detect(
    image_CYX: np.ndarray, bands: tuple[str, ...], options: DetectionOptions, where: str
) -> np.ndarray:
    """The sources of an image as SEP's structured array [N], ordered by y, then x.

    image_CYX  [C, Y, X]  pixels, any unit; NaN where missing, which is never part of a source

    `x`, `y` are 0-based pixel coordinates; bit `sep.OBJ_MERGED` of `flag` marks a part of a blend.
    Raises ShardError where `detect_band` is unknown, or SEP's buffers are too small for the field.
    """
    plane_YX = _detection_plane(image_CYX, bands, options, where)
    bad_YX = ~np.isfinite(plane_YX)
    plane_YX[bad_YX] = 0.0  # the mask hides them; NaN would still reach SEP's convolution
    height_px, width_px = plane_YX.shape
    background = sep.Background(
        plane_YX,
        mask=bad_YX,
        bw=_mesh_px(width_px, options.box_px),
        bh=_mesh_px(height_px, options.box_px),
        fw=options.filter_px,
        fh=options.filter_px,
    )
    noise_YX = np.maximum(background.rms(), _TINY_NOISE * np.abs(plane_YX).max())
    if bad_YX.all() or not noise_YX.any():
        return _extract(np.zeros((1, 1), np.float32), np.ones((1, 1)), None, options, where)
    sources = _extract(plane_YX - background.back(), noise_YX, bad_YX, options, where)
    inside = (sources["x"] > -0.5) & (sources["x"] < width_px - 0.5)
    inside &= (sources["y"] > -0.5) & (sources["y"] < height_px - 0.5)
    _warn_if_crowded(sources, plane_YX.size, options, where)
    chosen = _select(sources[inside], options)
    return chosen[np.lexsort((chosen["x"], chosen["y"]))]


def _mesh_px(length_px: int, box_px: int) -> int:
    """About `box_px`, such that meshes fill the image.

    A last mesh of a few pixels may hold nothing but a star, and then spoils the noise around it.
    """
    return math.ceil(length_px / max(1, round(length_px / box_px)))


def _detection_plane(
    image_CYX: np.ndarray, bands: tuple[str, ...], options: DetectionOptions, where: str
) -> np.ndarray:
    """The band that is named, or the mean of the bands that have the pixel; native float32."""
    if options.detect_band:
        if options.detect_band not in bands:
            raise ShardError(
                f"detect_band is {options.detect_band!r} in {where}, expected one of {bands}"
            )
        return np.array(image_CYX[bands.index(options.detect_band)], np.float32, order="C")
    num_YX = np.zeros(image_CYX.shape[1:], np.float32)
    sum_YX = np.zeros(image_CYX.shape[1:], np.float64)
    for plane_YX in image_CYX:
        seen_YX = np.isfinite(plane_YX)
        num_YX += seen_YX
        sum_YX[seen_YX] += plane_YX[seen_YX]
    sum_YX[num_YX == 0] = np.nan
    return (sum_YX / np.maximum(num_YX, 1)).astype(np.float32)


def _extract(
    above_YX: np.ndarray,
    noise_YX: np.ndarray,
    bad_YX: np.ndarray | None,
    options: DetectionOptions,
    where: str,
) -> np.ndarray:
    """Runs SEP, and once more with larger buffers where it asks for them."""
    for is_retry in (False, True):
        if is_retry:
            sep.set_extract_pixstack(max(sep.get_extract_pixstack(), above_YX.size + 1))
            sep.set_sub_object_limit(max(sep.get_sub_object_limit(), _SUB_OBJECTS))
        try:
            return sep.extract(
                above_YX,
                options.threshold,
                err=noise_YX,
                mask=bad_YX,
                minarea=options.min_area,
                filter_type="conv",  # "matched" gives a source that holds a masked pixel an
                # infinite threshold, and then neither deblends nor cleans it
                deblend_nthresh=options.deblend_levels,
                deblend_cont=options.deblend_contrast,
            )
        except Exception as error:
            if type(error) is not Exception:  # SEP raises the bare class for its own limits
                raise
            problem = str(error).partition(". ")[0]
    raise ShardError(
        f"sources of {where} cannot be extracted: {problem}; raise threshold= (it is "
        f"{options.threshold}) or deblend_contrast= (it is {options.deblend_contrast})"
    )


def _warn_if_crowded(
    sources: np.ndarray, num_pixels: int, options: DetectionOptions, where: str
) -> None:
    largest = sources["npix"].max(initial=0) / num_pixels
    if largest > _CROWDED:
        _log.warning(
            "%s: one source covers %.0f %% of the image and hides others in it; raise threshold= "
            "(it is %g) or lower box_px= (it is %d)",
            where, 100 * largest, options.threshold, options.box_px,
        )  # fmt: skip


def _select(sources: np.ndarray, options: DetectionOptions) -> np.ndarray:
    """Sources that `min_distance_px` and `max_sources` leave, the brightest first."""
    ordered = sources[np.lexsort((sources["x"], sources["y"], -sources["flux"]))]
    if options.min_distance_px > 0 and len(ordered) > 1:
        from scipy.spatial import cKDTree

        tree = cKDTree(np.stack([ordered["x"], ordered["y"]], axis=1))
        kept = np.ones(len(ordered), bool)
        for bright, faint in sorted(tree.query_pairs(options.min_distance_px)):
            kept[faint] &= not kept[bright]
        ordered = ordered[kept]
    return ordered[: options.max_sources] if options.max_sources else ordered
