"""How the result of attention lies in memory, the same for every backend and for compilers."""

from torch import Tensor

__all__ = ["empty_result", "laid_out"]


def empty_result(q_BHND: Tensor) -> Tensor:
    """An unwritten [B, H, N, D]: contiguous, or a token's heads side by side as in q.

    A layer that joins the heads of a token again then copies nothing.
    """
    batch, heads, length, dim = q_BHND.shape
    if q_BHND.stride(1) < q_BHND.stride(2):
        return q_BHND.new_empty((batch, length, heads, dim)).transpose(1, 2)
    return q_BHND.new_empty((batch, heads, length, dim))


def laid_out(result_BHND: Tensor, q_BHND: Tensor) -> Tensor:
    """The result as `empty_result` has it, itself where it lies so."""
    out_BHND = empty_result(q_BHND)
    return result_BHND if result_BHND.stride() == out_BHND.stride() else out_BHND.copy_(result_BHND)
