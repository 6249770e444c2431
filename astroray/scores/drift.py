"""Whether a night's objects look like those of its first reference, and where its outliers cluster.

The population stability index compares two samples in the bins of ten equal parts of the first,
sum (q - p) ln(q / p); above 0.25 two populations are taken to differ (Siddiqi 2006, Credit Risk
Scorecards). Without any drift it is about (bins - 1) (1 / n + 1 / m) by chance.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from astroray.neighbors.distances import spread
from astroray.run_record import Drift, Suspect

__all__ = ["describe_drift", "find_suspects", "stability", "suspect_night"]

SAMPLE = 5_000
"""Objects of the reference that its bins are made of."""
BINS = 10
LARGE = 0.25
TIMES_CHANCE = 3.0
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
CHANCE = 1e-3
"""How often, all groups together, a night without any artefact has a suspect."""
LEAST_OUTLIERS = 3


def stability(reference_M: np.ndarray, night_N: np.ndarray) -> float:
    """Population stability index of two samples of one number; NaN where one is empty.

    Equal numbers fall into one bin; half a count is added to each bin, so none is empty.
    """
    if not len(reference_M) or not len(night_N):
        return float("nan")
    bins = _Bins(reference_M[:, None])
    bins.add(night_N[:, None])
    return bins.stability()[0]


class _Bins:
    """Bins of ten equal parts of each column of a reference, and how many of a night fall there."""

    def __init__(self, reference_MD: np.ndarray) -> None:
        quantiles = np.arange(1, BINS) / BINS
        reference_DM = np.ascontiguousarray(reference_MD.T)
        self.inner_QD = np.quantile(reference_DM, quantiles, axis=1, method="inverted_cdf")
        self.before_BD = self._counts(reference_MD)
        self.now_BD = np.zeros_like(self.before_BD)

    def add(self, night_ND: np.ndarray) -> None:
        """Counts more of a night."""
        self.now_BD += self._counts(night_ND)

    def stability(self) -> list[float]:
        """The index of each column, of all that were counted."""
        is_bin_BD = np.ones_like(self.before_BD, bool)
        is_bin_BD[1:-1] = self.inner_QD[1:] != self.inner_QD[:-1]  # between equal numbers is none
        columns = zip(self.before_BD.T, self.now_BD.T, is_bin_BD.T, strict=True)
        return [
            _stability(before_B[is_bin_B], now_B[is_bin_B]) for before_B, now_B, is_bin_B in columns
        ]

    def _counts(self, value_ND: np.ndarray) -> np.ndarray:
        above_QD = np.array(
            [np.count_nonzero(value_ND > inner_D, axis=0) for inner_D in self.inner_QD]
        )
        none_D = np.zeros_like(above_QD[0])
        return -np.diff(above_QD, axis=0, prepend=[none_D + len(value_ND)], append=[none_D])


def _stability(before_B: np.ndarray, now_B: np.ndarray) -> float:
    before, now = ((count_B + 0.5) / (count_B + 0.5).sum() for count_B in (before_B, now_B))
    return float(((now - before) * np.log(now / before)).sum())


def describe_drift(
    reference_MD: np.ndarray,
    night: Iterable[np.ndarray],
    before_M: np.ndarray,
    score_N: np.ndarray,
) -> Drift | None:
    """Stability of every dimension and of the score, and quantiles of the scores, for the record.

    reference_MD  [M, D]  embeddings of the first reference; a sample is taken
    night         [B, D]  each: those of the night's objects, some at a time
    before_M      [M]     scores of the objects before
    score_N       [N]     scores of the night's objects

    `dimensions_adrift` have an index above 0.25 and above three times what chance makes. None
    where one side has no objects.
    """
    before_M, score_N = before_M[np.isfinite(before_M)], score_N[np.isfinite(score_N)]
    if not len(reference_MD) or not len(before_M) or not len(score_N):
        return None
    sample_MD = reference_MD[spread(len(reference_MD), SAMPLE)]
    bins, num_night = _Bins(sample_MD), 0
    for night_BD in night:
        num_night += len(night_BD)
        bins.add(night_BD)
    if not num_night:
        return None
    index_D = bins.stability()
    chance = (BINS - 1) * (1 / len(sample_MD) + 1 / num_night)
    limit = max(LARGE, TIMES_CHANCE * chance)
    of_score = stability(before_M[spread(len(before_M), SAMPLE)], score_N)
    quantiles = zip(np.quantile(before_M, QUANTILES), np.quantile(score_N, QUANTILES), strict=True)
    return Drift(
        stability=tuple(round(value, 4) for value in index_D),
        stability_by_chance=round(chance, 4),
        stability_limit=round(limit, 4),
        dimensions_adrift=tuple(d for d, value in enumerate(index_D) if value > limit),
        score_stability=round(of_score, 4),
        score_quantiles={
            f"{q:g}": (float(before), float(now))
            for q, (before, now) in zip(QUANTILES, quantiles, strict=True)
        },
    )


def find_suspects(
    columns: Mapping[str, pa.ChunkedArray], is_outlier_N: np.ndarray
) -> tuple[list[Suspect], np.ndarray]:
    """Groups with too many outliers, least likely first, and each object's first one, -1 for none.

    columns       [N] strings each: detector, field, night; null where unknown
    is_outlier_N  [N] bool

    The chance of a group is that of drawing so many outliers without putting back, times the
    number of groups. A group that holds all objects cannot be told from the survey.
    """
    names_of = {
        kind: column.combine_chunks().dictionary_encode() for kind, column in columns.items()
    }
    num_groups = sum(len(names.dictionary) for names in names_of.values())
    num_objects, num_outliers = len(is_outlier_N), int(is_outlier_N.sum())
    found: list[tuple[Suspect, np.ndarray]] = []
    for kind, names in names_of.items():
        code_N = pc.fill_null(names.indices, len(names.dictionary)).to_numpy()
        hits_G = np.bincount(code_N[is_outlier_N], minlength=len(names.dictionary) + 1)
        size_G = np.bincount(code_N, minlength=len(hits_G))
        for group in np.flatnonzero(hits_G[:-1] >= LEAST_OUTLIERS).tolist():
            counts = int(hits_G[group]), num_outliers, int(size_G[group]), num_objects
            chance = _too_many(*counts) * num_groups
            if chance < CHANCE:
                row_H = np.flatnonzero((code_N == group) & is_outlier_N)
                value = str(names.dictionary[group])
                found.append((_suspect(kind, value, *counts, chance), row_H))
    found.sort(key=lambda entry: (entry[0].chance, entry[0].kind, entry[0].value))
    suspect_N = np.full(num_objects, -1)
    for number, (_, row_H) in reversed(list(enumerate(found))):
        suspect_N[row_H] = number
    return [suspect for suspect, _ in found], suspect_N


def suspect_night(num_new: int, num_objects: int, in_list: int, length: int) -> Sequence[Suspect]:
    """The night itself, where it has too much of the certified list.

    num_new, num_objects  objects of the night and in all
    in_list, length       certified objects of the night and in all
    """
    chance = _too_many(in_list, length, num_new, num_objects)
    if in_list < LEAST_OUTLIERS or chance >= CHANCE:
        return []
    return [_suspect("night", "(this one)", in_list, length, num_new, num_objects, chance)]


def _too_many(hits: int, num_outliers: int, size: int, num_objects: int) -> float:
    """Probability of at least `hits` of the outliers in a group of `size` by chance."""
    import scipy.stats  # half a second, and no scan but a night's needs it

    return float(scipy.stats.hypergeom.sf(hits - 1, num_objects, size, num_outliers))


def _suspect(
    kind: str, value: str, hits: int, num_outliers: int, size: int, num_objects: int, chance: float
) -> Suspect:
    of_outliers, of_objects = hits / num_outliers, size / num_objects
    return Suspect(
        kind=kind,
        value=value,
        num_outliers=hits,
        num_objects=size,
        share_of_outliers=of_outliers,
        share_of_objects=of_objects,
        chance=min(chance, 1.0),
        sentence=f"{kind} {value} has {of_outliers:.0%} of the outliers and {of_objects:.0%} of "
        "the objects: likely artefacts",
    )
