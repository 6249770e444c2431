"""When the top of an outlier list is proven: upper bounds in, exact scores for those that matter.

A bound is a score over some of the objects: the k-th or mean of the k smallest distances found.
The exact score is the same float64 function of the k smallest distances of all, which are no
larger one by one; rounded sums of no larger terms in the same order are no larger, so the bound
holds as computed and its stated float error is zero. Yesterday's exact scores, in the same
frozen frame, are such bounds for a survey that has only gained objects.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

FIRST_BLOCK = 64
LARGEST_BLOCK = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """Why the first `num_certified` objects are the exact top of the list."""

    num_certified: int
    num_objects: int
    num_rescored: int
    """Objects whose score was compared with all others."""
    threshold: float | None
    """Exact score of the last certified object; None where nothing is certified."""
    next_bound: float | None
    """Largest bound of all objects that were not re-scored, strictly below the threshold; where
    all were, the best exact score outside the top, at most the threshold. None where none is."""
    score: str
    k: int
    """Neighbors that a score is made of: all others, where there are fewer than asked for."""
    is_cut: bool = False
    """The clock stopped it before the list had its full length: what is certified is proven."""

    def in_words(self) -> str:
        """The proof in one line."""
        kind = f"(k={self.k}, {'mean' if self.score == 'mean' else 'kth'} distance)"
        if self.is_cut:
            return (
                f"stopped by the clock with {self.num_rescored} of {self.num_objects} re-scored: "
                f"the first {self.num_certified} are proven {kind}"
            )
        if self.threshold is None:
            return f"nothing to certify: no object has a neighbor {kind}"
        done = f"exact: {self.num_rescored} of {self.num_objects} re-scored"
        if self.next_bound is None:
            return f"{done}, all of them in the top {self.num_certified} {kind}"
        if self.num_rescored < self.num_objects:
            relation = f"next bound {self.next_bound:.6g} < threshold {self.threshold:.6g}"
        else:
            sign = "<" if self.next_bound < self.threshold else "="
            relation = f"next score {self.next_bound:.6g} {sign} threshold {self.threshold:.6g}"
        return f"{done}, {relation} {kind}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certified:
    """Scores after certification; rows in the order that they came in."""

    score_N: np.ndarray
    """[N] float64; exact where `is_exact_N`, else an upper bound; NaN without any neighbor."""
    is_exact_N: np.ndarray
    """[N] bool."""
    certified_N: np.ndarray
    """[N] bool, proven to be in the exact top."""
    rank_N: np.ndarray
    """[N] int64 from 1: descending score, ties in row order, no score last."""
    proof: Proof


def certify_top(
    score_N: np.ndarray,
    is_exact_N: np.ndarray,
    rescore: Callable[[np.ndarray], np.ndarray],
    *,
    top: int,
    k: int,
    score: str,
    is_late: Callable[[], bool] = lambda: False,
) -> Certified:
    """Re-scores objects in descending order of their bound until the top is proven.

    score_N     [N]  upper bounds, infinite where too few neighbors are known; NaN: no score
    is_exact_N  [N]  True where the bound is the exact score already
    rescore          rows [B], ascending, to their exact scores [B]
    is_late          asked before each block; True ends the work, and the top is what is proven

    Stops where the largest bound not re-scored is strictly below the `top`-th best exact score,
    so ties at the border are all exact; they are ranked in row order, which must be the order of
    `object_id`. Raises RuntimeError where an exact score lies above its bound.
    """
    score_N, is_exact_N = score_N.astype(np.float64), is_exact_N.copy()
    num_top = min(top, int((~np.isnan(score_N)).sum()))
    todo_N = np.flatnonzero(~is_exact_N & ~np.isnan(score_N))
    todo_N = todo_N[_descending(score_N[todo_N])]
    num_infinite = int(np.isinf(score_N[todo_N]).sum())  # no threshold spares them
    size = max(FIRST_BLOCK, num_top)
    threshold = _best(score_N[is_exact_N], num_top)
    is_cut = False
    while len(todo_N) and score_N[todo_N[0]] >= threshold:
        if is_cut := is_late():
            break
        # Who is searched in any case takes some of the highest bounds along, which often spares
        # a block: over partitions each block reads all of them.
        most = num_infinite + FIRST_BLOCK if num_infinite else size
        block = todo_N[: min(most, LARGEST_BLOCK)]
        block = np.sort(block[score_N[block] >= threshold])
        todo_N = todo_N[len(block) :]
        score_N[block] = _checked(rescore(block), score_N[block], block)
        is_exact_N[block] = True
        threshold = _best(score_N[is_exact_N], num_top)
        if num_infinite:
            num_infinite = max(num_infinite - len(block), 0)
        else:
            size = min(2 * size, LARGEST_BLOCK)
    if is_cut:
        num_top = int((score_N[is_exact_N] > score_N[todo_N[0]]).sum())
        threshold = _best(score_N[is_exact_N], num_top)
    return _certified(score_N, is_exact_N, todo_N, threshold, num_top, is_cut, score=score, k=k)


def _certified(
    score_N: np.ndarray,
    is_exact_N: np.ndarray,
    todo_N: np.ndarray,
    threshold: float,
    num_top: int,
    is_cut: bool,
    *,
    score: str,
    k: int,
) -> Certified:
    """Ranks and the proof; `todo_N` are the rows left, by descending bound."""
    order_N = _descending(score_N)
    rank_N = np.empty(len(score_N), np.int64)
    rank_N[order_N] = np.arange(1, len(score_N) + 1)
    outside = score_N[todo_N] if len(todo_N) else score_N[order_N[num_top:]]
    outside = outside[~np.isnan(outside)]
    next_bound = float(outside[0]) if len(outside) and np.isfinite(outside[0]) else None
    proof = Proof(
        num_certified=num_top,
        num_objects=len(score_N),
        num_rescored=int(is_exact_N.sum()),
        threshold=float(threshold) if num_top else None,
        next_bound=next_bound,
        score=score,
        k=neighbors_used(k, len(score_N)),
        is_cut=is_cut,
    )
    return Certified(
        score_N=score_N,
        is_exact_N=is_exact_N,
        certified_N=rank_N <= num_top,
        rank_N=rank_N,
        proof=proof,
    )


def _descending(score_N: np.ndarray) -> np.ndarray:
    """Rows by descending score, ties in row order, NaN last; a stable sort takes longer.

    Scores are not negative.
    """
    key_N = np.where(np.isnan(score_N), 1.0, -score_N)
    order_N = np.argsort(key_N)
    is_next_N = key_N[order_N[1:]] == key_N[order_N[:-1]]
    tied_T = np.flatnonzero(np.append(is_next_N, False) | np.append(False, is_next_N))
    some_T = order_N[tied_T]
    order_N[tied_T] = some_T[np.lexsort((some_T, key_N[some_T]))]
    return order_N


def neighbors_used(k: int, num_objects: int) -> int:
    """How many neighbors a score is made of, where k are asked for among so many objects."""
    return max(1, min(k, num_objects - 1))


def score_of(distance_BK: np.ndarray, score: str) -> np.ndarray:
    """Score of each row of distances, nearest first: the last one (`kth`) or their `mean`.

    Infinite where a neighbor was not found (NaN), NaN where K is 0.
    """
    if distance_BK.shape[1] == 0:
        return np.full(len(distance_BK), np.nan)
    if score == "kth":
        return np.nan_to_num(distance_BK[:, -1], nan=np.inf)
    total_B = np.zeros(len(distance_BK))
    for distance_B in distance_BK.T:  # one fixed order, so that a bound stays a bound
        total_B += distance_B
    return np.nan_to_num(total_B / distance_BK.shape[1], nan=np.inf)


def _best(score_N: np.ndarray, num_top: int) -> float:
    """The `num_top`-th largest score; minus infinity while there are fewer."""
    score_N = score_N[~np.isnan(score_N)]
    if num_top == 0:
        return np.inf
    if len(score_N) < num_top:
        return -np.inf
    return float(np.partition(score_N, len(score_N) - num_top)[len(score_N) - num_top])


def _checked(exact_B: np.ndarray, bound_B: np.ndarray, row_B: np.ndarray) -> np.ndarray:
    broken = np.flatnonzero(~(exact_B <= bound_B))
    if broken.size:
        raise RuntimeError(
            f"the bound {bound_B[broken[0]]} of row {row_B[broken[0]]} is below its exact score "
            f"{exact_B[broken[0]]} ({broken.size} such rows of {len(row_B)}), expected an upper "
            "bound; nothing can be certified from these bounds"
        )
    return exact_B
