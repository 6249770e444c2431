"""The native library that the installation compiled: where it is, what it can do on this CPU."""

import ctypes
import functools
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch  # before the library, so that both share one OpenMP runtime

LIBRARY = Path(__file__).parent / "_native_kernels.so"

# Codes of native/features.h, and what the library's functions return when there is no memory.
HAS_AVX512, HAS_BFLOAT16, HAS_FLOAT16, IS_AMD, HAS_AVX2, HAS_AMX = 1, 2, 4, 8, 16, 32
NO_MEMORY = 1
INTERFACE = 5
"""Of the library's functions, the structures that they take and what these point to, as
native/features.h numbers them: another number is of another version."""

INSTRUCTIONS = "ASTRORAY_INSTRUCTIONS"
"""An environment variable for tests: instructions beyond those it names are not used."""
ALLOWED = {"amx": ~0, "avx512": ~HAS_AMX, "avx2": IS_AMD | HAS_AVX2, "none": IS_AMD}
TILED = ("vfa_attention", "osc_linear", "osc_mlp")
"""Operations that AMX's tiles multiply for, where the CPU has them."""
_WORDS = {
    HAS_AVX2: "AVX2 with FMA and F16C",
    HAS_AVX512: "AVX-512 with VNNI, VBMI and VBMI2",
}

X86 = ("x86_64", "amd64")
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Types of tensors that native code takes, as native/vfa.h and native/osc.h number them."""


_pid = os.getpid()
"""Of the process that loaded this module; another one was forked from it."""


def why_not(device: torch.device, needs: int = HAS_AVX512 | HAS_AVX2) -> str:
    """Why the library cannot run on that device, in words; "" where it can.

    needs  features, one of which it must have
    """
    if device.type != "cpu":
        return f"native code runs on a CPU, not on {device.type}"
    if not LIBRARY.is_file():
        if platform.machine().lower() not in X86:
            return f"the native code is for x86-64 CPUs, and this one is {platform.machine()}"
        return (
            "it was not built when astroray was installed: no C++ compiler was found, or it "
            "failed; install g++ and run pip install again"
        )
    try:
        interface = _interface()
    except OSError as error:
        return f"{LIBRARY.name} cannot be loaded ({error}); run pip install again on this machine"
    if interface != INTERFACE:
        return (
            f"{LIBRARY.name} is of another version: its interface is {interface or 'older'}, "
            f"expected {INTERFACE}; run pip install again, or in a checkout "
            "python setup.py build_ext --inplace"
        )
    if not features() & needs:
        return _lacking(HAS_AVX2 if needs & HAS_AVX2 else HAS_AVX512)
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
    """What this CPU has and the library was compiled for: HAS_AVX512 and so on, added up.

    Without what the environment variable `INSTRUCTIONS` forbids.
    Raises ValueError where that is none of `ALLOWED`.
    """
    limit = os.environ.get(INSTRUCTIONS) or "amx"
    if limit not in ALLOWED:
        raise ValueError(
            f"the environment has {INSTRUCTIONS}={limit}, expected one of {', '.join(ALLOWED)}; "
            "unset it to use all that the CPU has"
        )
    return function("astroray_features")() & ALLOWED[limit]


def instructions() -> str:
    """The widest vectors that native code uses here: avx512, avx2, or "" where none runs."""
    if not LIBRARY.is_file():
        return ""
    found = features()
    return "avx512" if found & HAS_AVX512 else "avx2" if found & HAS_AVX2 else ""


def path(operation: str = "") -> str:
    """The path of native code that an operation takes here and, where it is not the widest, why."""
    if instructions() == "avx2":
        return f"AVX2, since {_lacking(HAS_AVX512)}"
    has_tiles = operation in TILED and LIBRARY.is_file() and features() & HAS_AMX
    return {"avx512": "AVX-512" + " and AMX" * bool(has_tiles), "": "none"}[instructions()]


def num_threads() -> int:
    """How many threads a call takes: torch's number, and one in a forked process.

    GNU OpenMP, torch's and ours, waits forever there for threads that the fork left behind.
    """
    return torch.get_num_threads() if os.getpid() == _pid else 1


def value_format() -> str:
    """The 16-bit numbers that this CPU multiplies fast, bfloat16 or float16; else float32.

    vdpbf16ps runs at half the speed of float32 on Intel, which has float16 since Sapphire Rapids.
    AVX2 has products of neither.
    """
    found = features()
    if found & HAS_BFLOAT16 and found & IS_AMD:
        return "bfloat16"
    return "float16" if found & HAS_FLOAT16 else "float32"


def _lacking(feature: int) -> str:
    limit = os.environ.get(INSTRUCTIONS)
    if limit:
        return f"{_WORDS[feature]} is needed, and {INSTRUCTIONS}={limit} allows less"
    return (
        f"this {platform.machine()} CPU, or the compiler of the library, has no {_WORDS[feature]}"
    )


@functools.cache
def _interface() -> int:
    """The number of the library's interface; 0 of those that had none."""
    return function("astroray_interface")() if hasattr(_loaded(), "astroray_interface") else 0


@functools.cache
def _loaded() -> ctypes.CDLL:
    return ctypes.CDLL(os.fspath(LIBRARY))
