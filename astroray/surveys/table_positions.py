"""What the positions of a table beside files are, decided by all its rows before one is used.

The table is gone through twice, a piece of B rows at a time: first it is seen whether right
ascension is meant as -180..180, whether the numbers look like radians, and which are impossible.
"""

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy import units
from astropy.coordinates import Angle

from astroray.errors import ConfigError
from astroray.surveys.positions import FEW_POSITIONS, is_west, refuse_radians
from astroray.surveys.table_columns import Column, trimmed

__all__ = ["TablePositions"]

_log = logging.getLogger(__name__)

_EMPTY = {"", "--", "-", "null", "none", "n/a", "na", "nan"}


class TablePositions:
    """The columns `ra` and `dec` of a table that errors call `where`.

    angles  deg or rad: the unit of columns that state none; empty: deg, as long as that is likely

    Raises ConfigError where a column has a unit that is no angle.
    """

    def __init__(self, ra: str, dec: str, where: str, *, angles: str) -> None:
        self.names = ra, dec
        self.where = where
        self._columns = (
            _Angles(f"ra column {ra!r} of {where}", units.hourangle, angles),
            _Angles(f"dec column {dec!r} of {where}", units.deg, angles),
        )
        self._is_half_turns = False

    def measure(self, pieces: Iterable[Mapping[str, Column]]) -> int:
        """Goes through all rows, and returns their number.

        Raises ConfigError where a column holds no angles at all, where the two look exchanged, and
        where they look like radians.
        """
        seen, as_half_turns = _Seen(), _Seen()
        num_rows, num_west, most_east_deg, has_unit = 0, 0, -np.inf, False
        for piece in pieces:
            ra_deg_B, dec_deg_B = self._degrees(piece)
            has_unit |= any(column.has_unit for column in self._columns)
            west_B = is_west(ra_deg_B, dec_deg_B)
            num_rows, num_west = num_rows + len(ra_deg_B), num_west + int(np.count_nonzero(west_B))
            seen.add(ra_deg_B, dec_deg_B)
            as_half_turns.add(np.where(west_B, ra_deg_B + 360.0, ra_deg_B), dec_deg_B)
            is_sky_B = (ra_deg_B >= -180) & (ra_deg_B <= 360) & (np.abs(dec_deg_B) <= 90)
            most_east_deg = max(most_east_deg, ra_deg_B[is_sky_B].max(initial=-np.inf))
        for column in self._columns:
            column.check()
        if not has_unit:
            seen.refuse_radians(self._named())
        self._is_half_turns = num_west > 0 and most_east_deg <= 180
        if self._is_half_turns:
            template = "right ascension of %s is -180..180 deg: 360 is added to %d of %d"
            _log.warning(template, self.where, num_west, num_rows)
        (as_half_turns if self._is_half_turns else seen).judge(self.names, self.where)
        return num_rows

    def degrees(self, piece: Mapping[str, Column]) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination [B], deg, 0..360 and -90..90.

        Both are NaN where one is missing or impossible. `measure` comes first.
        """
        ra_deg_B, dec_deg_B = self._degrees(piece)
        if self._is_half_turns:
            ra_deg_B = np.where(is_west(ra_deg_B, dec_deg_B), ra_deg_B + 360.0, ra_deg_B)
        is_known_B = _are_possible(ra_deg_B, dec_deg_B)
        ra_deg_B = np.where(is_known_B, ra_deg_B, np.nan)
        return ra_deg_B % 360.0, np.where(is_known_B, dec_deg_B, np.nan)

    def _degrees(self, piece: Mapping[str, Column]) -> tuple[np.ndarray, np.ndarray]:
        ra, dec = self._columns
        return ra.degrees(piece[self.names[0]]), dec.degrees(piece[self.names[1]])

    def _named(self) -> str:
        return f"columns {self.names[0]!r} and {self.names[1]!r} of {self.where}"


@dataclasses.dataclass
class _Seen:
    """What was seen of positions, as they stand or with 360 added to those in the west."""

    num_rows: int = 0
    num_known: int = 0
    """Rows that have both numbers."""
    least: tuple[float, float] = (np.inf, np.inf)
    greatest: tuple[float, float] = (-np.inf, -np.inf)
    num_bad: int = 0
    first_bad: str = ""
    is_any_possible: bool = False
    do_bad_fit_swapped: bool = True

    def add(self, ra_deg_B: np.ndarray, dec_deg_B: np.ndarray) -> None:
        """Looks at further rows."""
        known_B = np.isfinite(ra_deg_B) & np.isfinite(dec_deg_B)
        pair = ra_deg_B[known_B], dec_deg_B[known_B]
        self.num_rows += len(ra_deg_B)
        self.num_known += int(np.count_nonzero(known_B))
        ra, dec = ((values.min(initial=np.inf), values.max(initial=-np.inf)) for values in pair)
        self.least = min(self.least[0], ra[0]), min(self.least[1], dec[0])
        self.greatest = max(self.greatest[0], ra[1]), max(self.greatest[1], dec[1])
        is_possible_B = _are_possible(ra_deg_B, dec_deg_B)
        self.is_any_possible |= bool(is_possible_B.any())
        bad_M = np.flatnonzero(~is_possible_B & ~(np.isnan(ra_deg_B) & np.isnan(dec_deg_B)))
        if not len(bad_M):
            return
        self.num_bad += len(bad_M)
        text = f"ra {ra_deg_B[bad_M[0]]:g}, dec {dec_deg_B[bad_M[0]]:g} deg"
        self.first_bad = self.first_bad or text
        swapped_B = (np.abs(ra_deg_B) <= 90) & (dec_deg_B >= 0) & (dec_deg_B <= 360)
        self.do_bad_fit_swapped &= bool(swapped_B[bad_M].all())

    def refuse_radians(self, where: str) -> None:
        """Raises ConfigError where numbers without a unit look like radians."""
        if self.num_known >= FEW_POSITIONS:
            ra, dec = zip(self.least, self.greatest, strict=True)
            refuse_radians(ra, dec, where)

    def judge(self, names: tuple[str, str], where: str) -> None:
        """Warns of impossible positions; raises ConfigError where the columns look exchanged."""
        if not self.num_bad:
            return
        if not self.is_any_possible and self.do_bad_fit_swapped:
            raise ConfigError(
                f"no position of {where} is possible, the first is {self.first_bad}: columns "
                f"{names[0]!r} and {names[1]!r} look exchanged; name them with ra= and dec="
            )
        template = "%d of %d positions of %s are impossible, the first is %s"
        _log.warning(template, self.num_bad, self.num_rows, where, self.first_bad)


class _Angles:
    """A column of angles, and what was seen in it."""

    def __init__(self, where: str, sexagesimal_unit: units.UnitBase, angles: str) -> None:
        self.has_unit = bool(angles)
        self._where = where
        self._sexagesimal_unit = sexagesimal_unit
        self._angles = angles
        self._num_bad = 0
        self._example: Any = None
        self._is_any_known = False

    def degrees(self, column: Column) -> np.ndarray:
        """Numbers in the column's unit, in figures or text, or sexagesimal text; NaN if neither."""
        unit = column.unit or self._angles
        self.has_unit = bool(unit)
        degrees_B = _numbers_deg(column.values, unit, self._where)
        if degrees_B is None:
            degrees_B = self._one_by_one(column.to_list(), unit)
        self._is_any_known |= bool(np.isfinite(degrees_B).any())
        return degrees_B

    def check(self) -> None:
        """Raises ConfigError where nothing in the column was an angle; warns where something."""
        if self._num_bad and not self._is_any_known:
            raise ConfigError(
                f"{self._where} holds no angles: got {self._example!r}, expected degrees or "
                "sexagesimal text; name the right columns with ra= and dec="
            )
        if self._num_bad:
            template = "%d values of %s are no angles, e.g. %r"
            _log.warning(template, self._num_bad, self._where, self._example)

    def _one_by_one(self, column: list[Any], unit: str) -> np.ndarray:
        values = [v.decode("ascii", "replace") if isinstance(v, bytes) else v for v in column]
        scale_deg = 1.0
        if unit == "rad" or any(isinstance(value, int | float) for value in values):
            scale_deg = _unit_deg(unit, self._where)
        degrees_B = np.full(len(values), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of 60 seconds in a minute: taken as the next minute
            for i, value in enumerate(values):
                if value is None or (isinstance(value, str) and value.strip().lower() in _EMPTY):
                    continue
                try:
                    degrees_B[i] = _angle_deg(value, self._sexagesimal_unit, scale_deg)
                except (ValueError, TypeError):  # astropy's unit and angle errors are ValueErrors
                    self._num_bad, self._example = self._num_bad + 1, value
        return degrees_B


def _are_possible(ra_deg_B: np.ndarray, dec_deg_B: np.ndarray) -> np.ndarray:
    return (ra_deg_B >= 0) & (ra_deg_B <= 360) & (np.abs(dec_deg_B) <= 90)


def _numbers_deg(values: Any, unit: str, where: str) -> np.ndarray | None:
    """Numbers, or text that is a number in every row; None where they are not, or not Arrow's."""
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        return None
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if not (is_text or pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        return None
    try:
        numbers = pc.cast(trimmed(values) if is_text else values, pa.float64())
    except pa.ArrowInvalid:  # sexagesimal, or a word for unknown
        return None
    scale_deg = 1.0 if is_text and unit != "rad" else _unit_deg(unit, where)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64) * scale_deg


def _angle_deg(value: Any, sexagesimal_unit: units.UnitBase, scale_deg: float) -> float:
    if not isinstance(value, str):
        return float(value) * scale_deg
    try:
        return float(value) * scale_deg
    except ValueError:
        return float(Angle(value, sexagesimal_unit).to_value(units.deg))


def _unit_deg(unit: str, where: str) -> float:
    if not unit or unit.lower().startswith("deg"):
        return 1.0
    if unit in ("h", "hr", "hour", "hours"):  # time to astropy, an angle in a column of angles
        return 15.0
    try:
        return float(units.Unit(unit).to(units.deg))
    except (ValueError, TypeError):  # UnitsError is a ValueError
        raise ConfigError(
            f"{where} is in {unit!r}, expected an angle such as deg, rad or hourangle"
        ) from None
