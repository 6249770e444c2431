"""Which flares a catalog says a star has had, and on which days it was observed.

F counts the flares of a star, S the stretches in which it was observed.
"""

import dataclasses
import gzip
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from astroray import data_sets, storage
from astroray.errors import SchemaError

__all__ = ["PROPERTIES", "Records", "StarRecord", "read_kepler_records"]

PROPERTIES = ("teff", "logg", "metallicity", "radius", "period")
"""What may be known of a star: K, log10 of cm/s^2, dex, solRad, d."""
FLARES_NAME = "fcn4flare_kepler_flare_param.txt.gz"
STARS_NAME = "fcn4flare_kepler_flare_star_param.txt.gz"
FOLDER = "lightcurves/catalogues"
MIN_SPAN_D = 1400.0
"""Stars that Kepler watched for less are left out: which of its quarters is not said."""
PAUSE_D, PAUSE_FLARES = 0.75, 15.0
"""Where none of all stars flares for so long, and in which as many flares as this would be usual,
the telescope did not look: chance makes such a pause once in e^15 = 3 million flares."""
MARGIN_D = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class StarRecord:
    """The flares of one star, in order of their start."""

    object_id: str
    start_F: np.ndarray
    """[F] float64, d, first cadence of each flare."""
    stop_F: np.ndarray
    """[F] float64, d, last cadence."""
    size_F: np.ndarray
    """[F] float64, log10 of the energy in erg or of the equivalent duration in s; NaN unknown."""
    observed_S2: np.ndarray
    """[S, 2] float64, d, begin and end of each stretch of observation, ascending."""
    property_P: np.ndarray
    """[P] float64, PROPERTIES; NaN where unknown."""
    record_F2: np.ndarray | None = None
    """[F, 2] float64, d: from when and until when each flare is on record, where that changed with
    time; None: from its stop on, for ever."""

    def on_record(self, moment_W: np.ndarray) -> np.ndarray:
        """[W, F] whether each flare was on record at each moment."""
        if self.record_F2 is None:
            return self.stop_F <= moment_W[:, None]
        from_F, until_F = self.record_F2.T
        return (from_F <= moment_W[:, None]) & (moment_W[:, None] < until_F)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
    """The stars of a catalog that can be used, and how many cannot, by reason."""

    stars: Sequence[StarRecord]
    dropped: Mapping[str, int]


def read_kepler_records(data: str) -> Records:
    """The flare stars of Kepler after Jia, Luo & Qiu (FCN4Flare), of the layout `lightcurves/...`.

    Times are BKJD. The tables do not say when Kepler looked; the pauses in which no star of all
    flares do. Columns of the star table that sum up its flares (number, share, largest energy)
    look into the future of every window, and are not read.

    Raises ConfigError where a table is missing, SchemaError where a row cannot be understood.
    """
    flares = _flares(storage.join(data, FOLDER, FLARES_NAME))
    stars, dropped = _stars(storage.join(data, FOLDER, STARS_NAME)), Counter[str]()
    observed_S2 = _stretches(np.array([start for _, start, _, _ in flares]))
    by_star: dict[int, list[tuple[float, float, float]]] = {}
    for kic, *flare in flares:
        by_star.setdefault(kic, []).append((flare[0], flare[1], flare[2]))
    kept = []
    for kic, (span_d, property_P) in stars.items():
        if span_d < MIN_SPAN_D:
            dropped[f"observed for less than {MIN_SPAN_D:g} d, in quarters that are not said"] += 1
        elif kic not in by_star:
            dropped["no flare of it is in the table of flares"] += 1
        else:
            start_F, stop_F, size_F = np.array(sorted(by_star[kic])).T
            kept.append(
                StarRecord(
                    object_id=f"KIC {kic}",
                    start_F=start_F,
                    stop_F=stop_F,
                    size_F=size_F,
                    observed_S2=observed_S2,
                    property_P=property_P,
                )
            )
    return Records(stars=kept, dropped=dict(dropped))


def _flares(path: str) -> list[tuple[int, float, float, float]]:
    rows = ((line[:9], line[13:22], line[23:32], line[40:46]) for line in _lines(path))
    return [(int(kic), _number(a), _number(b), _number(size)) for kic, a, b, size in rows]


def _stars(path: str) -> dict[int, tuple[float, np.ndarray]]:
    """Span of observation in d and PROPERTIES of each star."""
    columns = (slice(13, 18), slice(19, 24), slice(25, 31), slice(32, 39), slice(40, 47))
    return {
        int(line[:9]): (
            _number(line[48:56]),
            np.array([_number(line[column]) for column in columns]),
        )
        for line in _lines(path)
    }


def _lines(path: str) -> Iterator[str]:
    """The data lines of a table in the fixed columns of the journals, below its last rule."""
    data_sets.expect(path)
    lines = gzip.decompress(storage.read_bytes(path)).decode("ascii").splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("-----")]
    if not rules:
        raise SchemaError(f"{path} has no line of dashes above its data; is it the table named so?")
    for number, line in enumerate(lines[rules[-1] + 1 :], rules[-1] + 2):
        if line.strip():
            if not line[:9].strip().isdigit():
                raise SchemaError(f"line {number} of {path} is {line[:40]!r}, expected a KIC first")
            yield line


def _number(text: str) -> float:
    return float(text) if text.strip() else math.nan


def _stretches(start_F: np.ndarray) -> np.ndarray:
    """[S, 2] stretches without a pause in the flares of all stars."""
    sorted_F = np.sort(start_F)
    pause_d = max(PAUSE_D, PAUSE_FLARES * np.ptp(sorted_F) / len(sorted_F))
    cut = np.flatnonzero(np.diff(sorted_F) > pause_d)
    begin_S = np.concatenate([sorted_F[:1], sorted_F[cut + 1]]) - MARGIN_D
    end_S = np.concatenate([sorted_F[cut], sorted_F[-1:]]) + MARGIN_D
    return np.stack([begin_S, end_S], axis=1)
