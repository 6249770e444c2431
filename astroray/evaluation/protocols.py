"""What a protocol is: which objects are usual, which are rare, and which are drawn together."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from astroray.errors import ConfigError
from astroray.evaluation.metrics import resampled

__all__ = ["NUM_DRAWS", "PROTOCOLS", "Draw", "Protocol", "Subset"]

PROTOCOLS = ("efigi", "gz2", "mirabest", "sim", "tess", "crts", "lamost", "types")
"""Names of the protocols; `label_tables.open_protocol` opens them."""
NUM_DRAWS = 20
"""Draws of the outliers per seed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """Objects that are scored together; rows are positions in the protocol's `object_ids`."""

    row_M: np.ndarray
    """[M] int64, ascending, so that the order says nothing of the labels."""
    is_outlier_M: np.ndarray
    """[M] bool."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subset:
    """Usual objects and the rare ones that are drawn among them."""

    name: str
    title: str
    inlier_I: np.ndarray
    """[I] int64 rows of the protocol, ascending; all are in every draw."""
    outliers: tuple[np.ndarray, ...]
    """Groups of candidate rows, int64 each; a draw takes an equal share of each group."""
    contamination: float
    """Share of outliers among the objects of a draw."""
    has_bar: bool = True
    """Whether a better encoder has to hold its ground here; else the subset is reported only."""
    is_mixed: bool = False
    """Whether it stands for all kinds of outliers together."""

    def __post_init__(self) -> None:
        if not 0 < self.contamination < 0.5:
            raise ConfigError(
                f"contamination is {self.contamination}, expected more than 0 and less than 0.5"
            )
        if len(self.inlier_I) < 2 or not len(self.candidate_O):
            raise ConfigError(
                f"subset {self.name} ({self.title}) has {len(self.inlier_I)} inliers and "
                f"{len(self.candidate_O)} outliers here, expected at least 2 and 1; "
                "check the folder of --data"
            )

    @property
    def candidate_O(self) -> np.ndarray:
        """[O] int64, rows of all groups, ascending."""
        return np.sort(np.concatenate(self.outliers))

    @property
    def num_outliers(self) -> int:
        """Outliers of a draw; all candidates where there are too few."""
        wanted = round(len(self.inlier_I) * self.contamination / (1 - self.contamination))
        return min(max(1, wanted), len(self.candidate_O))

    def draw(self, seed: int, number: int) -> Draw:
        """The draw of this number; depends on nothing but the subset, the seed and the number."""
        random = np.random.default_rng([_number_of(self.name), seed, number])
        order = random.permutation(len(self.outliers))
        shares = _equal_shares([len(self.outliers[g]) for g in order], self.num_outliers)
        drawn = [
            random.choice(np.sort(self.outliers[g]), share, replace=False)
            for g, share in zip(order, shares, strict=True)
        ]
        row_M = np.sort(np.concatenate([self.inlier_I, *drawn]))
        return Draw(row_M=row_M, is_outlier_M=~np.isin(row_M, self.inlier_I))

    def weights(self, num_resamples: int) -> np.ndarray:
        """How often each object is in each resample of the objects, float32.

        Inliers and candidates are resampled apart, each to their own number, and the same way
        for all encoders, scores, seeds and draws: that pairs the bootstrap.

        Returns [I + O, R]; inliers first, then candidates, both in order of row.
        """
        random = np.random.default_rng([_number_of(self.name), num_resamples])
        sizes = (len(self.inlier_I), len(self.candidate_O))
        return resampled(sizes, num_resamples, random)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """Subsets of one survey that are evaluated together."""

    name: str
    survey: str
    """URI that astroray's readers open."""
    object_ids: tuple[str, ...]
    """[N] the objects of all subsets, unique, sorted."""
    subsets: tuple[Subset, ...]
    fitted: str
    """Name of the subset whose first draw of a seed the encoders are fitted on."""

    def fit_rows(self, seed: int) -> np.ndarray:
        """Rows that an encoder is fitted on, ascending int64: contamination included, no label."""
        (subset,) = (subset for subset in self.subsets if subset.name == self.fitted)
        return subset.draw(seed, 0).row_M


def _number_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _equal_shares(sizes: Sequence[int], total: int) -> list[int]:
    """`total` spread over groups as evenly as their sizes allow, the first ones favored."""
    shares = [0] * len(sizes)
    while sum(shares) < total:
        for group, size in enumerate(sizes):
            if shares[group] < size and sum(shares) < total:
                shares[group] += 1
    return shares
