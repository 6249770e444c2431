"""Native code limited to the instructions of a lesser CPU."""

import contextlib

import pytest

from astroray_kernels import dispatch, library

_WIDEST = {"amx": library.HAS_AMX, "avx512": library.HAS_AVX512, "avx2": library.HAS_AVX2}
_HAS = library.features() if library.instructions() else 0
SETS = tuple(name for name, feature in _WIDEST.items() if _HAS & feature) or ("none",)
"""What native code is limited to so that all of it runs that this CPU can run."""


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
