"""What is known of a stored array before its numbers are read, whatever the format of its file."""

import dataclasses
import math

import numpy as np

__all__ = ["ArrayHeader"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayHeader:
    """Shape and type of a stored array, read without its numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool = False
    unit: str = ""
    """As the file states it; empty where it does not."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the numbers, unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize
