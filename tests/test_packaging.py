"""What is installed, and what is handed on as source, is whole."""

import fnmatch
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE = ("__pycache__", "*.so", "*.pyc", "*.egg-info", "build", "dist", "runs", ".venv", ".*_cache")
FILES = (
    ".dockerignore", ".gitignore", ".rayignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
    "MANIFEST.in", "Makefile", "README.md", "constraints.txt", "pyproject.toml", "setup.py",
)  # fmt: skip
FOLDERS = (".ci", "astroray", "benchmarks", "cluster", "docs", "jobs", "kernels", "tests")
TRITON_OF_TORCH = {"2.13.0": "3.7.1", "2.14.1": "3.8.0"}
"""What torch of PyPI requires to the letter, but its build for CPUs does not."""
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def test_every_file_that_a_module_reads_beside_it_is_in_the_wheel():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = package_data["package-data"]
    for path in (ROOT / "astroray").rglob("*"):
        if "__pycache__" not in path.parts and path.is_file() and path.suffix != ".py":
            package = ".".join(path.parent.relative_to(ROOT).parts)
            found = patterns.get(package, [])
            assert any(fnmatch.fnmatch(path.name, one) for one in found), path


def test_an_sdist_holds_the_checkout(tmp_path):
    pytest.importorskip("setuptools.command.bdist_wheel", reason="setuptools is missing or old")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns(*MADE))
    for name in FILES:
        shutil.copy(ROOT / name, checkout)
    there = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    (checkout / "cluster/tokens.json").write_text("secret")
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    subprocess.run(command, cwd=checkout, capture_output=True, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert there - held == set()
    made = ("PKG-INFO", "setup.cfg")
    assert {name for name in held - there if ".egg-info/" not in name} <= set(made)


def test_constraints_name_the_triton_that_torch_of_pypi_asks_for():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned["triton"] == TRITON_OF_TORCH[pinned["torch"]]
