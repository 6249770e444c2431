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
PAIRS_AT_ONCE = 1024  # with so many dimensions of each, one round stays in the processor's cache
DIMENSIONS_AT_ONCE = 64
MATRIX_SIZE = 2**23  # float64 numbers, 64 MB
ROWS_SIZE = 2**15  # float64 numbers that stay in the processor's cache
SLAB = 512  # dimensions whose float32 products are summed by the library, in an order of its own


def pair_distances(
    embedding_UD: np.ndarray, first_P: np.ndarray, second_P: np.ndarray
) -> np.ndarray:
    """The published Euclidean distance of each pair of rows, float64 [P]."""
    distance_P = np.empty(len(first_P))
    for start in range(0, len(first_P), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        total_P = np.zeros(len(first_P[part]))
        for dims in parts(embedding_UD.shape[1], DIMENSIONS_AT_ONCE):
            square_PD = np.subtract(
                embedding_UD[first_P[part], dims],
                embedding_UD[second_P[part], dims],
                dtype=np.float64,
            )
            square_PD *= square_PD
            for square_P in np.ascontiguousarray(square_PD.T):  # np.sum's order depends on shapes
                total_P += square_P
        distance_P[part] = np.sqrt(total_P)
    return distance_P


def slab_squares(
    query_GD: np.ndarray, vector_VD: np.ndarray, square_G: np.ndarray, square_V: np.ndarray
) -> np.ndarray:
    """Computed |x|^2 + |y|^2 - 2xy, float32 [G, V]: the product is summed slab by slab.

    query_GD   [G, D]  float32, in the frame
    vector_VD  [V, D]  float32, in the frame
    square_G   [G]     |x|^2, float64
    square_V   [V]     |y|^2, float64

    A sum over blocks errs by the length of a block plus their number instead of by the length of
    the whole (Higham, Accuracy and Stability, section 3.1; Castaldo, Whaley & Chronopoulos 2009,
    SIAM J. Sci. Comput. 31, 1156). `Frame.slab_error` is the bound.
    """
    product_GV = np.zeros((len(query_GD), len(vector_VD)), np.float32)
    slab_GV = np.empty_like(product_GV)
    for slab in parts(query_GD.shape[1], SLAB):
        np.matmul(query_GD[:, slab], vector_VD[:, slab].T, out=slab_GV)
        product_GV += slab_GV
    product_GV *= np.float32(-2.0)
    product_GV += square_V.astype(np.float32)
    product_GV += square_G.astype(np.float32)[:, None]
    return product_GV


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
        scale = float(2.0 ** -np.frexp(largest)[1])
        return cls(embedding_UD=embedding_UD, center_D=center_D, scale=scale, norm_U=norm_U * scale)

    def rows(self, part: slice | np.ndarray, dtype: type) -> np.ndarray:
        """Some rows in this frame, [B, D] of `dtype`."""
        return self.move(self.embedding_UD[part], dtype)

    def move(self, stored_BD: np.ndarray, dtype: type) -> np.ndarray:
        """Other embeddings in this frame, [B, D] of `dtype`."""
        framed_BD: np.ndarray = np.empty(stored_BD.shape, dtype)
        for some in parts(len(stored_BD), ROWS_SIZE // max(1, len(self.center_D))):
            centered_BD = stored_BD[some] - self.center_D
            centered_BD *= self.scale
            framed_BD[some] = centered_BD
        return framed_BD

    def product_error(self, unit: float) -> float:
        """Bound r of a computed |x|^2 + |y|^2 - 2xy: it errs by at most r (|x| + |y|)^2.

        unit  rounding unit of the product, UNIT_FLOAT32 or UNIT_FLOAT64

        A sum of n products in any order, fused or not, errs by at most n u / (1 - n u) times the
        sum of magnitudes (Higham, Accuracy and Stability, section 3.1). Whether the norms are
        added last or start the accumulator, no term passes through more than 2D+2 roundings, and
        the magnitudes add up to at most (|x| + |y|)^2. Rounding x and y into the frame moves the
        square by less than 3u (|x| + |y|)^2, and the published square is itself within
        (D+4) 2^-53 of the true one. In all less than (3D+16) u (|x| + |y|)^2; 3D+32 is
        used, which also covers squares whose roots round to equal distances. Numbers that fall
        below float32's range lose less than UNDERFLOW in all.
        """
        return _relative(3 * len(self.center_D) + 32, unit)

    def slab_error(self) -> float:
        """The same bound of `slab_squares`, whose norms are known in float64.

        Of n dimensions a slab and m slabs, a term of xy passes through at most n roundings in
        its slab and m in the sum over slabs, and the magnitudes add up to at most |x| |y|: 2xy
        errs by at most (n + m) u / (1 - (n + m) u) times 2 |x| |y| <= (|x| + |y|)^2 / 2. To round
        x and y into the frame, and the norms and both sums with them, moves the square by less
        than 6u (|x| + |y|)^2, and the published square is within (D+4) 2^-53 < u of the true one
        for all D below 2^28. In all less than ((n + m) / 2 + 8) u (|x| + |y|)^2; 32 is used for
        8, for the same roots as above and for the products of bounds.
        """
        num_slabs = -(-len(self.center_D) // SLAB)
        return _relative((SLAB + num_slabs) / 2 + 32, UNIT_FLOAT32)

    def slack(self, norm_G: np.ndarray, square_G: np.ndarray, error: float) -> np.ndarray:
        """How far a computed square may be from the published square of a near pair.

        norm_G    [G]  |x|, scaled
        square_G  [G]  a published square, scaled: holds for all y at most that far from x
        error          `product_error` or `slab_error`

        A published distance at most s has |y| <= |x| + s.
        """
        return error * (2.0 * norm_G + np.sqrt(square_G)) ** 2 + UNDERFLOW

    def limit(self, norm_G: np.ndarray, square_G: np.ndarray, error: float) -> np.ndarray:
        """What no computed square of the nearest K can exceed, [G].

        norm_G    [G]  |x|, scaled
        square_G  [G]  the K-th smallest computed square of others, scaled

        The K smallest computed squares belong to pairs whose published square s obeys
        s <= square + r (2|x| + sqrt(s))^2 <= square + 8 r |x|^2 + 2 r s, which bounds the K-th
        published square; the pairs up to it have computed squares within its slack.
        """
        kth_G = np.maximum(square_G, 0.0) + 8 * error * norm_G**2 + UNDERFLOW
        kth_G = kth_G / (1 - 2 * error)
        return kth_G + self.slack(norm_G, kth_G, error)

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
        limit_G = self.limit(norm_G, kth_G, self.product_error(UNIT_FLOAT64))
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


def _relative(num_roundings: float, unit: float) -> float:
    return num_roundings * unit / (1.0 - num_roundings * unit)


def parts(length: int, step: int) -> list[slice]:
    """Slices of at most `step` (at least one) that cover `length`."""
    step = max(1, step)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def spread(length: int, most: int) -> np.ndarray:
    """At most `most` indices below `length`, evenly spread, ascending, int64."""
    num = min(length, most)
    return np.arange(num) * length // max(1, num)
