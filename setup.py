"""How the native kernels are compiled; without a C++ compiler they are left out.

All else about the package is in pyproject.toml. The kernels are one shared library with a plain C
interface, loaded by ctypes, so that one wheel serves every Python. Which instructions run is
decided when the library runs, not here: nothing is compiled for the machine that builds.

    CXX                        the compiler; else c++, g++ or clang++, the first that is found
    ASTRORAY_REQUIRE_NATIVE=1  a failure is an error instead of a warning
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = Path("kernels/astroray_kernels/native")
LIBRARY = Path("astroray_kernels/_native_kernels.so")

# No -march=native: the wheel must not depend on the machine that builds it. No -ffast-math: it
# takes NaN and infinity for impossible, and the certificate of a row rests on them. Products and
# sums are fused only where the code says so, so that every compiler rounds alike.
FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-fno-math-errno"),
    "-ffp-contract=off",
    # gcc 12 takes the "undefined" values in its own header of the intrinsics for a mistake.
    *("-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
]

_AVX512 = [
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
    *("-mavx512vnni", "-mavx512vbmi", "-mavx512vbmi2", "-mprfchw"),
]
# What a source file gets on top, by the end of its name. A compiler that does not know the flags
# leaves the file out; the others are compiled with -DASTRORAY_HAVE_AVX512 and so on for each end
# that is in.
FLAGS_BY_SUFFIX = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": _AVX512,
    "_avx512bf16": [*_AVX512, "-mavx512bf16"],
    "_avx512fp16": [*_AVX512, "-mavx512fp16"],
    "_amx": [*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
}


class NativeKernels(build_ext):
    """Compiles native/*.cpp in parallel and links them to one library; all of it, every time."""

    def build_extensions(self) -> None:
        target = Path(self.build_lib, LIBRARY)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                self._build(Path(scratch), target)
        except CompileError as error:
            if os.environ.get("ASTRORAY_REQUIRE_NATIVE") == "1":
                raise
            # A library of an earlier build would be of other sources.
            Path("kernels", LIBRARY).unlink(missing_ok=True)
            line = "*" * 79
            self.warn(
                f"\n{line}\nastroray is built WITHOUT its native kernels, so attention on a CPU is "
                f"torch's own:\n{error}\n{line}"
            )

    def get_ext_filename(self, fullname: str) -> str:
        return str(LIBRARY) if fullname == self.extensions[0].name else LIBRARY.name

    def _build(self, scratch: Path, target: Path) -> None:
        compiler = _compiler()
        if not _builds_for_x86(compiler, scratch):
            raise CompileError(
                f"they are for x86-64 CPUs, and {shlex.join(compiler)} compiles for others; "
                "torch and FAISS run instead"
            )
        known = {
            suffix: _knows(compiler, flags, scratch) for suffix, flags in FLAGS_BY_SUFFIX.items()
        }
        sources = [Path(name) for name in self.extensions[0].sources]
        present = {_suffix(source) for source in sources}
        macros = []
        for suffix, reason in known.items():
            if suffix in present and not reason:
                macros.append(f"-DASTRORAY_HAVE{suffix.upper()}")
            elif suffix in present:
                self.warn(f"native kernels *{suffix}.cpp are left out: {reason}")
        compiled = [source for source in sources if not known.get(_suffix(source))]
        if not compiled:
            raise CompileError(f"there is nothing to compile in {NATIVE}")
        objects = [str(scratch / f"{source.stem}.o") for source in compiled]
        commands = []
        for source, object_file in zip(compiled, objects, strict=True):
            flags = [*FLAGS, *FLAGS_BY_SUFFIX.get(_suffix(source), []), *macros]
            commands.append([*compiler, *flags, "-c", str(source), "-o", object_file])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        _run([*compiler, "-shared", "-fopenmp", *objects, "-o", str(target)])


class OneWheelForAllPythons(bdist_wheel):
    """Tags the wheel py3-none-<platform>, and py3-none-any where the library is not in it."""

    def get_tag(self) -> tuple[str, str, str]:
        library = Path(self.get_finalized_command("build_ext").build_lib, LIBRARY)
        return ("py3", "none", super().get_tag()[2] if library.exists() else "any")


def _compiler() -> list[str]:
    named = os.environ.get("CXX")
    for command in [named] if named else ["c++", "g++", "clang++"]:
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise CompileError(
        f"the compiler CXX={named} was not found"
        if named
        else "no C++ compiler was found (c++, g++, clang++); install one, as with apt install g++"
    )


def _suffix(source: Path) -> str:
    return next((suffix for suffix in FLAGS_BY_SUFFIX if source.stem.endswith(suffix)), "")


def _knows(compiler: list[str], flags: list[str], scratch: Path) -> str:
    empty = scratch / "empty.cpp"
    empty.touch()
    try:
        _run([*compiler, *flags, "-fsyntax-only", str(empty)])
    except CompileError as error:
        return str(error)
    return ""


def _builds_for_x86(compiler: list[str], scratch: Path) -> bool:
    probe = scratch / "x86.cpp"
    probe.write_text("#ifndef __x86_64__\n#error\n#endif\n")
    command = [*compiler, "-fsyntax-only", str(probe)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{shlex.join(command)} failed:\n{done.stderr.strip()}")
    sys.stderr.write(done.stderr)  # the compiler's warnings


setup(
    ext_modules=[
        Extension(
            "astroray_kernels._native_kernels",
            sources=sorted(str(path) for path in NATIVE.glob("*.cpp")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            optional=True,
        )
    ],
    cmdclass={"build_ext": NativeKernels, "bdist_wheel": OneWheelForAllPythons},
)
