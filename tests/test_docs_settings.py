"""The page of all settings says what the code says: it is made of the settings themselves.

`python -m tests.test_docs_settings > docs/settings.md` writes it anew.
"""

import ast
import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from astroray.config import ScanConfig
from astroray.settings import UNTOLD
from astroray.surveys.array_layouts import ArrayOptions
from astroray.surveys.fields import FieldOptions
from astroray.surveys.fits_cutouts import FitsCutoutOptions
from astroray.surveys.light_curves import LightCurveOptions
from astroray.surveys.object_tables import TableOptions
from astroray.surveys.parquet_columns import ParquetOptions
from astroray.surveys.pictures import PictureOptions
from astroray.surveys.simulated import _Options as SimulatedOptions
from astroray.surveys.simulated_spectra import SimulatedSpectrumOptions
from astroray.surveys.spectra import SpectrumOptions
from astroray.web.serve_config import ServeConfig

PATH = Path(__file__).parents[1] / "docs" / "settings.md"

INTRODUCTION = """\
# All settings

Give a setting as `--set search.k=20`, in the YAML file of `--config`, or as
`settings={"search.k": 20}` [from Python](python.md). Flags override the file, and the file
overrides the defaults. Give an option of a survey after its question mark:
`'images/*.fits?size=64&bands=g,r,i'`. A setting that is unknown or out of range is refused
before anything is read, with what was expected. This page is written from the code by
`python -m tests.test_docs_settings`.
"""
SURVEYS = {
    "Pictures (jpg, png), `format=pictures`": PictureOptions,
    "Arrays (npy, npz, HDF5, FITS tables), `format=arrays`": ArrayOptions,
    "FITS cutouts, `format=fits_cutouts`": FitsCutoutOptions,
    "FITS fields, `format=fields`": FieldOptions,
    "Parquet and HATS, `format=tables`": ParquetOptions,
    "Light curves, `format=light_curves`": LightCurveOptions,
    "Spectra, `format=spectra`": SpectrumOptions,
    "sim:galaxies": SimulatedOptions,
    "sim:spectra": SimulatedSpectrumOptions,
}
HIDDEN = {"survey", "out", "run_dir", "format"}
"""Named by the command itself, or in a heading."""


def meanings(cls: type) -> dict[str, str]:
    """What stands below each field of a dataclass, in one line."""
    (node,) = ast.parse(inspect.cleandoc(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def rows(settings: Any, *, without: type | None = None, path: str = "") -> Iterator[str]:
    """A line of a table for each setting, those of sections below their name."""
    said = {
        name: text for cls in type(settings).__mro__[:-1] for name, text in meanings(cls).items()
    }
    hints = typing.get_type_hints(type(settings))
    known = {field.name for field in dataclasses.fields(without)} if without else set()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from rows(value, path=f"{path}{field.name}.")
        elif field.name not in HIDDEN | known and field.metadata != UNTOLD:
            default = "" if value in (None, "") else f"`{str(value).lower()}`"
            choices = typing.get_args(hints[field.name])
            text = said.get(field.name, "")
            if typing.get_origin(hints[field.name]) is typing.Literal:
                text = f"{', '.join(f'`{one}`' for one in choices)}. {text}".strip()
            text = text.replace("|", "\\|")
            yield f"| `{path}{field.name}` | {default} | {text} |"


def page() -> str:
    """The page."""
    head = "| setting | default | meaning |\n|---|---|---|\n"
    table = {field.name for field in dataclasses.fields(TableOptions)}
    blocks = [
        ("## A scan", rows(ScanConfig(survey="hdf", out="run"))),
        ("## `astroray serve`", rows(ServeConfig(run_dir="run"))),
        ("## Options of a survey\n\n### The table beside pictures, arrays and FITS cutouts",
         rows(TableOptions())),
    ]  # fmt: skip
    for name, cls in SURVEYS.items():
        shares = (
            TableOptions if table <= {field.name for field in dataclasses.fields(cls)} else None
        )
        blocks.append((f"### {name}", rows(cls(), without=shares)))
    parts = [f"{title}\n\n{head}" + "".join(f"{row}\n" for row in lines) for title, lines in blocks]
    return "\n".join([INTRODUCTION, *parts])


def test_the_page_of_all_settings_is_that_of_the_code():
    assert PATH.read_text() == page(), "python -m tests.test_docs_settings > docs/settings.md"


def test_every_setting_says_what_it_means():
    assert [line for line in page().splitlines() if line.endswith("|  |")] == []


if __name__ == "__main__":
    sys.stdout.write(page())
