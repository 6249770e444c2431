"""Native code limited to the instructions of a lesser CPU."""

import contextlib

import pytest

from astroray_kernels import dispatch, library

SETS = ("amx", "avx2") if library.instructions() == "avx512" else ("amx",)
"""What native code is limited to so that each width of vectors runs that this CPU has."""


@contextlib.contextmanager
def limited_to(instructions):
    """Native code has these instructions and no wider ones; afterwards what it had before."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(library.INSTRUCTIONS, instructions)
            library.features.cache_clear()
            dispatch._auto.cache_clear()
            yield
    finally:
        library.features.cache_clear()
        dispatch._auto.cache_clear()
