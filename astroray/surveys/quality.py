"""What the quality bits of Kepler, K2 and TESS mean, and which cadences are masked by them.

Bits: Kepler Archive Manual (KDMC-10008-006, Thompson et al. 2016), table 2-3, which K2 shares;
TESS Science Data Products Description Document (EXP-TESS-ARC-ICD-0014).

The default masks leave out what a flare may set itself: the impulsive outliers and the cosmic rays
that the pipelines found in the aperture. A mask of those bits would hide the events looked for.
"""

import enum
from collections.abc import Mapping
from typing import Literal

import numpy as np

from astroray.errors import ConfigError

Mission = Literal["kepler", "k2", "tess", "other"]

ANY_BIT = -1
"""All bits of an int32."""
_BITS = "an integer such as 175 or 0xaf"


class KeplerQuality(enum.IntFlag):
    """Bits of SAP_QUALITY of Kepler and K2; bit 512 is reserved."""

    ATTITUDE_TWEAK = 1
    SAFE_MODE = 2
    COARSE_POINT = 4
    EARTH_POINT = 8
    ZERO_CROSSING = 16
    DESATURATION = 32
    ARGABRIGHTENING = 64
    APERTURE_COSMIC_RAY = 128
    MANUAL_EXCLUDE = 256
    SENSITIVITY_DROPOUT = 1024
    IMPULSIVE_OUTLIER = 2048
    ARGABRIGHTENING_ON_CCD = 4096
    COLLATERAL_COSMIC_RAY = 8192
    DETECTOR_ANOMALY = 16384
    NO_FINE_POINT = 32768
    NO_DATA = 65536
    ROLLING_BAND_IN_APERTURE = 131072
    ROLLING_BAND_IN_MASK = 262144
    POSSIBLE_THRUSTER_FIRING = 524288
    THRUSTER_FIRING = 1048576


class TessQuality(enum.IntFlag):
    """Bits of QUALITY of TESS."""

    ATTITUDE_TWEAK = 1
    SAFE_MODE = 2
    COARSE_POINT = 4
    EARTH_POINT = 8
    ARGABRIGHTENING = 16
    DESATURATION = 32
    APERTURE_COSMIC_RAY = 64
    MANUAL_EXCLUDE = 128
    DISCONTINUITY = 256
    IMPULSIVE_OUTLIER = 512
    COLLATERAL_COSMIC_RAY = 1024
    STRAYLIGHT = 2048
    SCATTERED_LIGHT = 4096
    PLANET_SEARCH_EXCLUDE = 8192
    BAD_CALIBRATION_EXCLUDE = 16384
    INSUFFICIENT_TARGETS = 32768
    QLP_LOW_PRECISION = 1 << 30
    """Of QLP alone, from sector 56 on; before that it set SCATTERED_LIGHT for it."""


_POINTING = {
    "ATTITUDE_TWEAK": "the spacecraft turned and stars moved over the pixels",
    "SAFE_MODE": "the spacecraft was in safe mode",
    "COARSE_POINT": "the pointing drifted by pixels",
    "EARTH_POINT": "the antenna pointed to Earth, not the telescope to the field",
    "DESATURATION": "reaction wheels were desaturated and the pointing jumped",
    "MANUAL_EXCLUDE": "the mission excluded the cadence by hand",
}
DEFAULT: Mapping[Mission, Mapping[str, str]] = {
    "kepler": _POINTING
    | {
        "DETECTOR_ANOMALY": "the detector was anomalous",
        "NO_DATA": "no data were collected",
    },
    "k2": _POINTING
    | {
        "DETECTOR_ANOMALY": "the detector was anomalous",
        "NO_DATA": "no data were collected",
        "THRUSTER_FIRING": "thrusters fired and stars moved within the cadence",
    },
    "tess": _POINTING
    | {
        "ARGABRIGHTENING": "all pixels brightened at once",
        "SCATTERED_LIGHT": "light of Earth or Moon was scattered over the target",
        "BAD_CALIBRATION_EXCLUDE": "the calibration of the cadence is bad",
        "INSUFFICIENT_TARGETS": "too few targets were left to correct systematics",
    },
    "other": {},
}
"""By mission: the bits that `quality=default` masks, each with its reason."""

_DOUBTFUL = {
    "APERTURE_COSMIC_RAY": "a cosmic ray, or a flare taken for one, was removed in the aperture",
    "COLLATERAL_COSMIC_RAY": "a cosmic ray hit the pixels that calibrate the column",
    "IMPULSIVE_OUTLIER": "a single outlier, or a short flare, was set aside by the pipeline",
}
_HARD: Mapping[Mission, Mapping[str, str]] = {
    "kepler": _DOUBTFUL
    | {
        "ARGABRIGHTENING": "all pixels of the field brightened at once",
        "SENSITIVITY_DROPOUT": "a pixel lost sensitivity at once",
    },
    "k2": _DOUBTFUL
    | {
        "ARGABRIGHTENING": "all pixels of the field brightened at once",
        "SENSITIVITY_DROPOUT": "a pixel lost sensitivity at once",
        "POSSIBLE_THRUSTER_FIRING": "thrusters may have fired",
        "NO_FINE_POINT": "the spacecraft was not in fine point",
    },
    "tess": _DOUBTFUL
    | {
        "STRAYLIGHT": "light of Earth or Moon was seen in the camera",
        "QLP_LOW_PRECISION": "QLP found the cadence less precise than others",
    },
    "other": {},
}
"""By mission: what `quality=hard` masks beyond the default, each with its reason."""

_FLAGS: Mapping[Mission, type[enum.IntFlag] | None] = {
    "kepler": KeplerQuality,
    "k2": KeplerQuality,
    "tess": TessQuality,
    "other": None,
}


def mask_bits(asked: str, mission: Mission) -> int:
    """The bits of which any one masks a cadence: `asked` is default, hard, none or an integer.

    Where the mission is unknown, so are its bits: default and hard then mean any bit that is set,
    since 0 is good everywhere.

    Raises ConfigError on another word.
    """
    if asked == "none":
        return 0
    if asked in ("default", "hard"):
        flags = _FLAGS[mission]
        if flags is None:
            return ANY_BIT
        names = [*DEFAULT[mission], *(_HARD[mission] if asked == "hard" else ())]
        return sum(int(flags[name]) for name in names)
    try:
        bits = int(asked, 0)
    except ValueError:
        bits = -1
    if not 0 <= bits < 2**31:
        raise ConfigError(f"quality is {asked!r}, expected default, hard, none or {_BITS}")
    return bits


def thrusters_fired(quality_T: np.ndarray, mission: Mission) -> np.ndarray:
    """[T] bool: cadences in which the thrusters of K2 fired; elsewhere none did.

    quality_T  [T]  int32, the bits as read
    """
    if mission != "k2":
        return np.zeros(len(quality_T), bool)
    return (quality_T & np.int32(KeplerQuality.THRUSTER_FIRING)) != 0


def explain_mask(quality_T: np.ndarray, bits: int, mission: Mission) -> str:
    """Which of `bits` mask how many cadences and why, the most frequent first; for a reject.

    quality_T  [T]  int32, the bits as read
    """
    flags = _FLAGS[mission]
    reasons = dict(DEFAULT[mission]) | dict(_HARD[mission])
    counts: list[tuple[int, str]] = []
    for bit in (1 << place for place in range(31)):
        num_cadences = int(np.count_nonzero(quality_T & bits & bit))
        if num_cadences:
            name = (flags(bit).name if flags else None) or f"bit {bit}"
            why = f": {reasons[name]}" if name in reasons else ""
            counts.append((num_cadences, f"{name.lower()} in {num_cadences} cadences{why}"))
    counts.sort(key=lambda count: -count[0])
    return "; ".join(text for _, text in counts)
