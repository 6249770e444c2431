"""How a published distance is computed, and how far a matrix product may be off from it.

A published distance is the square root of the sum over dimensions, from the first to the last, of
the squared differences of two stored float32 embeddings, all in float64. No library chooses the
order of that sum, so the number depends on the two embeddings alone. Searching all pairs that way
would be slow; matrix products only propose candidates, and the error bound below says which
objects they may have missed. U objects in the order of their identifiers, G queries, P pairs.
"""

import dataclasses

import numpy as np

UNIT_FLOAT32 = 2.0**-24
UNIT_FLOAT64 = 2.0**-53
UNDERFLOW = 2.0**-100  # of squared distances where the largest norm is about 1; see `slack`
CENTER_SAMPLE = 4096
PAIRS_AT_ONCE = 2048  # the differences of one round stay in the processor's cache
MATRIX_SIZE = 2**23  # float64 numbers, 64 MB


def pair_distances(
    embedding_UD: np.ndarray, first_P: np.ndarray, second_P: np.ndarray
) -> np.ndarray:
    """The published Euclidean distance of each pair of rows, float64 [P]."""
    distance_P = np.empty(len(first_P))
    for start in range(0, len(first_P), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        difference_PD = np.subtract(
            embedding_UD[first_P[part]], embedding_UD[second_P[part]], dtype=np.float64
        )
        square_DP = np.ascontiguousarray((difference_PD * difference_PD).T)
        total_P = np.zeros(square_DP.shape[1])
        for square_P in square_DP:  # np.sum's order depends on the shape of the array
            total_P += square_P
        distance_P[part] = np.sqrt(total_P)
    return distance_P


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """Embeddings moved to their middle and scaled by a power of two, so that products lose little.

    Published distances never see this frame: its center and scale decide how many objects are
    compared again in float64, not what is found.
    """

    embedding_UD: np.ndarray
    """[U, D] float32, as stored."""
    center_D: np.ndarray
    """[D] float64."""
    scale: float
    """Power of two that brings the largest norm to 0.5..1: no overflow, exact to apply."""
    norm_U: np.ndarray
    """[U] float64, distance from the center, scaled."""

    @classmethod
    def of(cls, embedding_UD: np.ndarray) -> "Frame":
        """The frame of these embeddings, float32 [U, D], all finite."""
        sample_BD = embedding_UD[spread(len(embedding_UD), CENTER_SAMPLE)]
        center_D = np.zeros(embedding_UD.shape[1])
        if len(sample_BD):  # the median: one far outlier must not carry the center away
            center_D = np.median(sample_BD.astype(np.float64), axis=0)
        norm_U = np.empty(len(embedding_UD))
        for part in parts(len(embedding_UD), MATRIX_SIZE // 8 // max(1, len(center_D))):
            centered_BD = embedding_UD[part] - center_D
            norm_U[part] = np.sqrt(np.einsum("bd,bd->b", centered_BD, centered_BD))
        largest = float(norm_U.max(initial=0.0))
        scale = float(2.0 ** -np.frexp(largest)[1]) if largest > 0 else 1.0
        return cls(embedding_UD=embedding_UD, center_D=center_D, scale=scale, norm_U=norm_U * scale)

    def rows(self, part: slice | np.ndarray, dtype: type) -> np.ndarray:
        """Some rows in this frame, [B, D] of `dtype`."""
        return ((self.embedding_UD[part] - self.center_D) * self.scale).astype(dtype)

    def slack(self, norm_G: np.ndarray, square_G: np.ndarray, unit: float) -> np.ndarray:
        """How far a computed |x|^2 + |y|^2 - 2xy may exceed the published square of a near pair.

        norm_G    [G]  |x|, scaled
        square_G  [G]  a published square, scaled: holds for all y at most that far from x
        unit           rounding unit of the product, UNIT_FLOAT32 or UNIT_FLOAT64

        A sum of n products in any order, fused or not, errs by at most n u / (1 - n u) times the
        sum of magnitudes (Higham, Accuracy and Stability, section 3.1). Whether the norms are
        added last or start the accumulator, no term passes through more than 2D+2 roundings, and
        the magnitudes add up to at most (|x| + |y|)^2. Rounding x and y into the frame moves the
        square by less than 3u (|x| + |y|)^2, and the published square is itself within
        (D+4) 2^-53 of the true one. In all less than (3D+16) u (|x| + |y|)^2; 3D+32 is
        used, which also covers squares whose roots round to equal distances. A published
        distance at most s has |y| <= |x| + s. Numbers that fall below float32's range lose less
        than UNDERFLOW in all.
        """
        relative = self._relative(unit)
        return relative * (2.0 * norm_G + np.sqrt(square_G)) ** 2 + UNDERFLOW

    def nearest(self, row_G: np.ndarray, num_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices [G, K] and published distances [G, K] of the nearest others, proven.

        All objects are compared by float64 products; every object within their error of the
        k-th is then measured. Ties go to the smaller index. Needs K < U.
        """
        found = [
            self._nearest(row_G[part], num_neighbors)
            for part in parts(len(row_G), MATRIX_SIZE // len(self.embedding_UD))
        ]
        none = np.zeros((0, num_neighbors))
        neighbors = np.concatenate([none.astype(np.int64), *(n for n, _ in found)])
        return neighbors, np.concatenate([none, *(d for _, d in found)])

    def _nearest(self, row_G: np.ndarray, num_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
        norm_G = self.norm_U[row_G]
        square_GU = self._squares(row_G)
        square_GU[np.arange(len(row_G)), row_G] = np.inf
        kth_G = np.partition(square_GU, num_neighbors - 1, axis=1)[:, num_neighbors - 1]
        # The k smallest computed squares belong to pairs whose published square s obeys
        # s <= kth + r (2|x| + sqrt(s))^2 <= kth + 8 r |x|^2 + 2 r s, so the k-th published
        # square is at most this:
        relative = self._relative(UNIT_FLOAT64)
        kth_G = np.maximum(kth_G, 0.0) + 8 * relative * norm_G**2 + UNDERFLOW
        kth_G = kth_G / (1 - 2 * relative)
        limit_G = kth_G + self.slack(norm_G, kth_G, UNIT_FLOAT64)
        query_P, other_P = np.nonzero(square_GU <= limit_G[:, None])
        distance_P = pair_distances(self.embedding_UD, row_G[query_P], other_P)
        order_P = np.lexsort((other_P, distance_P, query_P))
        start_G = np.searchsorted(query_P, np.arange(len(row_G)))  # query_P ascends
        chosen_GK = order_P[start_G[:, None] + np.arange(num_neighbors)]
        return other_P[chosen_GK], distance_P[chosen_GK]

    def _squares(self, row_G: np.ndarray) -> np.ndarray:
        square_GU = np.empty((len(row_G), len(self.embedding_UD)))
        query_GD = self.rows(row_G, np.float64)
        for part in parts(len(self.embedding_UD), 8192):
            square_GU[:, part] = query_GD @ self.rows(part, np.float64).T
        square_GU *= -2.0
        square_GU += self.norm_U**2
        square_GU += self.norm_U[row_G, None] ** 2
        return square_GU

    def _relative(self, unit: float) -> float:
        roundings = (3 * len(self.center_D) + 32) * unit
        return roundings / (1.0 - roundings)


def parts(length: int, step: int) -> list[slice]:
    """Slices of at most `step` (at least one) that cover `length`."""
    step = max(1, step)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def spread(length: int, most: int) -> np.ndarray:
    """At most `most` indices below `length`, evenly spread, ascending, int64."""
    num = min(length, most)
    return np.arange(num) * length // max(1, num)
