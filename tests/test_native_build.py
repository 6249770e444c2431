"""setup.py: what it compiles, leaves out, refuses and says, on a small tree of its own."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "setup.py"
PYPROJECT = '[project]\nname = "small"\nversion = "1"\n[tool.setuptools]\npackages = []\n'
ISA = """
#include "isa.h"
extern "C" __attribute__((visibility("default"))) int isa() {
#if defined(ASTRORAY_HAVE_AVX512FP16)
  return FP16;
#elif defined(ASTRORAY_HAVE_AVX512)
  return 512;
#else
  return 0;
#endif
}
"""

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)


@pytest.fixture
def tree(tmp_path):
    pytest.importorskip("setuptools.command.bdist_wheel", reason="setuptools is missing or old")
    shutil.copy(SETUP, tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    native = tmp_path / "kernels/astroray_kernels/native"
    native.mkdir(parents=True)
    (native / "isa.h").write_text("enum { FP16 = 516 };\n")
    (native / "dispatch.cpp").write_text(ISA)
    (native / "a_avx512fp16.cpp").write_text("static int unused_here = 0; int *p = &unused_here;")
    return tmp_path


def build(tree, **variables):
    """Runs the build; gives the exit code, what was said, and where the library is, if any."""
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", "out"],
        cwd=tree,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, tree / "out/astroray_kernels"


def compiler_that_refuses(tree, pattern):
    """The compiler at hand behind a script that knows no arguments of that pattern."""
    real = next(path for name in ("c++", "g++", "clang++") if (path := shutil.which(name)))
    script = tree / "old-c++"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *{pattern}*) echo "unknown {pattern}" >&2; exit 1;; esac\n'
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


@needs_compiler
def test_a_source_whose_flags_are_unknown_is_left_out_and_the_rest_is_built(tree):
    code, said, folder = build(tree, CXX=compiler_that_refuses(tree, "-mavx512fp16"))
    assert code == 0
    assert "*_avx512fp16.cpp are left out" in said
    assert ctypes.CDLL(str(folder / "_native_kernels.so")).isa() == 0


@needs_compiler
def test_the_dispatching_source_is_told_what_is_compiled(tree):
    code, said, folder = build(tree)
    if "left out" in said:
        pytest.skip("this compiler has no AVX-512 FP16")
    assert code == 0, said
    assert ctypes.CDLL(str(folder / "_native_kernels.so")).isa() == 516


@needs_compiler
def test_a_source_that_does_not_compile_leaves_no_library_and_says_so(tree):
    folder = tree / "out/astroray_kernels"
    folder.mkdir(parents=True)
    (folder / "_native_kernels.so").write_text("of an earlier build")
    (tree / "kernels/astroray_kernels/_native_kernels.so").write_text("of an earlier build")
    (tree / "kernels/astroray_kernels/native/bad.cpp").write_text("int f() { return missing; }")
    code, said, _ = build(tree)
    assert code == 0
    assert "WITHOUT its native kernels" in said
    assert "missing" in said
    assert not list(tree.rglob("*.so"))


def test_without_a_compiler_the_build_goes_on_unless_native_kernels_are_required(tree):
    code, said, folder = build(tree, CXX="/nowhere/c++")
    assert code == 0
    assert "the compiler CXX=/nowhere/c++ was not found" in said
    assert not list(folder.glob("*"))
    code, said, _ = build(tree, CXX="/nowhere/c++", ASTRORAY_REQUIRE_NATIVE="1")
    assert code != 0
    assert "error: the compiler CXX=/nowhere/c++ was not found" in said


@needs_compiler
def test_a_compiler_for_other_cpus_builds_nothing_says_so_in_a_line_and_goes_on(tree):
    real = next(path for name in ("c++", "g++", "clang++") if (path := shutil.which(name)))
    code, said, folder = build(tree, CXX=f"{real} -U__x86_64__")
    assert code == 0
    assert "they are for x86-64 CPUs" in said
    assert "left out" not in said
    assert not list(folder.glob("*"))
    assert build(tree, CXX=f"{real} -U__x86_64__", ASTRORAY_REQUIRE_NATIVE="1")[0] != 0
