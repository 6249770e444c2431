"""The native library that the installation compiled: where it is, what it can do on this CPU."""

import ctypes
import functools
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch  # before the library, so that both share one OpenMP runtime

LIBRARY = Path(__file__).parent / "_native_kernels.so"

# Codes of native/dispatch.cpp, and what the library's functions return when there is no memory.
HAS_AVX512, HAS_BFLOAT16, HAS_FLOAT16, IS_AMD = 1, 2, 4, 8
NO_MEMORY = 1

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Types of tensors that native code takes, as native/vfa.h and native/osc.h number them."""


def why_not(device: torch.device, name: str) -> str:
    """Why the library's function `name` cannot run on that device, in words; "" where it can."""
    if device.type != "cpu":
        return f"native code runs on a CPU, not on {device.type}"
    if not LIBRARY.is_file():
        return (
            "it was not built when astroray was installed: no C++ compiler was found, or it "
            "failed; install g++ and run pip install again"
        )
    try:
        found = features()
    except OSError as error:
        return f"{LIBRARY.name} cannot be loaded ({error}); run pip install again on this machine"
    if not found & HAS_AVX512:
        return f"this {platform.machine()} CPU has no AVX-512 with VNNI and VBMI2"
    if not hasattr(_loaded(), name):
        return f"{LIBRARY.name} is of an older installation; run pip install again"
    return ""


@functools.cache
def function(
    name: str,
    *arguments: type,
    result: type[ctypes.c_int32] | type[ctypes.c_int64] = ctypes.c_int32,
) -> Callable[..., int]:
    """A function of the library by the types of its arguments. Other threads run meanwhile."""
    found = getattr(_loaded(), name)
    found.argtypes, found.restype = arguments, result
    return found


@functools.cache
def features() -> int:
    """What this CPU has and the library was compiled for: HAS_AVX512 and so on, added up."""
    return function("astroray_features")()


def value_format() -> str:
    """The 16-bit numbers that this CPU multiplies fast, bfloat16 or float16; else float32.

    vdpbf16ps runs at half the speed of float32 on Intel, which has float16 since Sapphire Rapids.
    """
    found = features()
    if found & HAS_BFLOAT16 and found & IS_AMD:
        return "bfloat16"
    return "float16" if found & HAS_FLOAT16 else "float32"


@functools.cache
def _loaded() -> ctypes.CDLL:
    return ctypes.CDLL(os.fspath(LIBRARY))
