"""Which objects of a run a table of the user's labels, and which of them are interesting.

Shape letters: N labelled objects by rank.
"""

import csv
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas

from astroray.errors import ConfigError

__all__ = ["Asked", "Labelled"]

LEAST = 5
"""Fewer interesting or other objects say nothing: their own choice would decide the numbers."""
NUM_SHOWN = 12


class Labelled(NamedTuple):
    """The labelled objects, by rank."""

    objects: pandas.DataFrame
    value_N: np.ndarray
    """What the table says of each, as text."""
    is_interesting_N: np.ndarray
    unseen: Sequence[str]
    """Values that were asked for and that no labelled object has."""


class Asked(NamedTuple):
    """What counts as interesting."""

    text: str
    column: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Asked":
        """Of COLUMN=VALUE,VALUE; a value with a comma in double quotes."""
        column, equals, rest = text.partition("=")
        read = next(csv.reader([rest], skipinitialspace=True), [])
        values = tuple(dict.fromkeys(value.strip() for value in read if value.strip()))
        if not equals or not column.strip() or not values:
            raise ConfigError(
                f"what is interesting is {text!r}, expected COLUMN=VALUE or COLUMN=VALUE,VALUE "
                "with a column of the table of labels"
            )
        return cls(text, column.strip(), values)

    def among(self, joined: pandas.DataFrame) -> Labelled:
        """The objects that have a value. Raises ConfigError where they say too little."""
        names = joined.attrs["columns"]
        if self.column not in names:
            raise ConfigError(
                f"the table of labels has no column {self.column!r} for {self.text!r}, expected "
                f"one of {list(names)}"
            )
        column = joined[names[self.column]]
        is_labelled = column.notna() & (column.astype(str).str.strip() != "")
        column = column[is_labelled]
        matches = {value: _equals(column, value) for value in self.values}
        is_interesting_N = np.logical_or.reduce(list(matches.values()))
        self._check(column, is_interesting_N)
        unseen = [value for value, is_it_N in matches.items() if not is_it_N.any()]
        value_N = column.astype(str).to_numpy(object)
        return Labelled(joined[is_labelled], value_N, is_interesting_N, unseen)

    def _check(self, column: pandas.Series, is_interesting_N: np.ndarray) -> None:
        num_interesting = int(is_interesting_N.sum())
        num_others = len(column) - num_interesting
        if min(num_interesting, num_others) >= LEAST:
            return
        counts = column.astype(str).value_counts()
        shown = ", ".join(f"{value} ({count})" for value, count in counts[:NUM_SHOWN].items())
        shown += ", ..." if len(counts) > NUM_SHOWN else ""
        raise ConfigError(
            f"{num_interesting} of {len(column)} labelled objects are interesting by "
            f"{self.text!r} and {num_others} are not, expected at least {LEAST} of each, or no "
            f"interval could be given; the values are {shown or 'all missing'}: name others, or "
            "label more"
        )


def _equals(column: pandas.Series, value: str) -> np.ndarray:
    """Which entries are `value`, [N] bool: as truth, whole number, number or text."""
    of = pandas.api.types
    if of.is_bool_dtype(column.dtype):
        return np.asarray(column.astype(str).str.lower() == value.lower(), bool)
    if not of.is_numeric_dtype(column.dtype):
        return np.asarray(column.astype(str).str.strip() == value, bool)
    try:
        number = pandas.to_numeric(value)
    except ValueError:
        return np.zeros(len(column), bool)
    if of.is_integer_dtype(column.dtype):
        return np.asarray(column == number, bool)
    return np.isclose(column.to_numpy(float), float(number), rtol=1e-7, atol=0)  # float32 too
