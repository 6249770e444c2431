"""Sums over objects that come out the same to the last bit, however the objects were divided.

Numbers are split into integers of few bits, whose products a matrix product of any library adds
up without rounding, in any order (Ozaki, Ogita, Oishi and Rump 2012). P columns of a matrix.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from astroray.errors import DataError
from astroray.neighbors.distances import parts

BITS = 20
"""Of a slice; the sum of 2^12 products of two slices is at most 2^52."""
ROWS_AT_ONCE = 2**12
NUMBERS_AT_ONCE = 2**18
"""Of a block, which stays in the processor's cache."""
ROWS_OF_A_SUM = 2**18
"""So many rows with at most 14 products of one exponent each stay below 2^62."""
FINEST = -340
"""Exponent of the unit of a sum: no product of two float32 has a bit below it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, sums and sums of products of float32 vectors: exact, so merging them is exact too."""

    count: int
    total_D: np.ndarray
    """[D] Python integers, which have no largest value, in units of 2^FINEST."""
    second: np.ndarray
    """Sums of squares [D] or of outer products [D, D], the same kind of integers."""

    @classmethod
    def of(cls, vector_ND: np.ndarray, *, outer: bool = False) -> "Moments":
        """The moments of float32 vectors [N, D]; with `outer` of pairs of dimensions too.

        Raises DataError on a number that is not finite.
        """
        bad = np.flatnonzero(~np.isfinite(vector_ND).all(axis=1))
        if bad.size:
            raise DataError(
                f"vector {bad[0]} has a NaN or infinite number ({bad.size} such vectors of "
                f"{len(vector_ND)}), expected finite; reject them before"
            )
        several = parts(len(vector_ND), ROWS_OF_A_SUM) or [slice(0, 0)]
        return cls.merge(_moments(vector_ND[part], outer) for part in several)

    @classmethod
    def merge(cls, moments: Iterable["Moments"]) -> "Moments":
        """The moments of all parts together, at least one part; their order does not matter."""
        first, *others = moments
        count, total_D, second = first.count, first.total_D, first.second
        for part in others:
            count += part.count
            total_D, second = total_D + part.total_D, second + part.second
        return cls(count=count, total_D=total_D, second=second)

    @property
    def mean_D(self) -> np.ndarray:
        """[D] float64, correctly rounded; needs an object."""
        return (self.total_D / (self.count << -FINEST)).astype(np.float64)

    @property
    def covariance(self) -> np.ndarray:
        """Variances [D] or covariances [D, D] as `second` is, float64, correctly rounded.

        The sum is divided by the count, which must not be 0.
        """
        is_outer = self.second.ndim == 2
        square = np.multiply.outer(self.total_D, self.total_D) if is_outer else self.total_D**2
        spread = (self.second * self.count << -FINEST) - square
        return (spread / (self.count**2 << -2 * FINEST)).astype(np.float64)


def project(vector_ND: np.ndarray, matrix_DP: np.ndarray) -> np.ndarray:
    """vector_ND @ matrix_DP, float64 [N, P]: a row of the result depends on its vector alone.

    Neither the library nor the other vectors change a bit. The error is at most 2^-50 D times the
    largest number of the vector times that of the matrix's column. D is at most 4096.
    """
    result_NP = np.empty((len(vector_ND), matrix_DP.shape[1]))
    right_P = _exponent(matrix_DP, axis=0)
    rights = list(itertools.islice(_slices(matrix_DP, right_P), 3))
    for part in parts(len(vector_ND), ROWS_AT_ONCE):
        left_B = _exponent(vector_ND[part], axis=1)[:, None]
        sum_BP = np.zeros_like(result_NP[part])
        for i, left_BD in enumerate(itertools.islice(_slices(vector_ND[part], left_B), 3)):
            for j, right_DP in enumerate(rights):
                sum_BP += np.ldexp(left_BD @ right_DP, -BITS * (i + j + 2))
        result_NP[part] = np.ldexp(sum_BP, left_B + right_P)
    return result_NP


def _moments(vector_ND: np.ndarray, outer: bool) -> Moments:
    """The moments of at most ROWS_OF_A_SUM vectors."""
    top = int(_exponent(vector_ND))
    dim = vector_ND.shape[1]
    total = {FINEST: np.zeros(dim, np.int64)}
    second = {FINEST: np.zeros((dim, dim) if outer else dim, np.int64)}
    for part in parts(len(vector_ND), min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // max(dim, 1))):
        vector_BD = vector_ND[part].astype(np.float64)
        slices = list(enumerate(_slices(vector_BD, top), start=1))
        for i, whole_BD in slices:
            _add(total, top - BITS * i, whole_BD.sum(axis=0))
        if not outer:  # the square of a float32 is a float64
            for i, whole_BD in enumerate(_slices(vector_BD * vector_BD, 2 * top), start=1):
                _add(second, 2 * top - BITS * i, whole_BD.sum(axis=0))
            continue
        for (i, left_BD), (j, right_BD) in itertools.combinations_with_replacement(slices, 2):
            product_DD = left_BD.T @ right_BD
            both_DD = product_DD if i == j else product_DD + product_DD.T
            _add(second, 2 * top - BITS * (i + j), both_DD)
    return Moments(count=len(vector_ND), total_D=_total(total), second=_total(second))


def _slices(value: np.ndarray, top: int | np.ndarray) -> Iterator[np.ndarray]:
    """Integers of at most BITS bits; value = the sum of the i-th times 2^(top - BITS i), i from 1.

    Ends where nothing is left; |value| must be below 2^top.
    """
    rest = np.ldexp(value, -top)
    while rest.any():
        rest = np.ldexp(rest, BITS)
        whole = np.rint(rest)
        yield whole
        rest = rest - whole


def _exponent(value: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Smallest exponents e with |value| < 2^e along the axis, or of all."""
    exponent: np.ndarray = np.frexp(np.abs(value).max(axis=axis, initial=0.0))[1]
    return exponent


def _add(sums: dict[int, np.ndarray], exponent: int, whole: np.ndarray) -> None:
    sums[exponent] = sums.get(exponent, 0) + whole.astype(np.int64)


def _total(sums: dict[int, np.ndarray]) -> np.ndarray:
    """One sum in units of 2^FINEST."""
    terms = [_integers(whole, exponent) for exponent, whole in sums.items()]
    return functools.reduce(np.add, terms)


def _integers(whole: np.ndarray, exponent: int) -> np.ndarray:
    """Python integers in units of 2^FINEST of int64 numbers in units of 2^exponent."""
    return whole.astype(object) << (exponent - FINEST)
