"""Rules of the code base that no linter knows."""

import ast
import functools
import os
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

import astroray
import astroray_kernels
from astroray.cli import cli

ROOT = Path(__file__).parents[1]
VAGUE = {"utils", "helpers", "common", "base", "manager", "misc"}


@functools.cache
def texts() -> dict[Path, str]:
    """What the source files say."""
    return {
        path: path.read_text()
        for folder in ("astroray", "jobs", "kernels")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".cpp", ".h")
    }


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Those in Python, parsed."""
    return {path: ast.parse(text) for path, text in texts().items() if path.suffix == ".py"}


def test_files_are_short_and_say_what_they_decide():
    for path, text in texts().items():
        assert text.count("\n") <= 400, f"{path}: split it, a file owns one decision"
        assert path.stem not in VAGUE, path
        if path.suffix == ".py":
            assert ast.get_docstring(trees()[path]), f"{path}: a file opens with one sentence"
        else:
            assert text.startswith(("//", "/*")), f"{path}: a file opens with one sentence"


def test_functions_are_at_most_60_lines_and_triton_kernels_120():
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                is_kernel = any("jit" in ast.unparse(line) for line in node.decorator_list)
                limit = 120 if is_kernel else 60
                assert (node.end_lineno or 0) - node.lineno <= limit, f"{path}: {node.name}"


def test_no_file_was_committed_by_mistake():
    """Such as a run whose folder is the text of an object, or what belongs beside the project."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    strange = [name for name in listed.stdout.splitlines() if not re.fullmatch(r"[\w./-]+", name)]
    assert not strange


def test_the_version_is_in_one_place_and_in_the_changelog():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == astroray.__version__
    assert f"## [{astroray.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_can_be_imported():
    for package in (astroray, astroray_kernels):
        for name in package.__all__:
            assert getattr(package, name).__doc__


def test_a_system_that_is_neither_linux_nor_macos_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(ImportError, match="this is 'nt'; on Windows install it in WSL"):
        runpy.run_path(astroray.__file__)


def test_the_flags_of_a_scan_are_frozen():
    command = cli.commands["scan"]
    flags = sorted(p.opts[-1] for p in command.params if isinstance(p, click.Option))
    assert flags == [
        "--config",
        "--encoder",
        "--k",
        "--max-rejected",
        "--out",
        "--set",
        "--top",
        "--train-workers",
        "--workers",
    ]


def test_every_dependency_is_pinned_for_ci():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = set(extras) - {"gpu"}
    wanted = [*project["dependencies"], *(text for extra in used for text in extras[extra])]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    names = {text.partition(">")[0].partition("[")[0].strip().lower() for text in wanted} - {
        "astroray"
    }
    assert names <= pinned, names - pinned


def test_every_module_has_its_place_in_the_layers():
    """import-linter says nothing of a module that no layer names."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (one["layers"] for one in settings["contracts"] if one["name"] == "Layers")
    named = {name.strip() for layer in layers for name in layer.split(":")}
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in trees()
        if path.is_relative_to(ROOT / "astroray") and path.name != "__init__.py"
    }
    above = {name: {name[: end.start()] for end in re.finditer(r"\.|$", name)} for name in modules}
    assert not {name for name in modules if not above[name] & named}


def test_only_serving_imports_ray_serve():
    imports = {
        (path.name, line)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in ast.unparse(node).splitlines()
        if "ray.serve" in line or line == "from ray import serve"
    }
    assert {name for name, _ in imports} == {"serving.py"}


def test_text_in_figures_and_plurals_have_one_home_each():
    package = ROOT / "astroray"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.suffix in (".py", ".jinja")
        and re.search(
            r"<text (class|x|y|\{)|[\"']s[\"'] (if|\*)|else [\"']s[\"']", path.read_text("utf-8")
        )
    }
    assert found == {"templates/svg.py"}
